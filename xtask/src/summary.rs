//! Adding up what `cargo test` prints.

use std::{
    fmt,
    ops::{Add, AddAssign},
};

/// Tests, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Add for Summary {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Reads the lines of one run of `cargo test`.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sum: Summary,
    /// A test program has begun and not given its result yet.
    open: bool,
}

impl Tally {
    /// Takes the next line.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(result) = parse_result(line) {
            self.sum += result;
            self.open = false;
        } else if is_start(line) {
            self.close();
            self.open = true;
        }
    }

    /// The sum, once the run is over and `cargo` did or did not `succeed`.
    pub(crate) fn finish(mut self, succeeded: bool) -> Summary {
        self.close();
        // A failure that no line tells of: not one test program came to run.
        if !succeeded && self.sum.failed == 0 {
            self.sum.failed = 1;
        }
        self.sum
    }

    /// A program that began and never gave its result has died.
    fn close(&mut self) {
        if self.open {
            self.sum.failed += 1;
        }
        self.open = false;
    }
}

/// `running 3 tests`
fn is_start(line: &str) -> bool {
    line.strip_prefix("running ").is_some_and(|rest| {
        let mut words = rest.split(' ');
        words.next().is_some_and(|number| number.parse::<u64>().is_ok())
            && matches!(words.next(), Some("test" | "tests"))
            && words.next().is_none()
    })
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`
fn parse_result(line: &str) -> Option<Summary> {
    let rest = line.strip_prefix("test result: ")?;
    let (_verdict, counts) = rest.split_once(". ")?;
    let mut sum = Summary::default();
    for count in counts.split("; ") {
        let Some((number, what)) = count.split_once(' ') else { continue };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => sum.passed = number,
            "failed" => sum.failed = number,
            "ignored" => sum.skipped = number,
            _ => {}
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::{Summary, Tally};

    fn tally(text: &str, succeeded: bool) -> String {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.line(line));
        tally.finish(succeeded).to_string()
    }

    const GOOD: &str = "\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n\ntest result: ok. 2 passed; \
                        0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s\n";
    const BAD: &str = "running 4 tests\ntest result: FAILED. 1 passed; 2 failed; 1 ignored; 0 \
                       measured; 0 filtered out; finished in 12.00s\n";

    #[test]
    fn results_are_added_up() {
        assert_eq!(tally(GOOD, true), "2 passed, 0 failed");
        assert_eq!(tally(&[GOOD, BAD, GOOD].concat(), false), "5 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let died = "running 1 test\n";
        assert_eq!(tally(&[GOOD, died].concat(), false), "2 passed, 1 failed");
        assert_eq!(tally(&[died, GOOD].concat(), false), "2 passed, 1 failed");
        assert_eq!(tally(&[died, BAD, died].concat(), false), "1 passed, 4 failed, 1 skipped");
    }

    #[test]
    fn a_failure_without_a_line_counts() {
        assert_eq!(tally("", false), "0 passed, 1 failed");
        assert_eq!(tally(GOOD, false), "2 passed, 1 failed");
    }

    #[test]
    fn what_tests_print_is_not_counted() {
        let chatter = "running 3 tests now\nrunning up\n test result: ok. 9 passed; 0 failed\n\
                       the test result: ok. 9 passed\ntest result: unclear\n";
        assert_eq!(tally(chatter, true), "0 passed, 0 failed");
    }

    #[test]
    fn sums_are_by_kind() {
        let one = Summary { passed: 1, failed: 2, skipped: 3 };
        assert_eq!(one + one, Summary { passed: 2, failed: 4, skipped: 6 });
    }
}
