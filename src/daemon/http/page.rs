//! The page at `/`: one file, readable as it is served, live with its own script and nothing else's.

use crate::proto::amount::Bytes;
use crate::proto::http::response::Response;
use crate::proto::status::{Figure, GenerationStatus, Status, UnitState, UnitStatus, Usage};
use crate::sys::random;
use crate::time::Span;
use std::fmt::Write;

const PAGE: &str = include_str!("page.html");

/// The page, with the units as they are now.
pub fn render(status: &Status) -> Response {
    let nonce = nonce();
    let count = status.units.len();
    let host = escaped(&status.host);
    let title = if host.is_empty() { "aeternad".into() } else { format!("{host} – aeternad") };
    let about = format!(
        "{host}{}{} · pid {} · {count} unit{}",
        if host.is_empty() { "" } else { " · " },
        status.version,
        status.pid,
        if count == 1 { "" } else { "s" }
    );
    let mut units: Vec<&UnitStatus> = status.units.iter().collect();
    units.sort_by_key(|unit| u8::from(unit.state != UnitState::Failed));
    let units: String = units.into_iter().map(section).collect();
    // In a script element only its end tag has a meaning.
    let json = serde_json::to_string(status).unwrap_or_else(|_| "{}".into()).replace('<', "\\u003c");
    // What units bring is put in last and in one pass, so that nothing in it is taken for a place.
    let mut page = String::with_capacity(PAGE.len() + units.len() + json.len());
    let mut rest = PAGE;
    while let Some((at, mark)) = PLACES.iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min() {
        page.push_str(&rest[..at]);
        page.push_str(match mark {
            "%NONCE%" => &nonce,
            "%ABOUT%" => &about,
            "%TITLE%" => &title,
            "%STATUS%" => &json,
            _ => &units,
        });
        rest = &rest[at + mark.len()..];
    }
    page.push_str(rest);
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Response::ok("text/html; charset=utf-8", page).with("Content-Security-Policy", policy)
}

/// Where something is put into the page.
const PLACES: [&str; 5] = ["%NONCE%", "%TITLE%", "%ABOUT%", "%STATUS%", "<!--UNITS-->"];

/// Lets this page's own style and script through, and what somebody may have got into it not.
fn nonce() -> String {
    format!("{:016x}{:016x}", random::bits(), random::bits())
}

/// One unit for a browser without script. Writing to a String cannot fail.
fn section(unit: &UnitStatus) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "<section class=\"card\"><h2>{} <span class=\"pill {}\">{}</span></h2>",
        escaped(&unit.name),
        tone(unit.state),
        unit.state.name().to_lowercase().replace('_', " ")
    );
    let _ = write!(text, "<p>{}</p>", escaped(&unit.description));
    let last = unit.last_reload.as_ref().map_or_else(String::new, |last| {
        let why = if last.reason.is_empty() { String::new() } else { format!(": {}", last.reason) };
        format!(" · last reload {} {} ago{why}", last.outcome.name().replace('_', " "), seconds(last.ago))
    });
    let said = unit.why.is_empty() || unit.last_reload.as_ref().is_some_and(|last| last.reason == unit.why);
    let why = if said { String::new() } else { format!(" · {}", unit.why) };
    let number =
        if unit.generation == 0 { String::new() } else { format!("generation {} · ", unit.generation) };
    let facts = format!("{number}for {}{last}{why}", seconds(unit.since));
    let _ = write!(text, "<p class=\"none\">{}</p>", escaped(&facts));
    for note in &unit.notes {
        let _ = write!(text, "<p class=\"note\">{}</p>", escaped(note));
    }
    generations(&mut text, unit);
    figures(&mut text, unit);
    analysis(&mut text, unit);
    sockets(&mut text, unit);
    text.push_str("</section>\n");
    text
}

fn generations(text: &mut String, unit: &UnitStatus) {
    if unit.generations.is_empty() {
        return;
    }
    text.push_str(
        "<table><caption>Generations</caption><thead><tr><th scope=\"col\">Number<th scope=\"col\">Phase\
         <th scope=\"col\">Age<th scope=\"col\">Pids<th scope=\"col\" title=\"of new connections\">Weight\
         <th scope=\"col\" title=\"of new connections, as measured\">Share\
         <th scope=\"col\" title=\"connections that it still has\">Left</tr></thead><tbody>",
    );
    for generation in &unit.generations {
        let pids: Vec<String> = generation.pids.iter().map(i32::to_string).collect();
        let weight = generation.weight.map_or_else(String::new, |weight| format!("{weight} %"));
        let share = generation.share.map_or_else(String::new, |share| format!("{share:.1} %"));
        let left = generation.connections.map_or_else(String::new, |count| count.to_string());
        let (number, phase, age) = (generation.number, escaped(&generation.phase), seconds(generation.age));
        let pids = pids.join(" ");
        let _ = write!(
            text,
            "<tr><td>{number}<td>{phase}<td>{age}<td class=\"mono\">{pids}<td>{weight}<td>{share}<td>{left}</tr>"
        );
    }
    text.push_str("</tbody></table>");
}

/// What the kernel says of the generations, side by side.
fn figures(text: &mut String, unit: &UnitStatus) {
    let known = |one: &&GenerationStatus| one.usage != Usage::default();
    let all: Vec<&GenerationStatus> = unit.generations.iter().filter(known).collect();
    if all.is_empty() {
        return;
    }
    text.push_str("<table><caption>Figures</caption><thead><tr><th>");
    for one in &all {
        let _ = write!(text, "<th scope=\"col\">{} ({})", one.number, escaped(&one.phase));
    }
    text.push_str("</tr></thead><tbody>");
    let columns: Vec<_> = all.iter().map(|one| one.usage.figures()).collect();
    for (row, (name, _)) in Usage::default().figures().into_iter().enumerate() {
        let cells: Vec<Option<Figure>> = columns.iter().map(|column| column[row].1).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "<tr><th scope=\"row\">{name}");
        for cell in cells {
            let _ = write!(text, "<td>{}", cell.map_or_else(|| "–".into(), written));
        }
        text.push_str("</tr>");
    }
    text.push_str("</tbody></table>");
}

