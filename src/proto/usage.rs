//! What the kernel says of generations, as status and history show it.

use serde::{Deserialize, Serialize};

/// What the kernel says of a generation. What cannot be known is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Processor time of all its processes, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Memory that cannot be reclaimed, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The most that it had at any time, with what can be reclaimed, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// For what it had to wait.
    #[serde(skip_serializing_if = "Pressure::is_unknown")]
    pub pressure: Pressure,
    /// Threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// Open descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u64>,
    /// Processes that the kernel has killed for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// New connections that it has got, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Connections that wait to be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_queue: Option<u64>,
}

/// What both generations of a reload used, at its end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UsageOfBoth {
    /// The generation that was launched.
    pub new: Usage,
    /// The one that served, if there was one.
    pub old: Option<Usage>,
}

/// In how many of a hundred of the last ten seconds a process of a generation had to wait (PSI of its control group).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// For a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// For memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<f64>,
    /// For a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<f64>,
}

impl Pressure {
    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Pressure::default()
    }
}
