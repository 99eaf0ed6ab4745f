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

/// A figure as people read it: each place has its own way to write one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// A time.
    Seconds(f64),
    /// An amount of memory.
    Bytes(u64),
    /// A number of something.
    Count(u64),
    /// A share of the time, in percent.
    Percent(f64),
}

impl Usage {
    /// All that is known, by the names that people read.
    pub fn figures(&self) -> [(&'static str, Option<Figure>); 11] {
        let count = |count: Option<u64>| count.map(Figure::Count);
        let percent = |share: Option<f64>| share.map(Figure::Percent);
        [
            ("processor time", self.cpu_seconds.map(Figure::Seconds)),
            ("memory", self.memory.map(Figure::Bytes)),
            ("most memory", self.memory_peak.map(Figure::Bytes)),
            ("threads", count(self.tasks)),
            ("descriptors", count(self.descriptors)),
            ("new connections", count(self.connections)),
            ("waiting to be accepted", count(self.accept_queue)),
            ("waited for a processor", percent(self.pressure.cpu)),
            ("waited for memory", percent(self.pressure.memory)),
            ("waited for a disk", percent(self.pressure.io)),
            ("killed for memory", count(self.oom_kills.filter(|kills| *kills > 0))),
        ]
    }
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