fn written(figure: Figure) -> String {
    match figure {
        Figure::Seconds(seconds) => format!("{seconds:.2} s"),
        Figure::Bytes(count) => Bytes(count).to_string(),
        Figure::Count(count) => count.to_string(),
        Figure::Percent(share) => format!("{share:.1} %"),
    }
}

/// The checks of the soak that is under way.
fn analysis(text: &mut String, unit: &UnitStatus) {
    if unit.analysis.is_empty() {
        return;
    }
    text.push_str(
        "<table><caption>Analysis</caption><thead><tr><th scope=\"col\">Check<th scope=\"col\">Verdict\
         <th scope=\"col\">Looks<th scope=\"col\">Figures</tr></thead><tbody>",
    );
    for check in &unit.analysis {
        let _ = write!(
            text,
            "<tr><td>{}<td>{}<td>{}<td>{}</tr>",
            escaped(&check.name),
            check.verdict.name(),
            check.looks,
            escaped(&check.text)
        );
    }
    text.push_str("</tbody></table>");
}

fn sockets(text: &mut String, unit: &UnitStatus) {
    if unit.sockets.is_empty() {
        return;
    }
    text.push_str(
        "<table><caption>Sockets</caption><thead><tr><th scope=\"col\">Name<th scope=\"col\">Address\
         <th scope=\"col\">Sharing<th scope=\"col\">Waiting<th scope=\"col\">Limit</tr></thead><tbody>",
    );
    for socket in &unit.sockets {
        let number = |value: Option<u32>| value.map_or_else(String::new, |value| value.to_string());
        let _ = write!(
            text,
            "<tr><td>{}<td class=\"mono\">{}<td title=\"{}\">{}<td>{}<td>{}</tr>",
            escaped(&socket.name),
            escaped(&socket.address),
            escaped(&socket.why),
            escaped(&socket.sharing),
            number(socket.queue),
            number(socket.limit)
        );
    }
    text.push_str("</tbody></table>");
}

/// The colour of a state's name.
const fn tone(state: UnitState) -> &'static str {
    match state {
        UnitState::Running | UnitState::Listening => "good",
        UnitState::Starting
        | UnitState::PreChecking
        | UnitState::Handshaking
        | UnitState::Soaking
        | UnitState::Draining => "busy",
        UnitState::Backoff | UnitState::Stopping => "warn",
        UnitState::RollingBack | UnitState::Failed => "bad",
        UnitState::Pending | UnitState::Stopped => "",
    }
}

/// A time for a person, without what does not matter: `3min 12s`.
fn seconds(value: f64) -> String {
    // A status has neither negative nor endless times; a float may.
    Span::from_secs(value.max(0.0) as u64).to_string()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::status::SocketStatus;

    fn evil() -> Status {
        let name = "</script><script>alert(1)</script>%STATUS%<!--UNITS-->\"";
        let socket = SocketStatus {
            name: name.into(),
            address: name.into(),
            kind: "stream".into(),
            sharing: "shared".into(),
            why: name.into(),
            queue: Some(1),
            limit: None,
            repairs: 0,
            flows: None,
            flows_max: None,
            unserved: false,
        };
        let unit = UnitStatus {
            name: name.into(),
            description: name.into(),
            file: String::new(),
            state: UnitState::RollingBack,
            reloading: true,
            why: name.into(),
            since: 192.0,
            generation: 3,
            main_pids: vec![],
            generations: vec![],
            sockets: vec![socket],
            last_reload: None,
            last_handover: None,
            soak_ends_in: None,
            restarts: 0,
            restart_in: None,
            stored_descriptors: 0,
            pending: vec![],
            analysis: vec![],
            releases: Vec::new(),
            last_lines: vec![],
            notes: vec![],
        };
        Status {
            host: "<i>web1</i>".into(),
            version: "1".into(),
            pid: 5,
            stopping: false,
            units: vec![unit],
            single: None,
        }
    }

    #[test]
    fn nothing_that_a_unit_brings_becomes_markup() {
        let page = String::from_utf8(render(&evil()).body).unwrap();
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert!(
            !page.contains("<i>web1") && page.contains("<title>&lt;i&gt;web1&lt;/i&gt; – aeternad</title>")
        );
        assert_eq!(page.matches("<script").count(), 2);
        assert!(page.contains("rolling back</span>") && page.contains("· for 3min 12s"), "{page}");
    }

    #[test]
    fn the_page_lets_only_its_own_script_run_and_loads_nothing_from_elsewhere() {
        let (first, second) = (render(&evil()), render(&evil()));
        let policy = |response: &Response| {
            let field = response.fields.iter().find(|(name, _)| *name == "Content-Security-Policy");
            field.unwrap().1.clone()
        };
        assert_ne!(policy(&first), policy(&second));
        let nonce = policy(&first).split("script-src 'nonce-").nth(1).unwrap()[..32].to_owned();
        let page = String::from_utf8(first.body).unwrap();
        assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        assert!(policy(&second).starts_with("default-src 'none'"));
        for outside in ["src=\"http", "href=\"http", "url(", "@import", " style=\"", " onclick="] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }

    #[test]
    fn every_place_in_the_page_is_filled() {
        for place in PLACES {
            assert!(PAGE.contains(place), "{place}");
        }
    }
}
