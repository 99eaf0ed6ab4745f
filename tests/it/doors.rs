//! The doors of `fuzz/doors.rs`, tried with a small mutator over their seeds: the same each time, and as often as there is time
//! for. `AETERNA_FUZZ_RUNS=100000000 cargo test --release --test it doors::` is the long form; a fuzzer that sees the code
//! is better still (fuzz/).

#[path = "../../fuzz/doors.rs"]
mod entrance;

use crate::common::repository;
use entrance::DOORS;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A generator of numbers that are the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap() % limit
    }
}

/// Bytes that decoders stumble over.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"=",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"%",
    b"\\",
    b"-1",
    b"0",
    b"4294967295",
    b"18446744073709551616",
    b"1e999",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xe2\x80\xae",
    b"\xc3\x28",
    b"\xf0\x9f\xa6\x80",
    b"null",
    b"true",
    b": ",
    b"\t",
    b" ",
    b"'",
    b"$",
    b"/",
    b"@",
    b"..",
];

/// A few changes to one of the seeds.
fn mutated(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len() + 1);
        match numbers.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = numbers.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let end = (at + numbers.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let piece = PIECES[numbers.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            5 => {
                let end = (at + numbers.below(64)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes.truncate(64 * 1024);
    bytes
}

/// The seeds of a door, and files of the repository that are some.
fn seeds(name: &str, given: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = given.iter().map(|seed| seed.to_vec()).collect();
    let folder = match name {
        "unit" => "tests/unit/good",
        "import" => "tests/import",
        _ => return seeds,
    };
    let mut paths: Vec<_> =
        std::fs::read_dir(repository().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    seeds.extend(paths.iter().filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()));
    seeds
}

#[test]
fn no_bytes_that_come_through_a_door_do_harm() {
    let runs: u64 = std::env::var("AETERNA_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(600);
    std::thread::scope(|scope| {
        for (name, door, given) in DOORS {
            scope.spawn(move || {
                let seeds = seeds(name, given);
                for seed in &seeds {
                    door(seed);
                }
                let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
                for run in 0..runs {
                    let bytes = mutated(&seeds, &mut numbers);
                    let held = catch_unwind(AssertUnwindSafe(|| door(&bytes)));
                    assert!(held.is_ok(), "{name}, run {run}: {}", bytes.escape_ascii());
                }
            });
        }
    });
}

#[test]
fn every_door_has_a_fuzz_target() {
    let manifest = std::fs::read_to_string(repository().join("fuzz/Cargo.toml")).unwrap();
    let mut targets = String::new();
    for entry in std::fs::read_dir(repository().join("fuzz/fuzz_targets")).unwrap() {
        let path = entry.unwrap().path();
        assert!(manifest.contains(path.file_name().unwrap().to_str().unwrap()), "{}", path.display());
        targets.push_str(&std::fs::read_to_string(path).unwrap());
    }
    let source = std::fs::read_to_string(repository().join("fuzz/doors.rs")).unwrap();
    for (name, _, seeds) in DOORS {
        let line = source.lines().find(|line| line.contains(&format!("(\"{name}\", "))).unwrap();
        let function = line.split(", ").nth(1).unwrap();
        assert!(targets.contains(&format!("doors::{function}(data)")), "{name} has no target");
        assert!(!seeds.is_empty(), "{name} has no seeds");
    }
}
