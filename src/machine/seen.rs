//! What a look at a generation has found, for the analysis of a soak.

use crate::proto::exposition::Sum;
use crate::proto::status::Usage;
use crate::time::Span;
use std::fmt;

/// What a look has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked {
    /// The new generation.
    pub new: Seen,
    /// The old one, if it was asked.
    pub old: Option<Seen>,
}

/// What a generation has of the memory, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySeen {
    /// What it has that cannot be reclaimed, bytes; `None` if nobody can say.
    pub has: Option<u64>,
    /// Processes of it that the kernel has killed for memory.
    pub kills: u64,
    /// `MemoryMax`, if nobody but us looks after it, bytes.
    pub most: Option<u64>,
    /// Every memory limit that counts for it.
    pub levels: Vec<MemoryLevel>,
}

/// A memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLevel {
    /// Whose, as the rest of a sentence: "this machine".
    pub of: String,
    /// What there is, bytes.
    pub limit: u64,
    /// What of it is used and cannot be reclaimed, bytes.
    pub used: u64,
}

/// What a look has seen of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its page, or why there is none.
    pub page: Result<Page, NoPage>,
    /// What the kernel says of it.
    pub usage: Usage,
}

/// A page of figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Who answered: its pid.
    pub process: i32,
    /// Whether the generation has no other process.
    pub alone: bool,
    /// A sum for each selector of the checks that is not aeternad's own, in order.
    pub sums: Vec<Sum>,
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPage {
    /// The unit has none.
    NotAsked,
    /// It could not be had, in words.
    Failed(String),
    /// An answer with another status than 200.
    Status(u16),
    /// No answer within `Timeout`.
    TimedOut,
    /// More than 16 MiB, a line of more than 64 KiB, or too many series.
    TooLarge,
    /// A line is no sample: which.
    NotText(String),
    /// Who answered cannot be seen from here.
    Unattributed,
    /// Another generation answered each time.
    NeverReached,
}

impl fmt::Display for NoPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPage::NotAsked => f.write_str("there is no page to read"),
            NoPage::Failed(why) => write!(f, "the page cannot be had: {why}"),
            NoPage::Status(status) => write!(f, "the page's status is {status}"),
            NoPage::TimedOut => f.write_str("the page did not come within Timeout"),
            NoPage::TooLarge => f.write_str("the page is too large (16 MiB, 64 KiB a line, 10,000 series)"),
            NoPage::NotText(line) => write!(f, "the page is no Prometheus text: {line}"),
            NoPage::Unattributed => {
                f.write_str("who answers cannot be seen here (CAP_SYS_PTRACE), and the socket is shared")
            }
            NoPage::NeverReached => f.write_str("another generation answered each time"),
        }
    }
}

/// The datagram flows of a slot that are not idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flowing {
    /// How many.
    pub live: u32,
    /// In how long all of them will be idle, if nothing comes.
    pub idle_in: Span,
}
