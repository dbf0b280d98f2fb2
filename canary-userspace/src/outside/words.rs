//! What others said, made fit for a line of a log or a terminal.

use std::error::Error;

/// As much of what others said is kept, in bytes of UTF-8.
const KEPT: usize = 200;

/// The beginning, on one line and without control characters: a terminal or a
/// log must not obey what somebody outside wrote.
pub(super) fn said(bytes: &[u8]) -> String {
    // Four bytes of UTF-8 make at least one byte of what is kept.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(16 * KEPT)]);
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect();
    let text = words.join(" ");
    if text.len() <= KEPT {
        return text;
    }
    let end = (0..=KEPT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The last line that is not empty.
pub(super) fn last_line(bytes: &[u8]) -> String {
    let mut lines = bytes.rsplit(|byte| *byte == b'\n');
    lines.find(|line| !line.trim_ascii().is_empty()).map(said).unwrap_or_default()
}

/// `what`, and what they said, if anything.
pub(super) fn with(what: impl std::fmt::Display, said: &str) -> String {
    if said.is_empty() { what.to_string() } else { format!("{what}: {said}") }
}

/// An error and what is behind it, each once: many repeat their source.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// A number in four significant digits.
pub(super) fn brief(value: f64) -> String {
    // Through the exponent's form and back: it counts digits from the first one.
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    let size = rounded.abs();
    if size != 0.0 && !(1e-5..1e9).contains(&size) {
        format!("{rounded:e}")
    } else {
        rounded.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_said_is_one_harmless_line() {
        let long = "é".repeat(150);
        let cut = format!("{}…", "é".repeat(100));
        let odd = format!("a{long}");
        let odd_cut = format!("a{}…", "é".repeat(99));
        let table: [(&[u8], &str); 8] = [
            (b"", ""),
            (b"  ok\r\n", "ok"),
            (b"two\nlines\tand more", "two lines and more"),
            (b"\x1b[31mred\x07\x00", "[31mred"),
            (b"half \xff", "half \u{fffd}"),
            (long.as_bytes(), &cut),
            (odd.as_bytes(), &odd_cut),
            (&[b'\n'; 100_000], ""),
        ];
        for (bytes, expected) in table {
            assert_eq!(said(bytes), expected);
        }
    }

    #[test]
    fn the_last_line_is_the_last_with_words() {
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"one", "one"),
            (b"one\ntwo\n", "two"),
            (b"one\ntwo\r\n \n\n", "two"),
            (b"\n\n", ""),
        ] {
            assert_eq!(last_line(bytes), expected);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.013, "0.013"),
            (0.013_333_333, "0.01333"),
            (-2.5, "-2.5"),
            (1234.56, "1235"),
            (123_456.0, "123500"),
            (3.0, "3"),
            (1e-7, "1e-7"),
            (1.234_56e12, "1.235e12"),
        ] {
            assert_eq!(brief(value), expected);
        }
    }

    #[test]
    fn a_chain_says_nothing_twice() {
        let inner = std::io::Error::other("inner");
        assert_eq!(chain(&std::io::Error::other(inner)), "inner");
    }
}
