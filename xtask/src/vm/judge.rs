//! What a guest's report on the serial line comes to. Whatever is not an
//! explicit success is a failure.

use std::{collections::BTreeMap, fmt, process::ExitStatus};

use crate::summary::{Summary, Tally};

/// Lines of the guest's own begin with it.
const OURS: &str = "VM ";

/// How a virtual machine ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Exited(ExitStatus),
    /// It was ended, for it had not reported in time.
    Hung,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "QEMU ended ({status})"),
            Self::Hung => f.write_str("it hung: no report in time"),
        }
    }
}

/// What the guest of a kernel that took the program reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Milliseconds that loading all programs took.
    pub(super) load_ms: u64,
    /// Instructions that the verifier walked, by program.
    pub(super) verified: BTreeMap<String, u64>,
    pub(super) tests: Summary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed(Report),
    /// The kernel's words on the program that it does not load.
    Refused(String),
    Failed(String),
}

/// Whether a line is worth showing while the guest runs.
pub(super) fn is_told(line: &str) -> bool {
    line.starts_with(OURS)
        || line.starts_with("test ")
        || line.starts_with("running ")
        || line.contains("panic")
}

/// Takes a machine's whole output, and how it ended.
pub(super) fn judge(text: &str, end: &End) -> Verdict {
    let mut report = Report::default();
    let (mut tally, mut last, mut refused) = (Tally::default(), None, None);
    for line in text.lines() {
        let line = line.trim();
        if line.contains("Kernel panic") {
            return Verdict::Failed(line.to_owned());
        }
        tally.line(line);
        let Some(said) = line.strip_prefix(OURS) else { continue };
        last = Some(said);
        match said.split_once(' ') {
            Some(("kernel", release)) => release.clone_into(&mut report.release),
            Some(("loaded", ms)) => report.load_ms = ms.parse().unwrap_or_default(),
            Some(("refused", why)) => refused = Some(why.to_owned()),
            Some(("verified", figures)) => {
                let figure = figures.split_once(' ');
                let figure = figure.and_then(|(name, count)| Some((name, count.parse().ok()?)));
                report.verified.extend(figure.map(|(name, count)| (name.to_owned(), count)));
            }
            _ => {}
        }
    }
    let well = matches!(end, End::Exited(status) if status.success());
    report.tests = tally.finish(well);
    match (last, refused) {
        (Some("success"), _) if !well => Verdict::Failed(end.to_string()),
        (Some("success"), _) => complete(report),
        (_, Some(why)) if well => Verdict::Refused(why),
        (Some(said), _) => Verdict::Failed(format!("{end}; its last word was: {said}")),
        (None, _) => Verdict::Failed(format!("{end}; its guest said nothing")),
    }
}

/// A success is one only with all that belongs to it.
fn complete(report: Report) -> Verdict {
    if report.release.is_empty() || report.verified.is_empty() {
        return Verdict::Failed("it reports success, but not of which programs".into());
    }
    if report.tests.passed == 0 || report.tests.failed > 0 {
        return Verdict::Failed(format!("it reports success with {}", report.tests));
    }
    Verdict::Passed(report)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::{End, ExitStatus, Verdict, judge};

    const GOOD: &str = "VM kernel 6.1.0-9\r\nVM loaded 900\r\nVM verified canary 787922\r\n\
                        \r\nrunning 2 tests\r\ntest a ... ok\r\ntest b ... ok\r\n\r\n\
                        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; \
                        finished in 1.00s\r\n\r\nVM success\r\n[ 9.1] reboot: Power down\r\n";

    fn well() -> End {
        End::Exited(ExitStatus::from_raw(0))
    }

    fn why(text: &str, end: &End) -> String {
        match judge(text, end) {
            Verdict::Failed(why) => why,
            other => format!("not failed: {other:?}"),
        }
    }

    #[test]
    fn a_whole_report_passes() {
        let Verdict::Passed(report) = judge(GOOD, &well()) else {
            panic!("{:?}", judge(GOOD, &well()))
        };
        assert_eq!((report.release.as_str(), report.load_ms), ("6.1.0-9", 900));
        assert_eq!(report.verified.get("canary"), Some(&787_922));
        assert_eq!(report.tests.to_string(), "2 passed, 0 failed");
    }

    #[test]
    fn a_report_cut_anywhere_fails() {
        let end = GOOD.find("VM success").unwrap_or_default();
        for len in 0..end + "VM succes".len() {
            let Some(part) = GOOD.get(..len) else { continue };
            assert!(matches!(judge(part, &well()), Verdict::Failed(_)), "{part}");
        }
    }

    #[test]
    fn panics_hangs_and_words_after_success_fail() {
        let panic = "[ 1.0] Kernel panic - not syncing: sysrq triggered crash";
        assert!(why(panic, &well()).contains("sysrq"));
        // Also where success was reported already.
        assert!(why(&format!("{GOOD}{panic}\n"), &well()).contains("Kernel panic"));
        assert!(why(GOOD, &End::Hung).contains("hung"));
        assert!(why("", &End::Hung).contains("said nothing"));
        assert!(why(GOOD, &End::Exited(ExitStatus::from_raw(9))).contains("ended"));
        let failure = GOOD.replace("VM success", "VM failure no veth");
        assert!(why(&failure, &well()).contains("no veth"));
        assert!(why(&format!("{GOOD}VM failure late\n"), &well()).contains("late"));
    }

    #[test]
    fn success_with_nothing_behind_it_fails() {
        assert!(why("VM kernel 6\nVM success\n", &well()).contains("not of which programs"));
        let none = GOOD.replace("2 passed", "0 passed");
        assert!(why(&none, &well()).contains("0 passed"));
        let failed = GOOD.replace("0 failed", "1 failed");
        assert!(why(&failed, &well()).contains("1 failed"));
        // A second table that began and did not end.
        let died = GOOD.replace("\r\nVM success", "running 1 test\r\nVM success");
        assert!(why(&died, &well()).contains("1 failed"));
    }

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let text = "VM kernel 5.10\nVM refused Arg#0 type PTR\nVM failure loading\n";
        assert_eq!(judge(text, &well()), Verdict::Refused("Arg#0 type PTR".into()));
        assert!(why(text, &End::Hung).contains("hung"));
    }
}
