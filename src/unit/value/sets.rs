//! Sets of small numbers: processors, exit statuses, HTTP statuses.

use super::super::ExitStatusSet;
use super::super::signal::{parse_signal, signal_name};

/// The highest processor number that a mask of the kernel can name (CONFIG_NR_CPUS is at most 8192).
const LAST_CPU: u32 = 8191;

/// Exit statuses by name: the C library's two, those of LSB init scripts, sysexits.h, and those with which systemd
/// says that a process was never started (systemd.exec(5), PROCESS EXIT CODES): wrappers use them too.
const EXIT_NAMES: &[(&str, u8)] = &[
    ("SUCCESS", 0),
    ("FAILURE", 1),
    ("INVALIDARGUMENT", 2),
    ("NOTIMPLEMENTED", 3),
    ("NOPERMISSION", 4),
    ("NOTINSTALLED", 5),
    ("NOTCONFIGURED", 6),
    ("NOTRUNNING", 7),
    ("USAGE", 64),
    ("DATAERR", 65),
    ("NOINPUT", 66),
    ("NOUSER", 67),
    ("NOHOST", 68),
    ("UNAVAILABLE", 69),
    ("SOFTWARE", 70),
    ("OSERR", 71),
    ("OSFILE", 72),
    ("CANTCREAT", 73),
    ("IOERR", 74),
    ("TEMPFAIL", 75),
    ("PROTOCOL", 76),
    ("NOPERM", 77),
    ("CONFIG", 78),
    ("CHDIR", 200),
    ("NICE", 201),
    ("FDS", 202),
    ("EXEC", 203),
    ("MEMORY", 204),
    ("LIMITS", 205),
    ("OOM_ADJUST", 206),
    ("SIGNAL_MASK", 207),
    ("STDIN", 208),
    ("STDOUT", 209),
    ("CHROOT", 210),
    ("IOPRIO", 211),
    ("TIMERSLACK", 212),
    ("SECUREBITS", 213),
    ("SETSCHEDULER", 214),
    ("CPUAFFINITY", 215),
    ("GROUP", 216),
    ("USER", 217),
    ("CAPABILITIES", 218),
    ("CGROUP", 219),
    ("SETSID", 220),
    ("CONFIRM", 221),
    ("STDERR", 222),
    ("PAM", 224),
    ("NETWORK", 225),
    ("NAMESPACE", 226),
    ("NO_NEW_PRIVILEGES", 227),
    ("SECCOMP", 228),
    ("SELINUX_CONTEXT", 229),
    ("PERSONALITY", 230),
    ("APPARMOR", 231),
    ("ADDRESS_FAMILIES", 232),
    ("RUNTIME_DIRECTORY", 233),
    ("CHOWN", 235),
    ("SMACK_PROCESS_LABEL", 236),
    ("KEYRING", 237),
    ("STATE_DIRECTORY", 238),
    ("CACHE_DIRECTORY", 239),
    ("LOGS_DIRECTORY", 240),
    ("CONFIGURATION_DIRECTORY", 241),
    ("NUMA_POLICY", 242),
    ("CREDENTIALS", 243),
    ("BPF", 244),
    ("EXCEPTION", 255),
];

/// Adds one word of `SuccessExitStatus` and the like to `set`: a code, a name, a signal.
pub(crate) fn parse_exit_status(word: &str, set: &mut ExitStatusSet) -> Result<(), String> {
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        let code =
            word.parse().map_err(|_| format!("exit status {word} is out of range; they go from 0 to 255"))?;
        insert(&mut set.codes, code);
        return Ok(());
    }
    let name = word.strip_prefix("EX_").unwrap_or(word);
    if let Some((_, code)) = EXIT_NAMES.iter().find(|(known, _)| *known == name) {
        insert(&mut set.codes, *code);
    } else if let Some(signal) = parse_signal(word) {
        insert(&mut set.signals, signal);
    } else {
        let hint = super::super::read::nearest(word, EXIT_NAMES.iter().map(|(known, _)| *known));
        let hint = hint
            .map_or("use a number, a name such as TEMPFAIL, or a signal such as SIGKILL".into(), |name| {
                format!("did you mean \"{name}\"?")
            });
        return Err(format!("\"{word}\" is not an exit status; {hint}"));
    }
    Ok(())
}

