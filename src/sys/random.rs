//! Random numbers, from the kernel by way of std's hasher: each state has new keys. Any thread.

use std::hash::{BuildHasher, Hasher, RandomState};

/// 64 bits that nobody can guess.
pub fn bits() -> u64 {
    RandomState::new().build_hasher().finish()
}
