//! The part of YAML that configuration files use: maps, lists, scalars, in blocks and in brackets. Anything else is
//! named with its line and left out.

/// A value and the line that it begins on, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A text without its quotes.
    Scalar(String),
    List(Vec<Node>),
    /// In the order of the text.
    Map(Vec<(String, Node)>),
}

/// A line with something on it.
struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    next: usize,
    findings: Vec<(usize, String)>,
}

/// The deepest nesting that is followed: a text that has more of it is no configuration.
const DEEPEST: usize = 32;

/// Reads a text: its first document, and what was left out of it.
pub(super) fn parse(text: &str) -> (Node, Vec<(usize, String)>) {
    let mut reader = Reader { lines: Vec::new(), next: 0, findings: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = without_comment(line).trim_end();
        let content = line.trim_start();
        if content == "..." || (content == "---" && !reader.lines.is_empty()) {
            reader.findings.push((number, "another document begins here; it is left out".into()));
            break;
        }
        if content.is_empty() || content == "---" || content.starts_with('%') {
            continue;
        }
        let indent = line.len() - content.len();
        if line[..indent].contains('\t') {
            reader.findings.push((number, "a tab cannot indent; the line is left out".into()));
            continue;
        }
        reader.lines.push(Line { number, indent, text: content });
    }
    let mut node = reader.block(0, 0);
    while let Some(line) = reader.lines.get(reader.next) {
        reader.findings.push((line.number, format!("\"{}\" belongs to nothing; left out", line.text)));
        reader.next += 1;
    }
    if let Value::Null = node.value {
        node.line = 1;
    }
    (node, reader.findings)
}

/// The line up to a `#` that begins a comment: outside of quotes, at the start or after white space.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match quote {
            Some(q) if c == q && before != '\\' => quote = None,
            Some(_) => {}
            None if (c == '"' || c == '\'') && !before.is_alphanumeric() => quote = Some(c),
            None if c == '#' && before.is_whitespace() => return &line[..at],
            None => {}
        }
        before = c;
    }
    line
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<(usize, usize, &'a str)> {
        self.lines.get(self.next).map(|line| (line.number, line.indent, line.text))
    }

    /// The block that begins at the next line, if that is indented at least so far.
    fn block(&mut self, least: usize, depth: usize) -> Node {
        let Some((line, indent, text)) = self.peek().filter(|(_, indent, _)| *indent >= least) else {
            let line = self.lines.get(self.next.wrapping_sub(1)).map_or(1, |line| line.number);
            return Node { line, value: Value::Null };
        };
        if depth > DEEPEST {
            self.findings.push((line, "too deep; left out".into()));
            self.skip(indent);
            return Node { line, value: Value::Null };
        }
        let value = if text == "-" || text.starts_with("- ") {
            self.list(indent, depth)
        } else if key_of(text).is_some() {
            self.map(indent, depth)
        } else {
            self.next += 1;
            return self.scalar(text, line, depth);
        };
        Node { line, value }
    }

    fn list(&mut self, indent: usize, depth: usize) -> Value {
        let mut items = Vec::new();
        while let Some((number, at, text)) = self.peek() {
            let dash = text == "-" || text.starts_with("- ");
            if at != indent || !dash {
                break;
            }
            let rest = text[1..].trim_start();
            if rest.is_empty() {
                self.next += 1;
                let mut item = self.block(indent + 1, depth + 1);
                item.line = item.line.max(number);
                items.push(item);
                continue;
            }
            // What follows the dash is a block that is indented by so much.
            self.lines[self.next] = Line { number, indent: indent + text.len() - rest.len(), text: rest };
            items.push(self.block(indent + 1, depth + 1));
        }
        Value::List(items)
    }

    fn map(&mut self, indent: usize, depth: usize) -> Value {
        let mut entries: Vec<(String, Node)> = Vec::new();
        while let Some((number, at, text)) = self.peek().filter(|(_, at, _)| *at == indent) {
            let Some((key, rest)) = key_of(text) else { break };
            self.next += 1;
            let node = if rest.is_empty() {
                // A list may stand at its key's own indentation.
                let list = self.peek().is_some_and(|(_, i, t)| i == at && (t == "-" || t.starts_with("- ")));
                let mut node = self.block(if list { at } else { at + 1 }, depth + 1);
                node.line = if node.value == Value::Null { number } else { node.line };
                node
            } else if rest.starts_with(['|', '>']) {
                self.findings.push((number, format!("{key}: a text of several lines is left out")));
                self.skip(at + 1);
                continue;
            } else {
                self.scalar(rest, number, depth)
            };
            if entries.iter().any(|(known, _)| *known == key) {
                self.findings.push((number, format!("{key} is there twice; the last one counts")));
                entries.retain(|(known, _)| *known != key);
            }
            entries.push((key, node));
        }
        Value::Map(entries)
    }

    /// Leaves out lines that are indented at least so far.
    fn skip(&mut self, least: usize) {
        while self.peek().is_some_and(|(_, indent, _)| indent >= least) {
            self.next += 1;
        }
    }

    /// A value on one line, or in brackets that may go on in the next ones.
    fn scalar(&mut self, text: &str, line: usize, depth: usize) -> Node {
        if text.starts_with(['&', '*', '!']) {
            self.findings.push((line, format!("\"{text}\": anchors, aliases and tags are left out")));
            return Node { line, value: Value::Null };
        }
        if !text.starts_with(['[', '{']) {
            return Node { line, value: plain(text) };
        }
        let mut whole = text.to_string();
        while !balanced(&whole) && self.next < self.lines.len() {
            whole = format!("{whole} {}", self.lines[self.next].text);
            self.next += 1;
        }
        let mut flow = Flow { rest: &whole, line, depth };
        match flow.value() {
            Some(node) if flow.rest.trim().is_empty() => node,
            _ => {
                self.findings.push((line, format!("\"{whole}\" is not understood; left out")));
                Node { line, value: Value::Null }
            }
        }
    }
}

