//! Limits of the control group that each generation has.

/// An amount of memory or of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes, or tasks.
    Of(u64),
    /// So many hundredths of a percent of what the machine has.
    Share(u32),
    /// No limit.
    Infinity,
}

impl Amount {
    /// The number, where there is so much in all; `None` is no limit.
    pub fn number(self, all: u64) -> Option<u64> {
        match self {
            Amount::Of(number) => Some(number),
            Amount::Share(share) => {
                let part = u128::from(all) * u128::from(share) / 10_000;
                Some(u64::try_from(part).unwrap_or(u64::MAX))
            }
            Amount::Infinity => None,
        }
    }
}

/// `OOMPolicy`: what follows when the kernel kills one process of a generation for memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OomPolicy {
    /// Nothing but the end of that process.
    #[default]
    Continue,
    /// The others are stopped.
    Stop,
    /// It kills all others of the generation with it.
    Kill,
}

/// Limits of a generation's control group. Each generation has the whole of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupLimits {
    /// `MemoryMax`.
    pub memory_max: Option<Amount>,
    /// `MemoryHigh`.
    pub memory_high: Option<Amount>,
    /// `MemorySwapMax`.
    pub memory_swap_max: Option<Amount>,
    /// `TasksMax`.
    pub tasks_max: Option<Amount>,
    /// `CPUWeight`, 1 to 10000.
    pub cpu_weight: Option<u32>,
    /// `CPUQuota`: hundredths of a percent of one processor.
    pub cpu_quota: Option<u32>,
    /// `OOMPolicy`.
    pub oom_policy: OomPolicy,
}

impl GroupLimits {
    /// The keys that need a controller, with that controller's name.
    pub fn keys(&self) -> Vec<(&'static str, &'static str)> {
        [
            (self.memory_max.is_some(), "MemoryMax", "memory"),
            (self.memory_high.is_some(), "MemoryHigh", "memory"),
            (self.memory_swap_max.is_some(), "MemorySwapMax", "memory"),
            (self.tasks_max.is_some(), "TasksMax", "pids"),
            (self.cpu_weight.is_some(), "CPUWeight", "cpu"),
            (self.cpu_quota.is_some(), "CPUQuota", "cpu"),
            (self.oom_policy != OomPolicy::Continue, "OOMPolicy", "memory"),
        ]
        .into_iter()
        .filter(|(is_set, ..)| *is_set)
        .map(|(_, key, controller)| (key, controller))
        .collect()
    }

    /// Which keys are not enforced where groups could have all but these controllers, or none, and why.
    pub fn unmet(&self, missing: Result<&[&str], &str>) -> Option<(Vec<&'static str>, String)> {
        let keys = self.keys().into_iter();
        let (keys, why): (Vec<&str>, String) = match missing {
            Ok(missing) => (
                keys.filter(|(_, needs)| missing.contains(needs)).map(|(key, _)| key).collect(),
                format!("there is no controller {}", missing.join(", ")),
            ),
            Err(why) => (keys.map(|(key, _)| key).collect(), why.into()),
        };
        (!keys.is_empty()).then_some((keys, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_there_is() {
        for (amount, number) in [
            (Amount::Of(7), Some(7)),
            (Amount::Share(5_000), Some(500)),
            (Amount::Share(12_550), Some(1_255)),
            (Amount::Infinity, None),
        ] {
            assert_eq!(amount.number(1_000), number);
        }
        assert_eq!(Amount::Share(u32::MAX).number(u64::MAX), Some(u64::MAX));
    }
}
