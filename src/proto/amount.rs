//! Amounts of memory as unit files write them.

use std::fmt;

/// Bytes, as people write them: `512M`, `1.5G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];
        let Some((unit, shift)) = units.into_iter().find(|(_, shift)| self.0 >> shift > 0) else {
            return write!(f, "{}", self.0);
        };
        let tenths = (u128::from(self.0) * 10) >> shift;
        match (tenths / 10, tenths % 10) {
            (whole @ 0..10, tenth @ 1..) => write!(f, "{whole}.{tenth}{unit}"),
            (whole, _) => write!(f, "{whole}{unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1K"),
            (1536, "1.5K"),
            (512 << 20, "512M"),
            ((1 << 30) - 1, "1023M"),
            (1 << 31, "2G"),
            (u64::MAX, "15E"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
