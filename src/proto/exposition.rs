//! The Prometheus text format and OpenMetrics, as far as a soak's analysis reads them: selectors, lines, and the
//! sums of a page that arrives in pieces. Series are added up as they come; none is kept.

use super::nearest::nearest;
use std::collections::BTreeMap;

/// The longest line of a page, bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// The longest page, bytes.
pub const MAX_PAGE: u64 = 16 * 1024 * 1024;
/// The most series that one selector may take.
pub const MAX_SERIES: u32 = 10_000;
/// The most buckets of a histogram.
pub const MAX_BUCKETS: usize = 64;

/// As much of a line or of a series is told, characters.
const LONGEST_TOLD: usize = 80;

/// `name{label="pattern", label!="pattern"}`. A pattern is text with `*` (any run of characters) and `|` (or); `\`
/// escapes; a label that a series does not have is "".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// As it was written.
    pub text: String,
    /// The metric's name.
    pub name: String,
    matchers: Vec<Matcher>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Matcher {
    label: String,
    equal: bool,
    /// The alternatives of the pattern.
    any_of: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Run,
    Byte(u8),
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '@')
}

/// The name that `text` begins with, and the rest.
fn name_of(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()))
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(text: &str) -> Result<Selector, String> {
        let text = text.trim();
        let (name, rest) = name_of(text);
        if name.is_empty() {
            return Err(format!("\"{text}\" does not begin with the name of a metric"));
        }
        let (matchers, rest) = match rest.trim_start().strip_prefix('{') {
            Some(inside) => matchers(inside)?,
            None => (Vec::new(), rest.trim_start()),
        };
        if !rest.is_empty() {
            return Err(format!("\"{rest}\" does not belong to a selector; write name{{label=\"pattern\"}}"));
        }
        Ok(Selector { text: text.into(), name: name.into(), matchers })
    }

    /// Whether the matchers take a series with these labels, `le` left out.
    fn takes(&self, sample: &Sample<'_>) -> bool {
        self.matchers.iter().all(|matcher| {
            let value = sample.label(&matcher.label).unwrap_or_default();
            matcher.any_of.iter().any(|pattern| glob(pattern, value.as_bytes())) == matcher.equal
        })
    }
}

/// The matchers up to the closing brace, and what follows it.
fn matchers(inside: &str) -> Result<(Vec<Matcher>, &str), String> {
    let mut all = Vec::new();
    let mut at = inside.trim_start();
    loop {
        if let Some(rest) = at.strip_prefix('}') {
            return Ok((all, rest.trim_start()));
        }
        let (label, rest) = name_of(at);
        let rest = rest.trim_start();
        if rest.starts_with("=~") || rest.starts_with("!~") {
            return Err("regular expressions are not known: = and != take * (any text) and | (or)".into());
        }
        let (equal, rest) = match (rest.strip_prefix("!="), rest.strip_prefix('=')) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => {
                return Err(format!("the label \"{label}\" needs = or != and a pattern in quotes"));
            }
        };
        if label.is_empty() {
            return Err("the name of a label is missing".into());
        }
        let rest =
            rest.trim_start().strip_prefix('"').ok_or("the pattern of a label stands in double quotes")?;
        let (any_of, rest) = pattern(rest).ok_or("a quote is not closed")?;
        all.push(Matcher { label: label.into(), equal, any_of });
        let rest = rest.trim_start();
        at = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
}

/// The alternatives up to the closing quote, and what follows it.
fn pattern(text: &str) -> Option<(Vec<Vec<Piece>>, &str)> {
    let (mut all, mut one) = (Vec::new(), Vec::new());
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                all.push(one);
                return Some((all, text.get(at + 1..)?));
            }
            b'*' => one.push(Piece::Run),
            b'|' => all.push(std::mem::take(&mut one)),
            b'\\' => match bytes.next()?.1 {
                b'n' => one.push(Piece::Byte(b'\n')),
                other => one.push(Piece::Byte(other)),
            },
            byte => one.push(Piece::Byte(byte)),
        }
    }
    None
}

/// Whether a pattern is the whole text. At most one restart for each byte: no pattern takes exponential time.
fn glob(pattern: &[Piece], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(Piece::Run) => {
                back = Some((p, t));
                p += 1;
            }
            Some(Piece::Byte(wanted)) if *wanted == byte => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    p = star + 1;
                    t = from + 1;
                    back = Some((star, t));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|piece| *piece == Piece::Run))
}

/// One sample; its labels as they stand.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl Sample<'_> {
    /// `name{label="value"} is NaN`, not too long.
    fn told(&self) -> String {
        let labels: Vec<String> =
            self.labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let series: String = format!("{}{labels}", self.name).chars().take(LONGEST_TOLD).collect();
        let value = if self.value.is_nan() {
            "NaN"
        } else if self.value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        };
        format!("{series} is {value}")
    }

    fn label(&self, wanted: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == wanted).map(|(_, value)| value.as_str())
    }
}

