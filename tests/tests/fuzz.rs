//! A short round of fuzzing: the committed corpus, and inputs made from it.
#![allow(clippy::unwrap_used, reason = "tests")]

use canary_tests::fuzz::{Format, TARGETS, Target, campaign::campaign};

const RUNS: u64 = 20_000;
/// Of those that go over sockets.
const SERVED: u64 = 2_000;
const SEED: u64 = 1;

#[test]
fn nothing_is_found() {
    for target in TARGETS {
        let runs = if target.name == "api" { SERVED } else { RUNS };
        let outcome = campaign(target, runs, SEED, |_| Ok(())).unwrap();
        if let Some(finding) = outcome.finding {
            let path = finding.save(target).unwrap();
            let (name, why, origin) = (target.name, &finding.why, &finding.origin);
            panic!("{name}: {why} (by {origin}; the input is in {})", path.display());
        }
        assert_eq!(outcome.runs, runs);
        eprintln!(
            "{}: {runs} runs, {:.0} a second, {} inputs kept",
            target.name,
            outcome.per_second(),
            outcome.kept
        );
    }
}

/// A machine that finds nothing proves nothing: this one finds a word that no
/// file has, leaves all else away, and does the same for the same seed.
#[test]
fn what_is_there_is_found() {
    let target = Target {
        name: "config",
        format: Format::Text,
        dictionary: &[b"zeb", b"ra", b"zebra"],
        check: |input| {
            assert_ne!(input, b"zebra", "an animal");
            let met = input.windows(5).any(|part| part == b"zebra");
            if met { Err("in a crowd".into()) } else { Ok(vec![]) }
        },
    };
    let found = || campaign(&target, RUNS, SEED, |_| Ok(())).unwrap().finding.unwrap();
    let (first, again) = (found(), found());
    assert_eq!(first.input, b"zebra");
    // A panic is a finding as any other.
    assert!(first.why.starts_with("panicked: ") && first.why.contains("animal"), "{}", first.why);
    assert_eq!(first.origin, again.origin);
}
