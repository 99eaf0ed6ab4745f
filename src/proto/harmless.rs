//! Texts of others, made harmless: one function for everything that a service, a client or a file name brings and
//! that a person, a terminal or a log will see.
//!
//! What would not be seen as what it is (control characters, line ends, marks that turn the direction of writing or
//! take no room at all, bytes that are no text) is written out: `\n`, `\u{202e}`, `\xff`. The rest stays as it is.

use std::fmt::Write;

/// The longest text of somebody else in a message, bytes, where nothing else is said.
pub const LONGEST: usize = 1024;

/// A text as one line of at most about `most` bytes that shows what is in it; a cut is an ellipsis.
pub fn harmless(text: &str, most: usize) -> String {
    harmless_bytes(text.as_bytes(), most)
}

/// [`harmless`] for what need not be text: file names, abstract addresses.
pub fn harmless_bytes(bytes: &[u8], most: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(most).saturating_add(4));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if out.len() + c.len_utf8() > most {
                out.push('…');
                return out;
            }
            match c {
                ' ' => out.push(' '),
                _ if is_seen(c) => out.push(c),
                _ => out.extend(c.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            if out.len() + 4 > most {
                out.push('…');
                return out;
            }
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// A line of a service's own output: as [`harmless`], but tabs stay, and its length is bounded where it is read.
pub fn harmless_line(bytes: &[u8]) -> String {
    let mut parts = bytes.split(|byte| *byte == b'\t').map(|part| harmless_bytes(part, usize::MAX));
    let mut out = parts.next().unwrap_or_default();
    for part in parts {
        out.push('\t');
        out.push_str(&part);
    }
    out
}

/// Whether a character shows itself: no control or format character (Unicode's categories Cc, Cf, Zl, Zp), none that
/// takes no room by its nature, none that is no character.
pub fn is_seen(c: char) -> bool {
    !c.is_control() && !UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Cf, Zl, Zp, the fillers and selectors that are not drawn, and noncharacters of the first plane.
const UNSEEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0e}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{fffe}', '\u{ffff}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        for (given, shown) in [
            ("plain text, ümläüte, 日本, 🦀", "plain text, ümläüte, 日本, 🦀"),
            ("a\nERROR forged", "a\\nERROR forged"),
            ("\x1b[31mred\x07\r\0", "\\u{1b}[31mred\\u{7}\\r\\u{0}"),
            ("safe\u{202e}gpj.exe", "safe\\u{202e}gpj.exe"),
            (
                "a\u{2028}b\u{200b}c\u{feff}d\u{e0041}e\u{85}f\u{9b}g",
                "a\\u{2028}b\\u{200b}c\\u{feff}d\\u{e0041}e\\u{85}f\\u{9b}g",
            ),
            ("\u{2066}x\u{2069}\u{61c}", "\\u{2066}x\\u{2069}\\u{61c}"),
        ] {
            assert_eq!(harmless(given, LONGEST), shown);
        }
        assert_eq!(harmless_bytes(b"a\xff\xc3(b\xe2\x80", LONGEST), "a\\xff\\xc3(b\\xe2\\x80");
        assert_eq!(harmless_line(b"a\tb\x1b\xff"), "a\tb\\u{1b}\\xff");
    }

    #[test]
    fn a_long_one_is_cut_and_says_so() {
        assert_eq!(harmless("abcdef", 6), "abcdef");
        assert_eq!(harmless("abcdefg", 6), "abcdef…");
        assert_eq!(harmless("ää", 3), "ä…");
        for text in ["\n".repeat(10_000), "\u{202e}".repeat(10_000), "x".repeat(10_000)] {
            assert!(harmless(&text, 100).len() < 100 + 16, "{}", text.len());
        }
        assert!(harmless_bytes(&[0xff; 10_000], 100).len() < 110);
    }

    #[test]
    fn no_character_that_is_drawn_elsewhere_or_not_at_all_gets_through() {
        for c in ('\0'..=char::MAX).filter(|c| is_seen(*c)) {
            let text = harmless(&c.to_string(), LONGEST);
            assert_eq!(text, c.to_string());
            assert!(!text.chars().any(char::is_control));
        }
        let marks = ('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}')
            .chain(['\u{200e}', '\u{200f}', '\u{61c}']);
        for mark in marks {
            assert!(!is_seen(mark), "{mark:?}");
        }
    }
}