/// A line that begins with a name. What follows the value (a timestamp, an exemplar) is passed over.
fn sample(text: &str) -> Result<Sample<'_>, &'static str> {
    let (name, rest) = name_of(text);
    let mut labels = Vec::new();
    let mut rest = rest.trim_start();
    if let Some(mut at) = rest.strip_prefix('{') {
        loop {
            at = at.trim_start();
            if let Some(after) = at.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = at.split_once('=').ok_or("a label has no value")?;
            let after = after.trim_start().strip_prefix('"').ok_or("a label's value is not in quotes")?;
            let (value, after) = unquoted(after).ok_or("a quote is not closed")?;
            labels.push((label.trim(), value));
            let after = after.trim_start();
            at = after.strip_prefix(',').unwrap_or(after);
        }
    }
    let value = match rest.split_ascii_whitespace().next().ok_or("it has no value")? {
        "+Inf" | "Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" | "Nan" => f64::NAN,
        number => number.parse().map_err(|_| "its value is no number")?,
    };
    Ok(Sample { name, labels, value })
}

fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

/// What a number means over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// It only grows: its increase counts.
    Counter,
    /// It goes up and down: its present value counts.
    Gauge,
    /// The page does not say.
    #[default]
    Unknown,
}

/// What is wanted of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The sum of all series that match.
    Sum(Selector),
    /// The cumulative buckets of a histogram, by its name without `_bucket`.
    Buckets(Selector),
}

impl Wanted {
    fn selector(&self) -> &Selector {
        match self {
            Wanted::Sum(selector) | Wanted::Buckets(selector) => selector,
        }
    }

    fn is_named(&self, name: &str) -> bool {
        match self {
            Wanted::Sum(selector) => name == selector.name,
            Wanted::Buckets(selector) => {
                name.strip_suffix("_bucket").is_some_and(|stem| stem == selector.name)
            }
        }
    }
}

/// What a page says about one [`Wanted`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sum {
    /// The sum of the series that matched.
    pub value: f64,
    /// What it means over time.
    pub kind: Kind,
    /// How many series matched.
    pub series: u32,
    /// Of a histogram: upper bound and cumulative count of each bucket, by bound; the last is infinity.
    pub buckets: Vec<(f64, f64)>,
    /// Without a match: a name on the page that was perhaps meant.
    pub meant: Option<String>,
    /// A series that matched and whose value is not finite: which, and what it has. It is in no sum.
    pub odd: Option<String>,
}

impl Sum {
    /// Whether it, or one of its buckets, is below nothing.
    pub fn is_negative(&self) -> bool {
        self.value < 0.0 || self.buckets.iter().any(|(_, count)| *count < 0.0)
    }
}

/// Why a page cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageError {
    /// It has more than [`MAX_PAGE`] bytes, a longer line than [`MAX_LINE`], or too many series.
    TooLarge,
    /// A line among those that match is no sample: why, and the line's beginning.
    NotText(String),
}

/// Adds up a page that arrives in pieces. Memory does not grow with the page.
#[derive(Debug)]
pub struct Scrape<'a> {
    wanted: &'a [Wanted],
    sums: Vec<Sum>,
    buckets: Vec<BTreeMap<u64, (f64, f64)>>,
    line: Vec<u8>,
    read: u64,
    /// What the last `# TYPE` line said.
    kind: (String, Kind),
    last_name: String,
}

