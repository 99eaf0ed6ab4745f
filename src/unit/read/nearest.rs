//! "Did you mean": the known name that is nearest to a wrong one.

/// The nearest of `known` to `wrong`, if one is near enough to be meant. Upper and lower case count as equal.
pub(crate) fn nearest<'k>(wrong: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Nothing that long is a slip, and the distance is quadratic.
    if wrong.len() > 64 {
        return None;
    }
    let wrong = wrong.to_lowercase();
    // One slip in three characters: more is another word.
    let most = wrong.chars().count().div_ceil(3);
    known
        .into_iter()
        .map(|name| (distance(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// As [`nearest`], with at most `most` slips.
pub(crate) fn nearest_within<'k>(
    wrong: &str,
    known: impl IntoIterator<Item = &'k str>,
    most: usize,
) -> Option<&'k str> {
    let near = nearest(wrong, known)?;
    (distance(&wrong.to_lowercase(), &near.to_lowercase()) <= most).then_some(near)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(ca != cb)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["ListenStream", "ListenDatagram", "Backlog", "User"];
        for (wrong, right) in [
            ("ListenStrem", Some("ListenStream")),
            ("listenstream", Some("ListenStream")),
            ("ListenDtaagram", Some("ListenDatagram")),
            ("Usr", Some("User")),
            ("Exec", None),
            ("", None),
            (&"User".repeat(20), None),
        ] {
            assert_eq!(nearest(wrong, known), right, "{wrong}");
        }
    }

    #[test]
    fn distances_count_single_slips() {
        for (a, b, expected) in [("", "", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
