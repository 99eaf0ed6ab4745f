//! Specifiers: `%n %p %i %t %%` in a text, as systemd.unit(5) explains them.

/// What the specifiers of one unit stand for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Specifiers {
    /// `%n`: the unit's name; `%p` and `%i` are what is before and after its first `@`.
    pub(crate) name: String,
    /// `%t`.
    pub(crate) runtime_dir: String,
}

impl Specifiers {
    /// `text` with every specifier replaced, or why that cannot be.
    pub(crate) fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let mut after = rest[at + 1..].chars();
            match after.next() {
                Some('%') => out.push('%'),
                Some('n') => out.push_str(&self.name),
                Some('p') => out.push_str(self.name.split('@').next().unwrap_or_default()),
                Some('i') => out.push_str(self.name.split_once('@').map_or("", |(_, instance)| instance)),
                Some('t') => out.push_str(&self.runtime_dir),
                Some(other) => {
                    let other = other.escape_debug();
                    return Err(format!(
                        "unknown specifier \"%{other}\"; there are %n, %p, %i and %t, and %% is a percent sign"
                    ));
                }
                None => return Err("a \"%\" at the end; write \"%%\" for a percent sign".into()),
            }
            rest = after.as_str();
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// `text` so that [`Specifiers::expand`] gives it back.
pub(crate) fn escape(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers_are_replaced() {
        let specifiers = Specifiers { name: "chat@eu@1".into(), runtime_dir: "/run/aeterna".into() };
        assert_eq!(specifiers.expand("%n|%p|%i|%t|100%%").unwrap(), "chat@eu@1|chat|eu@1|/run/aeterna|100%");
        let plain = Specifiers { name: "chat".into(), runtime_dir: String::new() };
        assert_eq!(plain.expand("%p|%i|").unwrap(), "chat||");
        assert_eq!(plain.expand(&escape("50% of %n")).unwrap(), "50% of %n");
    }

    #[test]
    fn unknown_specifiers_are_refused() {
        let specifiers = Specifiers::default();
        assert!(specifiers.expand("%x").unwrap_err().contains("\"%x\""));
        assert!(specifiers.expand("100%").unwrap_err().contains("at the end"));
        assert!(specifiers.expand("%ä").is_err());
    }
}
