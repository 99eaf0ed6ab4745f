//! What a generation needs before its first process, and that of the next one made ahead: whoever has reloaded once
//! will do it again, and the file system is then not waited for between the command and the new program.

use crate::daemon::shared::Shared;
use crate::daemon::supervised::{NotifySocket, Supervised};
use crate::machine::event::Gen;
use crate::sys::cgroup::Cgroup;
use crate::sys::message;
use crate::unit::{NotifyAccess, Service, ServiceType};
use std::os::fd::AsFd;

/// The names of one generation in the file system.
#[derive(Debug, Default)]
pub struct Kit {
    /// Its notify socket, if `NotifyAccess` allows anybody.
    pub notify: Option<NotifySocket>,
    /// Its control group, where one could be made.
    pub cgroup: Option<Cgroup>,
}

/// What was made for a generation that is not there yet. Nobody knows of it: neither polled nor told to a process.
#[derive(Debug)]
pub struct Spare {
    /// Whose it will be.
    pub number: Gen,
    /// The user that its socket belongs to.
    pub owner: Option<(u32, u32)>,
    /// What was made.
    pub kit: Kit,
}

/// Whether a start without a notify socket would be none.
fn needs_notify(service: &Service) -> bool {
    matches!(service.service_type, ServiceType::Notify | ServiceType::NotifyReload)
        || !service.watchdog.is_zero()
        || service.fd_store_max > 0
}

impl Kit {
    /// Makes it anew.
    ///
    /// # Errors
    /// Why there is no notify socket. A control group is done without.
    pub fn make(
        shared: &Shared,
        (unit, index): (&str, usize),
        number: Gen,
        service: &Service,
        owner: Option<(u32, u32)>,
    ) -> Result<Kit, String> {
        let mut kit = Kit::default();
        if service.notify_access != NotifyAccess::None {
            match shared.notify_socket(unit, index, number.0, owner) {
                Ok(socket) => kit.notify = Some(socket),
                Err(why) if needs_notify(service) => return Err(why),
                Err(why) => log::warn!("{unit}: it starts without a NOTIFY_SOCKET: cannot {why}"),
            }
        }
        if let Some(root) = &shared.cgroups {
            kit.cgroup = root.make(&format!("{unit}.{}", number.0)).ok();
        }
        Ok(kit)
    }

    /// Takes it away. It must have left the poll set.
    pub fn remove(self) {
        if let Some(socket) = self.notify {
            // Its name is ours alone: the folder belongs to us.
            socket.name.remove();
        }
        if let Some(group) = self.cgroup
            && let Err(error) = group.remove()
        {
            // One that is still populated stays: KillMode = "process" leaves processes by intent.
            log::debug!("the control group {} stays: {error}", group.name());
        }
    }

    /// Whether it is what [`Kit::make`] would make, and nobody has taken it away meanwhile.
    fn is_good(&self, shared: &Shared, service: &Service) -> bool {
        let notify = match &self.notify {
            Some(socket) => {
                // What somebody has told it already is not from the generation that it will belong to.
                service.notify_access != NotifyAccess::None
                    && socket.name.is_ours()
                    && message::recv(socket.fd.as_fd(), &mut [0; 1], message::FDS_MAX).is_err()
            }
            None => service.notify_access == NotifyAccess::None,
        };
        notify && self.cgroup.as_ref().map_or(shared.cgroups.is_none(), Cgroup::is_there)
    }
}

impl Spare {
    /// What was made ahead, if it fits.
    pub fn take(
        unit: &mut Supervised,
        shared: &Shared,
        number: Gen,
        service: &Service,
        owner: Option<(u32, u32)>,
    ) -> Option<Kit> {
        let spare = unit.spare.take()?;
        if spare.number == number && spare.owner == owner && spare.kit.is_good(shared, service) {
            return Some(spare.kit);
        }
        log::debug!("{}: what was made ahead for generation {} is made anew", unit.name, spare.number.0);
        spare.kit.remove();
        None
    }

    /// Makes the next generation's ahead, once the unit was reloaded, as long as it runs; a unit that has stopped keeps
    /// nothing. What cannot be made now is said when it is needed.
    pub fn renew(unit: &mut Supervised, shared: &Shared, index: usize) {
        let newest = unit.generations.iter().next_back();
        let Some((number, shell)) = newest.filter(|_| !unit.history.is_empty()) else {
            if let Some(spare) = unit.spare.take() {
                spare.kit.remove();
            }
            return;
        };
        let (number, owner) = (Gen(number.0.saturating_add(1)), shell.owner);
        if unit.spare.as_ref().is_some_and(|spare| spare.number >= number) {
            return;
        }
        if let Some(old) = unit.spare.take() {
            old.kit.remove();
        }
        let service = &unit.current.unit.service;
        if let Ok(kit) = Kit::make(shared, (&unit.name, index), number, service, owner) {
            unit.spare = Some(Box::new(Spare { number, owner, kit }));
        }
    }

    /// Takes it away.
    pub fn remove(self) {
        self.kit.remove();
    }
}
