//! What the doctor has found, as a table.

use super::table::{Table, cell};
use super::{Look, Tone};
use crate::ctl::doctor::{Finding, Verdict};

/// A row for each check; below what is not good, its cost and its cure.
pub(in crate::ctl) fn doctor(findings: &[Finding], look: Look) -> String {
    let mut table = Table::new(&["CHECK", "RESULT", "FOUND"]);
    for finding in findings {
        let (word, tone) = match finding.verdict {
            Verdict::Ok => ("ok", Tone::Good),
            Verdict::Limited => ("limited", Tone::Busy),
            Verdict::Missing => ("missing", Tone::Bad),
        };
        table.row(vec![cell(finding.name), cell(word).tone(tone), cell(&finding.found)]);
        if finding.verdict != Verdict::Ok {
            table.note(&format!("costs: {}", finding.cost));
            table.note(&format!("cure:  {}", finding.cure));
        }
    }
    table.render(look, 0)
}