/// The words of a set of exit statuses: codes as TOML numbers, signals as TOML strings.
pub(crate) fn print_exit_status(set: &ExitStatusSet) -> Vec<String> {
    let codes = set.codes.iter().map(ToString::to_string);
    codes.chain(set.signals.iter().map(|signal| format!("\"{}\"", signal_name(*signal)))).collect()
}

/// Adds the processors of one word (`3`, `0-3`, or several with commas) to `cpus`, which stays sorted.
pub(crate) fn parse_cpus(text: &str, cpus: &mut Vec<u32>) -> Result<(), String> {
    for part in text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|part| !part.is_empty()) {
        let wrong = || {
            format!("\"{part}\" is not a processor or a range of them; write 3 or \"0-3\", up to {LAST_CPU}")
        };
        let (first, last) = range(part).filter(|(_, last)| *last <= LAST_CPU).ok_or_else(wrong)?;
        for cpu in first..=last {
            insert(cpus, cpu);
        }
    }
    Ok(())
}

/// The processors as ranges, `0-3,5`.
pub(crate) fn print_cpus(cpus: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    print_ranges(&ranges)
}

/// Adds the ranges of HTTP statuses in `200-399,404` to `ranges`.
pub(crate) fn parse_status_ranges(text: &str, ranges: &mut Vec<(u16, u16)>) -> Result<(), String> {
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let wrong = || {
            format!("\"{part}\" is not a range of HTTP statuses; write \"200-399\" or 204, from 100 to 599")
        };
        let (first, last) = range(part).ok_or_else(wrong)?;
        if first < 100 || last > 599 {
            return Err(wrong());
        }
        ranges.push((first as u16, last as u16));
    }
    Ok(())
}

/// The ranges as [`parse_status_ranges`] reads them back.
pub(crate) fn print_status_ranges(ranges: &[(u16, u16)]) -> String {
    let ranges: Vec<(u32, u32)> = ranges.iter().map(|(a, b)| (u32::from(*a), u32::from(*b))).collect();
    print_ranges(&ranges)
}

/// `A` or `A-B` with A ≤ B.
fn range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |digits: &str| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u32>().ok().filter(|_| plain)
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn print_ranges(ranges: &[(u32, u32)]) -> String {
    let words: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    words.join(",")
}

/// Inserts into a sorted list without repetitions.
fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(place) = sorted.binary_search(&item) {
        sorted.insert(place, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_codes_names_and_signals() {
        let mut set = ExitStatusSet::default();
        for word in ["75", "TEMPFAIL", "EX_USAGE", "0", "SIGKILL", "TERM"] {
            parse_exit_status(word, &mut set).unwrap();
        }
        assert_eq!(set, ExitStatusSet { codes: vec![0, 64, 75], signals: vec![9, 15] });
        assert_eq!(print_exit_status(&set), ["0", "64", "75", "\"SIGKILL\"", "\"SIGTERM\""]);
        for (word, part) in
            [("256", "out of range"), ("TEMPFIAL", "did you mean \"TEMPFAIL\""), ("", "use a number")]
        {
            assert!(parse_exit_status(word, &mut set).unwrap_err().contains(part), "{word}");
        }
    }

    #[test]
    fn processors_are_ranges() {
        let mut cpus = Vec::new();
        parse_cpus("8,0-3 5", &mut cpus).unwrap();
        assert_eq!(cpus, [0, 1, 2, 3, 5, 8]);
        assert_eq!(print_cpus(&cpus), "0-3,5,8");
        for text in ["3-1", "a", "-1", "8192", "0-99999"] {
            assert!(parse_cpus(text, &mut cpus).is_err(), "{text}");
        }
    }

    #[test]
    fn http_statuses_are_ranges() {
        let mut ranges = Vec::new();
        parse_status_ranges("200-299, 404", &mut ranges).unwrap();
        assert_eq!(ranges, [(200, 299), (404, 404)]);
        assert_eq!(print_status_ranges(&ranges), "200-299,404");
        for text in ["2xx", "99", "200-600", "300-200"] {
            assert!(parse_status_ranges(text, &mut ranges).is_err(), "{text}");
        }
    }
}
