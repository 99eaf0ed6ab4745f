//! `OnSuccess` and `OnFailure` of a reload that has ended.

use super::Reload;
use crate::machine::event::{ContentId, Outcome, Proc};
use crate::time::Monotime;
use crate::unit::{Hook, Unit};
use serde::{Deserialize, Serialize};

/// The hooks of one reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HookRun {
    pub(crate) content: ContentId,
    pub(crate) success: bool,
    pub(crate) index: u32,
    pub(crate) environment: Vec<(String, String)>,
    /// `None` until its first command runs.
    pub(crate) running: Option<(Proc, Option<Monotime>)>,
    /// The command that runs got its time again, which nobody had seen pass: once.
    #[serde(default)]
    pub(crate) spared: bool,
}

impl HookRun {
    pub(crate) fn after(reload: &Reload, current: ContentId, outcome: Outcome, reason: &str) -> HookRun {
        let pid = |pid: Option<i32>| pid.map_or(String::new(), |pid| pid.to_string());
        let environment = vec![
            ("AETERNA_RELOAD_OUTCOME".into(), outcome.name().into()),
            ("AETERNA_RELOAD_REASON".into(), reason.into()),
            ("AETERNA_RELOAD_OLD_PID".into(), pid(reload.old_pid)),
            ("AETERNA_RELOAD_NEW_PID".into(), pid(reload.new_pid)),
        ];
        let content = reload.stage.content().unwrap_or(current);
        HookRun {
            content,
            success: outcome == Outcome::Promoted,
            index: 0,
            environment,
            running: None,
            spared: false,
        }
    }

    pub(crate) fn list<'a>(&self, unit: &'a Unit) -> &'a [Hook] {
        if self.success { &unit.reload.on_success } else { &unit.reload.on_failure }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        self.running.and_then(|(_, deadline)| deadline)
    }
}
