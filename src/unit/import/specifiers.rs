//! systemd.unit(5), SPECIFIERS: what can be said when a unit is imported is said, what only the machine knows is
//! refused.

/// The names that a unit's specifiers stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// `redis-server@cache.service`.
    full: String,
    /// `redis-server`.
    prefix: String,
    /// `cache`; `None` where there is no instance.
    instance: Option<String>,
    /// A template without its instance: that is known when the TOML file has its name.
    open: bool,
    /// A unit of a user's manager: folders and names are that user's.
    user: bool,
    /// A service of which each connection has an instance.
    connections: bool,
}

impl Names {
    /// The names of the unit that is in this file.
    pub(super) fn of(file: &str) -> Names {
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let (prefix, instance) = match stem.split_once('@') {
            Some((prefix, instance)) => (prefix.to_string(), Some(instance.to_string())),
            None => (stem.to_string(), None),
        };
        let open = instance.as_deref() == Some("");
        Names { full: file.to_string(), prefix, instance, open, user: false, connections: false }
    }

    /// The same in a unit of a user's manager, if `user`.
    pub(super) fn of_user(self, user: bool) -> Names {
        Names { user, ..self }
    }

    /// The same in a service of which each connection has an instance, if `connections`: nobody knows its name.
    pub(super) fn of_connections(self, connections: bool) -> Names {
        Names { connections, ..self }
    }

    /// The unit's name without its type: what `[Unit] Name` is.
    pub(super) fn name(&self) -> String {
        match &self.instance {
            Some(instance) => format!("{}@{instance}", self.prefix),
            None => self.prefix.clone(),
        }
    }

    /// The file's name, as a unit of ours has to say it.
    pub(super) fn full_name(&self) -> String {
        match (self.open, self.full.rsplit_once("@.")) {
            (true, Some((prefix, kind))) => format!("{}@%i.{kind}", prefix.replace('%', "%%")),
            _ => self.full.replace('%', "%%"),
        }
    }

    /// Whether it is a template without an instance.
    pub(super) fn is_template(&self) -> bool {
        self.open
    }

    /// `text` with its specifiers replaced, as a unit of ours has to say it (`%%` for a percent sign).
    ///
    /// # Errors
    /// The specifier that has no equivalent, and why.
    pub(super) fn translate(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, if c == '%' { chars.next() } else { None }) {
                ('%', Some('%')) => out.push_str("%%"),
                // systemd takes a percent sign that begins nothing as itself.
                ('%', None) => out.push_str("%%"),
                ('%', Some(letter)) => out.push_str(&self.one(letter)?),
                (c, _) => out.push(c),
            }
        }
        Ok(out)
    }

    fn one(&self, letter: char) -> Result<String, String> {
        let escape = |text: &str| text.replace('%', "%%");
        let instance = || self.instance.clone().unwrap_or_default();
        let known = match letter {
            't' => "%t".into(),
            'i' | 'I' | 'n' | 'N' | 'f' if self.connections => {
                return Err(format!(
                    "%{letter} is another one for each connection and has no equivalent; REMOTE_ADDR and REMOTE_PORT say \
                     whose it is"
                ));
            }
            'h' | 'S' | 'C' | 'L' | 'E' | 'u' | 'g' | 'U' | 'G' if self.user => {
                return Err(format!("%{letter} of a user's unit is that user's; write what it stands for"));
            }
            'i' | 'I' | 'n' | 'N' | 'j' | 'J' | 'f' if self.open => match letter {
                'i' => "%i".into(),
                'n' => "%n.service".into(),
                'N' => "%n".into(),
                _ => {
                    return Err(format!(
                        "%{letter} of a template has no equivalent; write what it stands for"
                    ));
                }
            },
            'n' => escape(&self.full),
            'N' => escape(&self.name()),
            'p' => escape(&self.prefix),
            'P' => escape(&unescape(&self.prefix)),
            'i' => escape(&instance()),
            'I' => escape(&unescape(&instance())),
            'j' => escape(self.prefix.rsplit('-').next().unwrap_or_default()),
            'J' => escape(&unescape(self.prefix.rsplit('-').next().unwrap_or_default())),
            'f' => escape(&format!("/{}", unescape(self.instance.as_deref().unwrap_or(&self.prefix)))),
            'E' => "/etc".into(),
            'S' => "/var/lib".into(),
            'C' => "/var/cache".into(),
            'L' => "/var/log".into(),
            'T' => "/tmp".into(),
            'V' => "/var/tmp".into(),
            // The user and group that the system's manager runs as, whatever User= says.
            'u' | 'g' => "root".into(),
            'U' | 'G' => "0".into(),
            'h' => "/root".into(),
            other => {
                return Err(format!(
                    "%{} is known only on the machine that it runs on; write what it stands for",
                    other.escape_debug()
                ));
            }
        };
        Ok(known)
    }
}

/// A name without the escapes of systemd-escape(1): `-` is a slash, `\xNN` a byte.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let code = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        match (c, code) {
            (_, Some(code)) => {
                bytes.push(code);
                rest = &rest[4..];
            }
            ('-', None) => {
                bytes.push(b'/');
                rest = &rest[1..];
            }
            (c, None) => {
                bytes.extend(c.to_string().bytes());
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers_become_what_they_stand_for() {
        let plain = Names::of("web-chat.service");
        let text = "%n %N %p %P %j %i| %f %t/x %E %S %C %L %T %V %u %U %g %G %h 5%% 7%";
        assert_eq!(
            plain.translate(text).unwrap(),
            "web-chat.service web-chat web-chat web/chat chat | /web/chat %t/x /etc /var/lib /var/cache /var/log \
             /tmp /var/tmp root 0 root 0 /root 5%% 7%%"
        );
        let instance = Names::of("chat@srv-eu\\x2d1.socket");
        assert_eq!(
            instance.translate("%i %I %p %n %f").unwrap(),
            "srv-eu\\x2d1 srv/eu-1 chat chat@srv-eu\\x2d1.socket /srv/eu-1"
        );
        assert!(plain.translate("%H").unwrap_err().contains("%H is known only"));
        assert!(plain.translate("%s").unwrap_err().contains("%s is known only"));
        assert_eq!(
            (plain.full_name(), instance.full_name()),
            ("web-chat.service".into(), "chat@srv-eu\\x2d1.socket".into())
        );
    }

    #[test]
    fn a_template_keeps_what_its_file_name_will_say() {
        let template = Names::of("chat@.service");
        assert!(template.is_template());
        assert_eq!(template.full_name(), "chat@%i.service");
        assert_eq!(template.translate("%i %n %N %p").unwrap(), "%i %n.service %n chat");
        assert!(template.translate("%I").is_err());
        let connection = Names::of("ask@.service").of_connections(true);
        assert_eq!(connection.translate("%p %E").unwrap(), "ask /etc");
        assert!(["%i", "%I", "%n", "%N", "%f"].iter().all(|text| connection.translate(text).is_err()));
        let users = Names::of("a.service").of_user(true);
        assert_eq!(users.translate("%n %t").unwrap(), "a.service %t");
        assert!(["%h", "%S", "%C", "%E", "%L", "%u", "%U"].iter().all(|text| users.translate(text).is_err()));
    }
}
