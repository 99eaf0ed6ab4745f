//! What the unit's machine remembers: data and questions about it, no rule. The rules import this, never the
//! reverse, and everything here can be stored.

mod analysis;
mod end;
mod generation;
mod handover;
mod health;
mod hooks;
mod kept;
mod quiesce;
mod reload;
mod state;
mod stop;
mod window;
mod worker;

pub(super) use analysis::{Book, Increase, Judged, Judging};
pub(super) use end::{End, Word};
pub(super) use generation::{Generation, Kind, Listens, Phase, StartStep};
pub(super) use handover::Handover;
pub(super) use health::{Health, HealthStep};
pub(super) use hooks::HookRun;
pub(super) use kept::Kept;
pub(super) use quiesce::Quiesce;
pub(super) use reload::{Before, GivenUp, Newcomer, Queued, Reload, Soak, Stage, Step, Telling, Told};
pub(super) use state::{
    Asked, Contents, Course, DirtySlot, Down, Idle, Job, JobKind, JobPhase, Look, Owned, Place, Rest,
    SIGCONT, SIGHUP, SIGKILL, State, Then, Watch,
};
pub(super) use stop::{AfterKill, Clock, StopPlan, StopStep, last_patience};
pub(super) use window::Window;
pub(super) use worker::{Doom, Watchdog, Worker};
