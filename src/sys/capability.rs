//! The capabilities(7) of this process, asked of the kernel by capget(2): /proc need not be there.

/// CAP_SYS_PTRACE: other users' processes may be looked into.
pub const SYS_PTRACE: u32 = 19;
/// CAP_SYS_ADMIN: a filter of system calls needs no no_new_privs.
pub const SYS_ADMIN: u32 = 21;

/// The header and the data of capget(2) and capset(2), version 3: effective, permitted and inheritable, the low 32 bits of
/// each first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Sets {
    pub(super) header: [u32; 2],
    pub(super) data: [u32; 6],
}

impl Sets {
    /// Those of the calling thread; `None` where a filter forbids the question.
    pub fn ours() -> Option<Sets> {
        const VERSION: u32 = 0x2008_0522;
        let mut sets = Sets { header: [VERSION, 0], data: [0; 6] };
        let (header, data) = (&raw mut sets.header, &raw mut sets.data);
        // SAFETY: the kernel reads and writes a header of two numbers and writes data of six.
        let done = unsafe { libc::syscall(libc::SYS_capget, header, data) };
        (done == 0).then_some(sets)
    }

    /// The same without the inheritable ones; `None` if there are none of those.
    pub fn without_inheritable(mut self) -> Option<Sets> {
        let had = self.data[2] | self.data[5];
        self.data[2] = 0;
        self.data[5] = 0;
        (had != 0).then_some(self)
    }

    /// A bit for each that is in effect.
    pub fn effective(&self) -> u64 {
        u64::from(self.data[0]) | u64::from(self.data[3]) << 32
    }
}

/// A bit for each capability that this process has in effect; 0 where they cannot be asked for.
pub fn effective() -> u64 {
    Sets::ours().map_or(0, |sets| sets.effective())
}

/// Whether this process has a capability in effect.
pub fn has(number: u32) -> bool {
    effective() & (1 << number) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_that_proc_shows() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        assert_eq!(effective(), u64::from_str_radix(line.trim(), 16).unwrap());
        assert_eq!(has(SYS_ADMIN), effective() & (1 << 21) != 0);
    }

    #[test]
    fn the_inheritable_ones_go_and_the_others_stay() {
        let sets = Sets { header: [0, 0], data: [1, 2, 4, 8, 16, 32] };
        assert_eq!(sets.without_inheritable().unwrap().data, [1, 2, 0, 8, 16, 0]);
        assert_eq!(sets.effective(), 8 << 32 | 1);
        assert!(Sets { data: [1, 2, 0, 8, 16, 0], ..sets }.without_inheritable().is_none());
    }
}