/// `key: rest`, the key without quotes.
fn key_of(text: &str) -> Option<(String, &str)> {
    if let Some(quote) = text.chars().next().filter(|c| *c == '"' || *c == '\'') {
        let end = text[1..].find(quote)? + 1;
        let rest = text[end + 1..].trim_start().strip_prefix(':')?;
        return Some((text[1..end].to_string(), rest.trim_start()));
    }
    if text.starts_with(['[', '{', '&', '*', '!', '|', '>']) {
        return None;
    }
    let at = text.find(": ").or_else(|| text.ends_with(':').then(|| text.len() - 1))?;
    Some((text[..at].trim_end().to_string(), text[at + 1..].trim_start()))
}

/// A scalar's value: quotes and their escapes removed.
fn plain(text: &str) -> Value {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(inner) = inner('\'').filter(|_| text.len() > 1) {
        return Value::Scalar(inner.replace("''", "'"));
    }
    if let Some(inner) = inner('"').filter(|_| text.len() > 1) {
        return Value::Scalar(unescaped(inner));
    }
    match text {
        "~" | "null" | "Null" | "NULL" => Value::Null,
        _ => Value::Scalar(text.to_string()),
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some(other)) => out.push(other),
            (c, _) => out.push(c),
        }
    }
    out
}

/// Whether every bracket outside of quotes is closed.
fn balanced(text: &str) -> bool {
    let mut depth = 0i32;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, _) => {}
        }
    }
    depth <= 0 && quote.is_none()
}

/// Values in brackets.
struct Flow<'a> {
    rest: &'a str,
    line: usize,
    depth: usize,
}

impl Flow<'_> {
    fn take(&mut self, what: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self) -> Option<Node> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let line = self.line;
        let value = if self.take('[') {
            let mut items = Vec::new();
            while !self.take(']') {
                items.push(self.value()?);
                if !self.take(',') {
                    self.take(']').then_some(())?;
                    break;
                }
            }
            Value::List(items)
        } else if self.take('{') {
            let mut entries = Vec::new();
            while !self.take('}') {
                let Value::Scalar(key) = self.word(":,}")? else { return None };
                self.take(':').then_some(())?;
                entries.push((key, self.value()?));
                if !self.take(',') {
                    self.take('}').then_some(())?;
                    break;
                }
            }
            Value::Map(entries)
        } else {
            self.word(",]}")?
        };
        self.depth -= 1;
        Some(Node { line, value })
    }

    /// A scalar up to one of `ends`.
    fn word(&mut self, ends: &str) -> Option<Value> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| *c == '"' || *c == '\'');
        let end = match quote {
            Some(quote) => closing(self.rest, quote)?,
            None => self.rest.find(|c| ends.contains(c)).unwrap_or(self.rest.len()),
        };
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(plain(word.trim_end()))
    }
}

/// Where the text after the quoted word at its start goes on.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(at + 1);
        }
        escaped = quote == '"' && c == '\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar(text) => text.clone(),
            Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join("|")),
            Value::Map(entries) => {
                let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{k}={}", shown(v))).collect();
                format!("{{{}}}", entries.join("|"))
            }
        }
    }

    #[test]
    fn blocks_and_brackets_nest() {
        for (text, expected) in [
            ("", "~"),
            ("a: 1\nb:\n  c: 'it''s' # no\n  d: \"x # \\\"y\\\"\"\n", "{a=1|b={c=it's|d=x # \"y\"}}"),
            ("a:\n- x\n-  y z\nb: ~", "{a=[x|y z]|b=~}"),
            (
                "a:\n  - name: n\n    cmd: [a, \"b, c\"]\n  - name: m\n",
                "{a=[{name=n|cmd=[a|b, c]}|{name=m}]}",
            ),
            ("a: [x,\n    'y',\n  ]\nb: {c: d, e: [1]}", "{a=[x|y]|b={c=d|e=[1]}}"),
            ("---\nurl: http://h:80/#x\nport: :8080\n", "{url=http://h:80/#x|port=:8080}"),
            ("a:\nb: it's", "{a=~|b=it's}"),
            ("-\n  a: 1\n- b", "[{a=1}|b]"),
        ] {
            let (node, findings) = parse(text);
            assert_eq!(shown(&node), expected, "{text}");
            assert_eq!(findings, [], "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, line, part) in [
            ("a: &x 1", 1, "anchors"),
            ("a: |\n  b\n  c\nd: 1", 1, "several lines"),
            ("a: 1\n\tb: 2", 2, "tab"),
            ("a: [1", 1, "not understood"),
            ("a: 1\n  b: 2", 2, "belongs to nothing"),
            ("a: 1\n---\nb: 2", 2, "another document"),
            ("a: 1\na: 2", 2, "twice"),
        ] {
            let (_, findings) = parse(text);
            assert!(
                findings.iter().any(|(at, why)| *at == line && why.contains(part)),
                "{text}: {findings:?}"
            );
        }
        let deep = "[".repeat(100);
        assert!(!parse(&format!("a: {deep}")).1.is_empty());
        let deep: String = (0..100).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(!parse(&deep).1.is_empty());
    }
}
