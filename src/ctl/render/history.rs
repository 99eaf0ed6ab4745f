//! `aeternactl history UNIT`.

use super::detail::{phases, rows};
use super::table::{Table, cell};
use super::{Look, bytes, outcome_tone, outcome_words, time, timeline};
use crate::proto::status::{CheckStatus, CheckVerdict, ReloadRecord, Share, UsageOfBoth};

/// The reloads of a unit, oldest first.
pub(crate) fn history(unit: &str, reloads: &[ReloadRecord], look: Look) -> String {
    if reloads.is_empty() {
        return format!("{} has not been reloaded yet.\n", super::clean(unit));
    }
    let wide = table(reloads, Phases::Column);
    let table = if wide.fits(look) { wide } else { table(reloads, Phases::Below) };
    table.render(look, 0) + &timeline::reloads(reloads, look).unwrap_or_default()
}

/// Where the phases of a reload stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phases {
    /// In the last column.
    Column,
    /// In a line of their own, where the terminal is too narrow for that.
    Below,
}

fn table(reloads: &[ReloadRecord], place: Phases) -> Table {
    let head = ["BEGAN", "OUTCOME", "TOOK", "GEN", "STRATEGY", "STATE", "PHASES"];
    let mut table = Table::new(if place == Phases::Column { &head } else { &head[..6] });
    for reload in reloads {
        let mut row = vec![
            cell(time::date(reload.started_at)),
            cell(outcome_words(reload.outcome)).tone(outcome_tone(reload.outcome)),
            cell(time::took(reload.duration)),
            cell(format!("{}→{}", number(reload.old_generation), number(reload.new_generation))),
            cell(&reload.strategy),
            cell(if reload.state_bytes == 0 { "-".into() } else { bytes(reload.state_bytes) }).right(),
        ];
        if place == Phases::Column {
            row.push(cell(phases(&reload.phases)));
        }
        table.row(row);
        if place == Phases::Below && !reload.phases.is_empty() {
            table.note(&phases(&reload.phases));
        }
        if !reload.asked.is_empty() {
            table.note(&format!("asked for: {}", reload.asked));
        }
        let shares: Vec<String> = reload.shares.iter().map(share).collect();
        if !shares.is_empty() {
            table.note(&format!("new connections: {}", shares.join(", ")));
        }
        if let Some(used) = reload.usage.as_deref().and_then(used) {
            table.note(&used);
        }
        for check in &reload.checks {
            table.note(&judged(check));
        }
        if !reload.reason.is_empty() && reload.reason != reload.asked {
            table.note(&reload.reason);
        }
        for line in &reload.last_lines {
            table.note(&format!("| {line}"));
        }
    }
    table
}

/// `processor time 1.20s (old 5.3s), memory 12.0 MiB (old 11.5 MiB)`: what says most of a release.
fn used(usage: &UsageOfBoth) -> Option<String> {
    let old = usage.old.as_ref()?;
    let told = ["processor time", "memory", "threads", "new connections", "killed for memory"];
    let rows = rows(&usage.new, old).into_iter().filter(|(name, ..)| told.contains(name));
    let parts: Vec<String> = rows.map(|(name, new, old)| format!("{name} {new} (old {old})")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// `errors: pass, 0.1 % of 3,040 requests…; from 1.1 % on it would have been noticed`.
fn judged(check: &CheckStatus) -> String {
    let noticed = check.noticed_from.filter(|_| check.verdict != CheckVerdict::Fail);
    let noticed = noticed.map_or(String::new(), |share| {
        format!("; from {:.1} % on it would have been noticed", share * 100.0)
    });
    let text = if check.text.is_empty() { String::new() } else { format!(", {}", check.text) };
    format!("{}: {}{text}{noticed}", check.name, check.verdict.name())
}

/// `10% (9.8% of 5432)`: what was asked for, and what was measured.
fn share(share: &Share) -> String {
    match (share.connections, share.share) {
        (Some(0), _) => format!("{}% (nobody came)", share.weight),
        (Some(all), Some(measured)) => format!("{}% ({measured:.1}% of {all})", share.weight),
        _ => format!("{}%", share.weight),
    }
}

fn number(generation: Option<u32>) -> String {
    generation.map_or("-".into(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::proto::status::{Outcome, Usage};

    const PLAIN: Look = Look { colour: false, width: None };

    #[test]
    fn each_reload_is_a_row_with_its_reasons_below() {
        let promoted = ReloadRecord {
            outcome: Outcome::Promoted,
            reason: String::new(),
            asked: "deploy 4711".into(),
            old_generation: Some(1),
            new_generation: Some(2),
            strategy: "canary".into(),
            started_at: 1_763_660_000.0,
            duration: 2.5,
            phases: samples::phases(),
            checks: vec![],
            usage: Some(Box::new(UsageOfBoth {
                new: Usage { cpu_seconds: Some(1.2), memory: Some(12 << 20), ..Usage::default() },
                old: Some(Usage { cpu_seconds: Some(5.3), ..Usage::default() }),
            })),
            shares: vec![Share::counted(1, 0, 0), Share::counted(10, 5432, 530), Share::uncounted(50)],
            state_bytes: 1_572_864,
            state_frames: 3,
            state_descriptors: 0,
            state_seconds: 0.01,
            last_lines: vec![],
        };
        let failed = ReloadRecord {
            outcome: Outcome::Failed,
            reason: "pre-flight \"check\" exited with status 1".into(),
            asked: String::new(),
            new_generation: None,
            usage: None,
            phases: vec![],
            shares: vec![],
            state_bytes: 0,
            last_lines: vec!["no such\tfile".into()],
            ..promoted.clone()
        };
        let drawn = history("chat", std::slice::from_ref(&promoted), Look { colour: false, width: Some(60) });
        let bar = format!("\n2 {}{}{} 2.50s\n", "·".repeat(2), "▒".repeat(7), "▓".repeat(38));
        assert!(drawn.contains(&bar), "{drawn}");
        assert!(drawn.contains("\n  pre_checking 120ms, starting 380ms, soaking 2.00s\n"), "{drawn}");
        assert_eq!(
            history("chat", &[promoted, failed], PLAIN),
            "\
BEGAN                 OUTCOME   TOOK   GEN  STRATEGY  STATE    PHASES
2025-11-20 17:33:20Z  promoted  2.50s  1→2  canary    1.5 MiB  pre_checking 120ms, starting 380ms, soaking 2.00s
  asked for: deploy 4711
  new connections: 1% (nobody came), 10% (9.8% of 5432), 50%
  processor time 1.20s (old 5.30s), memory 12.0 MiB (old -)
2025-11-20 17:33:20Z  failed    2.50s  1→-  canary          -
  pre-flight \"check\" exited with status 1
  | no such\u{fffd}file
"
        );
    }

    #[test]
    fn no_history_is_said_in_words() {
        assert_eq!(history("chat", &[], PLAIN), "chat has not been reloaded yet.\n");
    }
}
