//! "Did you mean": the known word that is nearest to a mistyped one.

/// The candidate that `word` is most likely a slip of, if one is near enough: at most a third of its
/// letters (at least one) added, lost, changed or swapped with their neighbour; or `word` is its beginning.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    // Long garbage is nobody's slip, and the comparison is quadratic.
    if length == 0 || length > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let known = candidate.to_lowercase();
            let distance =
                if known.starts_with(&lower) && length >= 2 { 1 } else { distance(&lower, &known) };
            let allowed = (known.chars().count().max(length) / 3).max(1);
            (distance <= allowed).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters were added, lost, changed or swapped (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = above;
        above = row;
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word() {
        let words = ["reload", "restart", "rollback", "status", "start", "stop"];
        for (slip, word) in [
            ("relaod", Some("reload")),
            ("reloads", Some("reload")),
            ("Status", Some("status")),
            ("stat", Some("status")),
            ("rollbak", Some("rollback")),
            ("roll", Some("rollback")),
            ("xyzzy", None),
            ("", None),
            ("s", None),
        ] {
            assert_eq!(nearest(slip, words), word, "{slip}");
        }
    }

    #[test]
    fn distances_count_slips() {
        for (a, b, slips) in [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
        }
    }
}
