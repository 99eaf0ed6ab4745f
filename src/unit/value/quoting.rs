//! systemd's quoting rules (systemd.syntax(7), QUOTING): a text becomes words.

use std::iter::Peekable;
use std::str::CharIndices;

/// A word and the text that it was written as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    /// The word without quotes and with its escapes replaced.
    pub(crate) text: String,
    /// As written.
    pub(crate) written: &'a str,
}

/// The words of `text`: split at white space outside of quotes; `"…"` and `'…'` keep white space; a backslash
/// starts an escape of C, `\s` is a space. `\;` is a semicolon where it is a word of its own, and itself elsewhere:
/// it is not for us but for whom the word is for.
pub(crate) fn split_words(text: &str) -> Result<Vec<Word<'_>>, String> {
    split(text, Escapes::Known)
}

/// As [`split_words`], but what is no escape stays as it is written, backslash and all: so does systemd take its own
/// files.
pub(crate) fn split_words_leniently(text: &str) -> Result<Vec<Word<'_>>, String> {
    split(text, Escapes::Any)
}

/// Which escapes are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// Others are errors.
    Known,
    /// Others are text.
    Any,
}

fn split(text: &str, escapes: Escapes) -> Result<Vec<Word<'_>>, String> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let Some((start, _)) = chars.peek().copied() else {
            return Ok(words);
        };
        let word = one_word(&mut chars, escapes)?;
        let end = chars.peek().map_or(text.len(), |(at, _)| *at);
        let written = &text[start..end];
        // How systemd.service(5) writes a semicolon that is an argument.
        let word = if written == r"\;" { ";".to_string() } else { word };
        words.push(Word { text: word, written });
    }
}

/// Reads up to white space that is not quoted.
fn one_word(chars: &mut Peekable<CharIndices<'_>>, escapes: Escapes) -> Result<String, String> {
    let mut word: Vec<u8> = Vec::new();
    let mut quote = None;
    while let Some((_, c)) = chars.peek().copied() {
        match quote {
            None if c.is_ascii_whitespace() => break,
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == '\\' => {
                chars.next();
                let behind = chars.clone();
                match escaped(chars) {
                    Ok(Escaped::Char(c)) => push(&mut word, c),
                    Ok(Escaped::Byte(byte)) => word.push(byte),
                    Err(why) if escapes == Escapes::Known => return Err(why),
                    Err(_) => {
                        word.push(b'\\');
                        *chars = behind;
                    }
                }
                continue;
            }
            _ => push(&mut word, c),
        }
        chars.next();
    }
    match quote {
        Some(q) => Err(format!("a {q} is opened and never closed")),
        // Bytes that are named one by one make characters together, or none.
        None => String::from_utf8(word).map_err(|error| {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            format!("the bytes that \"{text}\" names are no character of UTF-8; write the character itself")
        }),
    }
}

/// What an escape stands for.
enum Escaped {
    Char(char),
    /// `\xHH` and octal ones: above 127 a part of a character.
    Byte(u8),
}

fn push(word: &mut Vec<u8>, c: char) {
    word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What the escape after a backslash stands for.
fn escaped(chars: &mut Peekable<CharIndices<'_>>) -> Result<Escaped, String> {
    let semicolon = chars.clone();
    let Some((_, c)) = chars.next() else {
        return Err("a backslash at the end; write \\\\ for a backslash".into());
    };
    let plain = match c {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        's' => ' ',
        '\\' | '"' | '\'' => c,
        // Both stay.
        ';' => {
            *chars = semicolon;
            '\\'
        }
        'x' => return coded(chars, String::new(), 2, 16),
        'u' => return coded(chars, String::new(), 4, 16),
        'U' => return coded(chars, String::new(), 8, 16),
        '0'..='7' => return coded(chars, c.into(), 3, 8),
        _ => {
            let c = c.escape_debug();
            return Err(format!("unknown escape \"\\{c}\"; write \\\\ for a backslash"));
        }
    };
    Ok(Escaped::Char(plain))
}

/// The character or byte with the number that the next digits give, `digits` of them in all.
fn coded(
    chars: &mut Peekable<CharIndices<'_>>,
    mut number: String,
    digits: usize,
    radix: u32,
) -> Result<Escaped, String> {
    while number.len() < digits {
        match chars.next_if(|(_, c)| c.is_digit(radix)) {
            Some((_, c)) => number.push(c),
            None => return Err(format!("an escape with a number needs {digits} digits")),
        }
    }
    let code = u32::from_str_radix(&number, radix).unwrap_or(0);
    let none = || format!("the escape with the number {number} is no character; write the character itself");
    let escaped = match (code, digits < 4) {
        (0, _) => None,
        (_, true) => u8::try_from(code).ok().map(Escaped::Byte),
        (_, false) => char::from_u32(code).map(Escaped::Char),
    };
    escaped.ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>, String> {
        split_words(text).map(|words| words.into_iter().map(|word| word.text).collect())
    }

    #[test]
    fn words_split_as_systemd_splits_them() {
        for (text, expected) in [
            ("", vec![]),
            ("  a\tb\nc ", vec!["a", "b", "c"]),
            ("\"a b\" 'c d'", vec!["a b", "c d"]),
            ("a\"b c\"d", vec!["ab cd"]),
            ("\"\" ''", vec!["", ""]),
            (r#""it's" 'say "x"'"#, vec!["it's", "say \"x\""]),
            (r"a\x20b a\sb \101 \u00e4 \U0001F600 \;", vec!["a b", "a b", "A", "ä", "😀", ";"]),
            (r#"\"a\\ \n"#, vec!["\"a\\", "\n"]),
            // Only a word of its own is a semicolon: another program's backslash is that program's.
            (r#"a \; x\; "find {} \;" '\;'"#, vec!["a", ";", r"x\;", r"find {} \;", r"\;"]),
            (r"caf\xc3\xa9 \303\244", vec!["café", "ä"]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn broken_quoting_is_refused() {
        for (text, part) in [
            ("\"a", "never closed"),
            ("a 'b", "never closed"),
            ("a\\", "at the end"),
            (r"\q", "unknown escape"),
            (r"\x4", "needs 2 digits"),
            (r"\xff", "no character"),
            (r"caf\xc3", "no character"),
            (r"\400", "no character"),
            (r"\000", "no character"),
            (r"\ud800", "no character"),
        ] {
            let why = words(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn what_is_no_escape_may_stay_as_it_is() {
        let words = split_words_leniently(r#"a\.b '\$c\x4' \n\"#).unwrap();
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, [r"a\.b", r"\$c\x4", "\n\\"]);
        assert!(split_words_leniently("'a").is_err());
    }

    #[test]
    fn a_word_knows_how_it_was_written() {
        let words = split_words(r#"a \; "b c" ;"#).unwrap();
        let written: Vec<&str> = words.iter().map(|word| word.written).collect();
        assert_eq!(written, ["a", r"\;", "\"b c\"", ";"]);
    }
}
