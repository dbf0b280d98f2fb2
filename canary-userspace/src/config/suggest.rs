//! What somebody may have meant.

/// The candidate nearest to `word`, if it is near enough to be a slip of the
/// finger: one edit for every three letters, case and `-` for `_` not counted.
pub(super) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word = normal(word);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &normal(candidate)), candidate))
        .filter(|(distance, candidate)| {
            *distance <= (candidate.chars().count().max(word.len()) / 3).clamp(1, 3)
                // Of one or two letters nothing would be left.
                && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The candidate that one edit makes of `word`: nearer than a word that means
/// something elsewhere.
pub(super) fn slip<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let meant = closest(word, candidates)?;
    (distance(&normal(word), &normal(meant)) <= 1).then_some(meant)
}

fn normal(word: &str) -> Vec<char> {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Edits (insert, remove, replace, swap neighbours) between two words: the
/// restricted Damerau-Levenshtein distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &to) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(from != to);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from == b[j - 1] && a[i - 1] == to {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// `a`, `b` or `c`, each in the given quote.
pub(super) fn or_list<S: AsRef<str>>(words: &[S], quote: &str) -> String {
    let quoted: Vec<String> =
        words.iter().map(|word| format!("{quote}{}{quote}", word.as_ref())).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

pub(super) fn is_prime(number: u32) -> bool {
    number >= 2 && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

/// The smallest prime that is not below `from`, or else the largest one that is
/// not above `most`. `most` is small enough for trial division.
pub(super) fn prime_near(from: u32, most: u32) -> u32 {
    (from..=most)
        .find(|n| is_prime(*n))
        .unwrap_or_else(|| (2..=most).rev().find(|n| is_prime(*n)).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let keys = ["listen", "stable", "canary", "weight", "table_size"];
        let closest = |word| closest(word, keys);
        assert_eq!(closest("wieght"), Some("weight"));
        assert_eq!(closest("stabel"), Some("stable"));
        assert_eq!(closest("Listen"), Some("listen"));
        assert_eq!(closest("table-size"), Some("table_size"));
        assert_eq!(closest("tabel_sizes"), Some("table_size"));
        assert_eq!(closest("colour"), None);
        assert_eq!(closest(""), None);
    }

    #[test]
    fn distances() {
        let distance = |a: &str, b: &str| super::distance(&normal(a), &normal(b));
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("acb", "abc"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn primes() {
        let below_50: Vec<u32> = (0..50).filter(|n| is_prime(*n)).collect();
        assert_eq!(below_50, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]);
        assert!(is_prime(canary_common::DEFAULT_TABLE_SIZE));
        assert!(is_prime(canary_common::MAX_TABLE_SIZE));
        assert_eq!(prime_near(16_384, 131_071), 16_411);
        assert_eq!(prime_near(200_000, 131_071), 131_071);
    }

    #[test]
    fn lists() {
        assert_eq!(or_list(&["a"], "`"), "`a`");
        assert_eq!(or_list(&["a", "b", "c"], "\""), "\"a\", \"b\" or \"c\"");
        assert_eq!(or_list::<&str>(&[], "`"), "");
    }
}
