//! `aeternactl releases UNIT`.

use super::table::{Table, cell};
use super::{Look, Tone, bytes, time};
use crate::proto::status::ReleaseStatus;

/// What is kept, oldest last: the one that serves is looked for first.
pub(crate) fn releases(releases: &[ReleaseStatus], look: Look) -> String {
    let mut table = Table::new(&["GENERATION", "SINCE", "RELEASE", "PROGRAM", "STATE"]);
    for release in releases.iter().rev() {
        let number = release.generation.map_or_else(|| "-".into(), |number| number.to_string());
        let state = match (&release.gone, release.state.as_str()) {
            (Some(_), state) => cell(format!("{state}: cannot be gone back to")).tone(Tone::Bad),
            (None, "same") => cell("same"),
            (None, "not held") => cell("not held: runs by its name").tone(Tone::Busy),
            (None, state) => cell(format!("{state}, and kept")).tone(Tone::Busy),
        };
        table.row(vec![
            cell(if release.serves { format!("{number} serving") } else { number.clone() }),
            cell(time::date(release.since)),
            cell(release.release.as_deref().unwrap_or("-")),
            cell(release.program.as_deref().unwrap_or("-")),
            state,
        ]);
        if let Some(gone) = &release.gone {
            table.note(gone);
        }
        if release.held_bytes > 0 {
            let held = bytes(release.held_bytes);
            table.note(&format!("its program has no name any more; {held} are held for it"));
        }
        if release.left {
            table.note(&format!("a rollback has led away from it: rollback --to {number} leads to it"));
        }
    }
    table.render(look, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_comes_first_and_each_says_what_is_to_be_known() {
        let one = ReleaseStatus {
            generation: Some(3),
            serves: false,
            since: 0.0,
            release: Some("/srv/app/releases/40".into()),
            program: Some("/srv/app/releases/40/bin/app".into()),
            state: "removed".into(),
            gone: Some("the release of generation 3, /srv/app/releases/40, has been removed".into()),
            held_bytes: 0,
            left: true,
        };
        let four = ReleaseStatus {
            generation: Some(4),
            serves: true,
            release: Some("/srv/app".into()),
            program: None,
            state: "replaced".into(),
            gone: None,
            held_bytes: 2048,
            left: false,
            ..one.clone()
        };
        let two = ReleaseStatus { generation: Some(2), state: "not held".into(), ..four.clone() };
        let text = releases(&[two], Look { colour: false, width: None });
        assert!(text.contains("  not held: runs by its name\n"), "{text}");
        let text = releases(&[one, four], Look { colour: false, width: None });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("GENERATION  SINCE"), "{text}");
        assert!(lines[1].starts_with("4 serving   "), "{text}");
        assert!(
            lines[1].ends_with("/srv/app              -                             replaced, and kept"),
            "{text}"
        );
        assert_eq!(lines[2].trim(), "its program has no name any more; 2.0 KiB are held for it");
        assert!(lines[3].starts_with("3           "), "{text}");
        assert!(lines[3].ends_with("removed: cannot be gone back to"), "{text}");
        assert!(lines[4].contains("has been removed"), "{text}");
        assert!(lines[5].contains("rollback --to 3 leads to it"), "{text}");
    }
}
