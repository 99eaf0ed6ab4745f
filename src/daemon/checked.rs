//! `BinarySHA256`: every process that runs the program whose sum a unit names runs what has that sum. A file is read
//! through once, by a reload's check or by the process itself before it becomes the service's user, and again as soon as
//! anything about it has changed. What was read is what is executed, by its descriptor.

use crate::daemon::launch::{describe, failure};
use crate::daemon::preflight;
use crate::daemon::releases::Release;
use crate::daemon::shared::Shared;
use crate::machine::event::{Role, SpawnFailure};
use crate::sys::pin::{Kind, Pin, Stamp};
use crate::sys::spawn::{ByDescriptor, Checked, Pinned, Process};
use crate::sys::{clock, process};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

/// What a process has to run, or to look at before it runs something else.
#[derive(Debug)]
pub struct Demand {
    pin: Arc<Pin>,
    stamp: Stamp,
    sum: [u8; 32],
    /// To be read; `None`: it is known to have the sum.
    file: Option<File>,
    /// Whether it is what is executed.
    is_program: bool,
}

impl Demand {
    /// What `BinarySHA256` asks of a process, if anything: of the main ones always, of others that run the same program.
    ///
    /// # Errors
    /// The file is not there, or cannot be read.
    pub fn of(
        release: &Release,
        shared: &Shared,
        role: Role,
        program: Option<&Arc<Pin>>,
    ) -> Result<Option<Demand>, SpawnFailure> {
        let unit = &release.unit;
        let Some(sum) = unit.reload.binary_sha256.as_deref().and_then(bytes_of) else { return Ok(None) };
        let fail = |why: String| failure(&unit.name, "check its program", &why, 126);
        let is_main = matches!(role, Role::Main { .. } | Role::Instance(_));
        let wanted = match preflight::found(release, shared) {
            Ok(wanted) => wanted,
            Err(_) if !is_main => return Ok(None),
            Err(why) => return Err(fail(why)),
        };
        let Some(pin) = wanted else { return Ok(None) };
        let is_program = program.is_some_and(|program| program.was().same_file(&pin.was()));
        if !is_main && !is_program {
            return Ok(None);
        }
        // The descriptor that is executed.
        let pin = program.filter(|_| is_program).map_or(pin, Arc::clone);
        let cannot = |error| fail(format!("cannot read {}: {}", pin.name().display(), describe(&error)));
        let stamp = pin.stamp().map_err(cannot)?;
        let file = if pin.is_known_by(&sum, &stamp) { None } else { Some(pin.read().map_err(cannot)?) };
        Ok(Some(Demand { pin, stamp, sum, file, is_program }))
    }

    /// For the process.
    pub fn checked(&self) -> Checked<'_> {
        Checked {
            file: self.file.as_ref().map(AsFd::as_fd),
            sum: self.sum,
            stamp: self.stamp,
            name: CString::new(self.pin.name().as_os_str().as_encoded_bytes()).unwrap_or_default(),
        }
    }

    /// How its program is executed: nothing comes between the check and that.
    pub fn pinned<'a>(demand: Option<&Demand>, pinned: Pinned<'a>) -> Pinned<'a> {
        // A script's interpreter opens a name.
        let checked = demand.is_some_and(|demand| demand.is_program && demand.pin.kind() != Kind::Script);
        Pinned { by: if checked { ByDescriptor::Always } else { pinned.by }, ..pinned }
    }

    /// The process has executed. From here on nobody can write to its program: if nobody has until now, it is known to have
    /// the sum; else what runs may be another, and is ended.
    pub fn executed(demand: Option<&Demand>, unit: &str, process: &Process) {
        let Some(demand) = demand else { return };
        if demand.pin.stamp().is_ok_and(|now| now == demand.stamp) {
            if demand.file.is_some() {
                demand.pin.has_sum(demand.sum, demand.stamp, clock::unix_time());
            }
            return;
        }
        let name = demand.pin.name().display();
        log::error!(
            "{unit}: {name} was changed while it was checked: what pid {} runs may be another program, it is ended",
            process.pid
        );
        let ended = match &process.pidfd {
            Some(pidfd) => process::pidfd_signal(pidfd.as_fd(), SIGKILL),
            None => process::kill(process.pid, SIGKILL),
        };
        if let Err(error) = ended {
            log::error!("{unit}: cannot end pid {}: {}", process.pid, describe(&error));
        }
    }
}

/// SIGKILL.
const SIGKILL: i32 = 9;

/// The bytes of 64 hexadecimal digits.
pub fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