impl<'a> Scrape<'a> {
    /// Begins a page.
    pub fn new(wanted: &'a [Wanted]) -> Scrape<'a> {
        Scrape {
            wanted,
            sums: vec![Sum::default(); wanted.len()],
            buckets: vec![BTreeMap::new(); wanted.len()],
            line: Vec::new(),
            read: 0,
            kind: (String::new(), Kind::Unknown),
            last_name: String::new(),
        }
    }

    /// Takes the next bytes of the page.
    ///
    /// # Errors
    /// [`PageError`]: the page cannot be used, and no more of it needs to be read.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), PageError> {
        self.read += bytes.len() as u64;
        if self.read > MAX_PAGE {
            return Err(PageError::TooLarge);
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.take(head)?;
            } else {
                self.line.extend_from_slice(head);
                let line = std::mem::take(&mut self.line);
                self.take(&line)?;
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_LINE {
            return Err(PageError::TooLarge);
        }
        Ok(())
    }

    /// Ends the page: a [`Sum`] for each [`Wanted`], in order.
    ///
    /// # Errors
    /// As [`Scrape::feed`], for a last line without a newline.
    pub fn finish(mut self) -> Result<Vec<Sum>, PageError> {
        let line = std::mem::take(&mut self.line);
        self.take(&line)?;
        for (sum, buckets) in self.sums.iter_mut().zip(self.buckets) {
            // Whatever a page says, its sums are numbers that can be stored.
            sum.value = sum.value.clamp(-1e300, 1e300);
            sum.buckets = buckets.into_values().map(|(le, count)| (le, count.clamp(-1e300, 1e300))).collect();
            sum.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Ok(self.sums)
    }

    fn take(&mut self, line: &[u8]) -> Result<(), PageError> {
        if line.len() > MAX_LINE {
            return Err(PageError::TooLarge);
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if let Some(comment) = text.strip_prefix('#') {
            self.comment(comment);
            return Ok(());
        }
        let (name, _) = name_of(text);
        if name.is_empty() {
            return Ok(());
        }
        self.remember(name);
        if !self.wanted.iter().any(|wanted| wanted.is_named(name)) {
            return Ok(());
        }
        let found = sample(text).map_err(|why| {
            let beginning: String = text.chars().take(LONGEST_TOLD).collect();
            PageError::NotText(format!("{why}: {beginning}"))
        })?;
        self.add(&found)
    }

    fn comment(&mut self, comment: &str) {
        let mut words = comment.split_ascii_whitespace();
        if words.next() != Some("TYPE") {
            return;
        }
        if let (Some(name), Some(kind)) = (words.next(), words.next()) {
            let kind = match kind {
                "counter" | "histogram" | "summary" => Kind::Counter,
                "gauge" => Kind::Gauge,
                _ => Kind::Unknown,
            };
            self.kind = (name.into(), kind);
        }
    }

    /// Any family may be what was meant by a selector that matches none.
    fn remember(&mut self, name: &str) {
        // A name that long is nobody's slip, and comparing costs its length.
        if self.last_name == name || name.len() > 128 {
            return;
        }
        self.last_name = name.into();
        for (wanted, sum) in self.wanted.iter().zip(&mut self.sums) {
            if sum.series > 0 {
                continue;
            }
            let stem = match wanted {
                Wanted::Sum(_) => name,
                Wanted::Buckets(_) => name.strip_suffix("_bucket").unwrap_or(name),
            };
            let known: Vec<&str> = sum.meant.as_deref().into_iter().chain([stem]).collect();
            sum.meant = nearest(&wanted.selector().name, known).map(str::to_owned);
        }
    }

    fn add(&mut self, found: &Sample<'_>) -> Result<(), PageError> {
        let said = found.name.strip_prefix(self.kind.0.as_str());
        let said = said.filter(|rest| matches!(*rest, "" | "_total" | "_bucket" | "_count" | "_sum"));
        let kind = match said {
            Some(_) if self.kind.1 != Kind::Unknown => self.kind.1,
            _ if found.name.ends_with("_total") => Kind::Counter,
            _ => Kind::Unknown,
        };
        for ((wanted, sum), buckets) in self.wanted.iter().zip(&mut self.sums).zip(&mut self.buckets) {
            if !wanted.is_named(found.name) || !wanted.selector().takes(found) {
                continue;
            }
            if !found.value.is_finite() {
                sum.meant = None;
                sum.odd.get_or_insert_with(|| found.told());
                continue;
            }
            sum.series += 1;
            if sum.series > MAX_SERIES {
                return Err(PageError::TooLarge);
            }
            sum.kind = kind;
            sum.meant = None;
            if matches!(wanted, Wanted::Sum(_)) {
                sum.value += found.value;
                continue;
            }
            let bound = found.label("le").and_then(bound_of);
            let bound = bound.ok_or_else(|| PageError::NotText(format!("{} without le", found.name)))?;
            if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&bound.to_bits()) {
                return Err(PageError::TooLarge);
            }
            buckets.entry(bound.to_bits()).or_insert((bound, 0.0)).1 += found.value;
        }
        Ok(())
    }
}

fn bound_of(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        number => number.parse().ok().filter(|bound: &f64| !bound.is_nan()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(
        "# HELP http_requests_total x\n# TYPE http_requests_total counter\n",
        "http_requests_total{code=\"200\",path=\"/a\\\"b\"} 1027 1395066363000\n",
        "http_requests_total{code=\"500\", path=\"/\"} 3\r\n",
        "http_requests_total{code=\"503\",path=\"/x,}\",} 4 # {trace_id=\"x}\"} 1\n",
        "http_requests_total_other 9\nup NaN\n# TYPE pool gauge\npool 7\n",
        "# TYPE lat histogram\nlat_bucket{le=\"0.25\"} 10\nlat_bucket{le=\"+Inf\"} 12\n",
        "lat_bucket{le=\"0.25\",p=\"2\"} 1\nlat_bucket{le=\"+Inf\",p=\"2\"} 1\nlat_count 13\n# EOF",
    );

    fn sum(text: &str) -> Wanted {
        Wanted::Sum(Selector::parse(text).unwrap())
    }

    fn page(text: &str, wanted: &[Wanted], piece: usize) -> Result<Vec<Sum>, PageError> {
        let mut scrape = Scrape::new(wanted);
        for part in text.as_bytes().chunks(piece) {
            scrape.feed(part)?;
        }
        scrape.finish()
    }

    #[test]
    fn a_page_is_added_up_however_it_is_cut() {
        let wanted = [
            sum("http_requests_total{code=\"5*|429\"}"),
            sum("http_requests_total"),
            sum("http_requests_total{code!=\"5*\"}"),
            sum("pool"),
            sum("http_requests_total{code=\"404\"}"),
            Wanted::Buckets(Selector::parse("lat{p!=\"3\"}").unwrap()),
            sum("up"),
        ];
        for piece in [1, 7, 4096] {
            let sums = page(PAGE, &wanted, piece).unwrap();
            let values: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
            assert_eq!(values[..5], [7.0, 1034.0, 1027.0, 7.0, 0.0], "{piece}");
            assert_eq!((sums[0].kind, sums[3].kind), (Kind::Counter, Kind::Gauge));
            assert_eq!(sums[0].series, 2);
            assert_eq!(sums[5].buckets, [(0.25, 11.0), (f64::INFINITY, 13.0)]);
            assert_eq!((sums[6].series, sums[6].value), (0, 0.0), "NaN is no sample");
        }
    }

    #[test]
    fn what_was_perhaps_meant_is_named() {
        let text = "http_requests_total 1\nother 2\n";
        let sums =
            page(text, &[sum("http_request_total"), sum("zzz"), sum("http_requests_total")], 100).unwrap();
        assert_eq!(sums[0].meant.as_deref(), Some("http_requests_total"));
        assert_eq!(sums[1].meant, None);
    }

    #[test]
    fn what_is_no_selector_is_said() {
        for wrong in [
            "",
            "{a=\"b\"}",
            "a{b}",
            "a{b=c}",
            "a{b=\"c}",
            "a{b=~\"c\"}",
            "a{b!~\"c\"}",
            "a b",
            "a{b=\"c\"} x",
            "a{=\"c\"}",
            "a{b=\"c\\",
        ] {
            assert!(Selector::parse(wrong).is_err(), "{wrong}");
        }
        for right in ["a", " a { b = \"c\" , } ", "a{}", "@cpu_seconds", "a:b{c!=\"d|e\\|f*\"}"] {
            assert!(Selector::parse(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn patterns_take_what_they_say_and_never_long() {
        let taken = |text: &str, value: &str| {
            let (pattern, _) = pattern(&format!("{text}\"")).unwrap();
            pattern.iter().any(|one| glob(one, value.as_bytes()))
        };
        for (text, value, is) in [
            ("*", "", true),
            ("5*", "500", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a|b", "b", true),
            ("a\\|b", "a|b", true),
        ] {
            assert_eq!(taken(text, value), is, "{text} {value}");
        }
        let long = "a".repeat(MAX_LINE);
        assert!(!taken("*a*a*a*a*b", &long));
    }

    #[test]
    fn a_page_that_is_none_is_refused_and_bounded() {
        let wanted = [sum("a"), Wanted::Buckets(Selector::parse("h").unwrap())];
        for (text, why) in [
            ("a x\n", "its value is no number: a x"),
            ("a{b=\"c\n", "a quote is not closed: a{b=\"c"),
            ("a{b} 1\n", "a label has no value: a{b} 1"),
            ("a\n", "it has no value: a"),
            ("h_bucket 1\n", "h_bucket without le"),
        ] {
            assert_eq!(page(text, &wanted, 3), Err(PageError::NotText(why.into())), "{text}");
        }
        assert_eq!(page("<html>\n<b>x</b>\n", &wanted, 100).map(|sums| sums[0].series), Ok(0));
        assert_eq!(page(&"x".repeat(MAX_LINE + 1), &wanted, 1000), Err(PageError::TooLarge));
        assert_eq!(page(&"a 1\n".repeat(10_001), &wanted, 1000), Err(PageError::TooLarge));
        let buckets: String = (0..65).map(|n| format!("h_bucket{{le=\"{n}\"}} 1\n")).collect();
        assert_eq!(page(&buckets, &wanted, 1000), Err(PageError::TooLarge));
        let page_of = |size: usize| page(&"# x\n".repeat(size / 4), &wanted, 1 << 16);
        assert!(page_of(MAX_PAGE as usize).is_ok());
        assert_eq!(page_of(MAX_PAGE as usize + 4), Err(PageError::TooLarge));
    }
}
