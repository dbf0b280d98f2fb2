//! What would have happened: recorded counters judged again, under other rules
//! perhaps.

use std::{io::BufRead, mem::discriminant, time::Duration};

use serde::{Deserialize, Serialize};

use super::{EpochCounts, Judgement, NoSuchBucket, Record, Seen, Verdict, judge, percent};
use crate::config::Evidence;

/// A look at the recorded counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Of the file, from 1.
    pub line: usize,
    /// Seconds since 1970.
    pub at: f64,
    pub epoch: u64,
    pub judgement: Judgement,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    pub looks: usize,
    /// The first look that found harm: the canary would have been taken out.
    /// What comes after it in the file happened without that.
    pub acted: Option<Look>,
    /// Every look at which the verdict was another than at the one before.
    pub turns: Vec<Look>,
    /// The last look.
    pub end: Look,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("line {line}: {why}")]
    Read { line: usize, why: std::io::Error },
    #[error("line {line} is no record of counters: {why}")]
    Json { line: usize, why: serde_json::Error },
    #[error("line {line}: {why}")]
    Bucket { line: usize, why: NoSuchBucket },
    #[error("line {line}: the split is {split}; it is a fraction of 1")]
    Split { line: usize, split: f64 },
    #[error("line {line}: the time goes back, from {from} to {to}")]
    Time { line: usize, from: f64, to: f64 },
    #[error(
        "line {line}: epoch {epoch} begins after epoch {last}; a file has one rollout, and its epochs' numbers rise"
    )]
    Epoch { line: usize, epoch: u64, last: u64 },
    #[error(
        "line {line}: the split of epoch {epoch} was {was} and is {is}; another split is another epoch"
    )]
    Changed { line: usize, epoch: u64, was: f64, is: f64 },
    #[error("line {line}: epoch {epoch} has fewer {what} than before")]
    Fewer { line: usize, epoch: u64, what: &'static str },
    #[error("there is no record in it")]
    Empty,
}

/// Judges after each line of `records`, which is one [`Record`] a line; empty
/// lines are skipped.
///
/// # Errors
/// What can't be read or can't be, with its line.
pub fn replay(records: impl BufRead, rules: &Evidence) -> Result<Replay, ReplayError> {
    let mut past = Past::default();
    let mut looks = 0;
    let (mut acted, mut turns, mut end) = (None, Vec::<Look>::new(), None);
    for (line, text) in (1..).zip(records.lines()) {
        let text = text.map_err(|why| ReplayError::Read { line, why })?;
        if text.trim().is_empty() {
            continue;
        }
        let record: Record =
            serde_json::from_str(&text).map_err(|why| ReplayError::Json { line, why })?;
        past.enter(line, &record)?;
        looks += 1;
        let judgement = judge(&past.seen, rules);
        let look = Look { line, at: record.at, epoch: record.epoch, judgement };
        let verdict = &look.judgement.verdict;
        if acted.is_none() && matches!(verdict, Verdict::Harm { .. }) {
            acted = Some(look.clone());
        }
        let same = |turn: &Look| discriminant(&turn.judgement.verdict) == discriminant(verdict);
        if !turns.last().is_some_and(same) {
            turns.push(look.clone());
        }
        end = Some(look);
    }
    end.map(|end| Replay { looks, acted, turns, end }).ok_or(ReplayError::Empty)
}

/// What was recorded up to a line.
#[derive(Default)]
struct Past {
    seen: Seen,
    /// The numbers of `seen`'s epochs.
    epochs: Vec<u64>,
    at: Option<f64>,
}

impl Past {
    fn enter(&mut self, line: usize, record: &Record) -> Result<(), ReplayError> {
        let bucket = |why| ReplayError::Bucket { line, why };
        if !(0.0..=1.0).contains(&record.split) {
            return Err(ReplayError::Split { line, split: record.split });
        }
        if let Some(from) = self.at.filter(|at| *at > record.at) {
            return Err(ReplayError::Time { line, from, to: record.at });
        }
        self.at = Some(record.at);
        self.seen.sticky |= record.sticky;
        if let Some(before) = &record.before {
            self.seen.before = Some(before.counts().map_err(bucket)?);
        }
        let counts = record.counts().map_err(bucket)?;
        let known = self.epochs.iter().position(|epoch| *epoch == record.epoch);
        match (known.and_then(|index| self.seen.epochs.get_mut(index)), self.epochs.last()) {
            (Some(epoch), _) => {
                follows(line, record.epoch, epoch, &counts)?;
                *epoch = counts;
            }
            (None, Some(&last)) if last > record.epoch => {
                return Err(ReplayError::Epoch { line, epoch: record.epoch, last });
            }
            (None, _) => {
                self.epochs.push(record.epoch);
                self.seen.epochs.push(counts);
            }
        }
        Ok(())
    }
}

/// Counters of an epoch only rise, and it has one split.
fn follows(
    line: usize,
    epoch: u64,
    before: &EpochCounts,
    now: &EpochCounts,
) -> Result<(), ReplayError> {
    #[expect(clippy::float_cmp, reason = "the same number was written twice, or it was not")]
    if before.share != now.share {
        let (was, is) = (before.share, now.share);
        return Err(ReplayError::Changed { line, epoch, was, is });
    }
    for (before, now) in [(&before.canary, &now.canary), (&before.stable, &now.stable)] {
        let falls = [
            ("connections", before.connections > now.connections),
            ("refused", before.refused > now.refused),
            ("resets", before.resets > now.resets),
            ("handshake_timeouts", before.handshake_timeouts > now.handshake_timeouts),
            ("connections_5xx", before.http_5xx > now.http_5xx),
            ("handshake times", before.handshake.count() > now.handshake.count()),
            ("first_byte times", before.first_byte.count() > now.first_byte.count()),
        ];
        if let Some((what, _)) = falls.iter().find(|(_, fell)| *fell) {
            return Err(ReplayError::Fewer { line, epoch, what });
        }
    }
    Ok(())
}

impl Replay {
    /// For people, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let time = |at: f64| {
            let at = Duration::try_from_secs_f64(at).unwrap_or_default();
            humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + at).to_string()
        };
        let said = |look: &Look| {
            let judgement = &look.judgement;
            let split = percent(judgement.split);
            format!("{} (line {}), at {split}: {}", time(look.at), look.line, judgement.reason())
        };
        let mut lines: Vec<String> = self.turns.iter().map(said).collect();
        match &self.acted {
            Some(look) => lines.push(format!(
                "would have been rolled back at {}, line {}",
                time(look.at),
                look.line
            )),
            None => lines.push(format!("would not have been rolled back in {} looks", self.looks)),
        }
        lines.push(format!("at the end: {}", said(&self.end)));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Metric, RecordedTimes, RecordedTrack, TrackCounts};

    /// A look each second at 5 %, 100 connections in all between two.
    fn looks(fails_from: u64) -> String {
        let line = |look: u64| {
            let resets = 5 * (look + 1).saturating_sub(fails_from);
            format!(
                r#"{{"at":{look},"epoch":1,"split":0.05,"canary":{{"connections":{},"resets":{resets}}},"stable":{{"connections":{}}}}}"#,
                5 * (look + 1),
                95 * (look + 1)
            )
        };
        (0..30).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn when_it_would_have_acted_and_why() {
        let replay = replay(looks(10).as_bytes(), &Evidence::default()).expect("a recording");
        assert_eq!(replay.looks, 30);
        let acted = replay.acted.as_ref().expect("all of the canary's fail");
        assert_eq!((acted.line, acted.epoch), (11, 1), "{replay:?}");
        assert_eq!(acted.judgement.verdict, Verdict::Harm { metric: Metric::Resets });
        assert_eq!(replay.turns.len(), 2);
        assert_eq!(replay.end.line, 30);
        let lines = replay.lines();
        assert!(
            lines[1].starts_with("1970-01-01T00:00:10.000Z (line 11), at 5 %: canary: 5 of 55")
        );
        assert_eq!(lines[2], "would have been rolled back at 1970-01-01T00:00:10.000Z, line 11");
    }

    #[test]
    fn what_is_good_stays() {
        let text = format!("\n{}\n\n", looks(100));
        let replay = replay(text.as_bytes(), &Evidence::default()).expect("a recording");
        assert!(replay.acted.is_none() && replay.turns.len() == 1);
        assert_eq!(replay.lines()[1], "would not have been rolled back in 30 looks");
    }

    /// What the daemon writes is what is read.
    #[test]
    fn records_come_back() {
        let mut counts =
            TrackCounts { connections: 7, refused: 1, resets: 2, ..Default::default() };
        (counts.handshake_timeouts, counts.http_5xx) = (3, 4);
        counts.first_byte.counts[60] = 5;
        counts.first_byte.sum = 99;
        let epoch =
            EpochCounts { share: 0.05, canary: counts, stable: counts, ..EpochCounts::default() };
        let mut record = Record::of(1.5, 3, &epoch);
        record.before = Some(RecordedTrack::of(&counts));
        record.sticky = true;
        let text = serde_json::to_string(&record).expect("is JSON");
        let back: Record = serde_json::from_str(&text).expect("is a record");
        assert_eq!(back, record);
        assert_eq!(back.counts(), Ok(epoch));
        let plain = serde_json::to_string(&Record::of(1.5, 3, &EpochCounts::default()));
        assert!(plain.is_ok_and(|text| !text.contains("null") && !text.contains("sticky")));
        let times = RecordedTimes { sum: 0, counts: [(109, 1)].into() };
        assert_eq!(times.histogram(), Err(NoSuchBucket(109)));
    }

    #[test]
    fn mistakes_have_their_line() {
        let line = |at: f64, epoch: u64, split: f64, connections: u64| {
            let mut record = Record::of(at, epoch, &EpochCounts::default());
            (record.split, record.stable.connections) = (split, connections);
            serde_json::to_string(&record).expect("is JSON")
        };
        let first = line(10.0, 5, 0.05, 100);
        let misspelt = first.replace("resets", "reset");
        let bucket = first
            .replace(r#""stable":{"#, r#""stable":{"handshake":{"sum":0,"counts":{"300":1}},"#);
        for (second, error) in [
            ("{".to_owned(), "line 2 is no record of counters: EOF while parsing an object"),
            (misspelt, "line 2 is no record of counters: unknown field `reset`, expected one of"),
            (bucket, "line 2: there is no bucket 300 of times; the last is 108"),
            (line(10.0, 5, 5.0, 100), "line 2: the split is 5; it is a fraction of 1"),
            (line(9.0, 5, 0.05, 100), "line 2: the time goes back, from 10 to 9"),
            (line(10.0, 4, 0.05, 100), "line 2: epoch 4 begins after epoch 5; a file has one"),
            (line(10.0, 5, 0.1, 100), "line 2: the split of epoch 5 was 0.05 and is 0.1; another"),
            (line(10.0, 5, 0.05, 99), "line 2: epoch 5 has fewer connections than before"),
        ] {
            let text = format!("{first}\n{second}\n");
            let found = replay(text.as_bytes(), &Evidence::default()).expect_err("a mistake");
            assert!(found.to_string().starts_with(error), "{found}");
        }
        assert!(matches!(replay(&b"\n"[..], &Evidence::default()), Err(ReplayError::Empty)));
    }

    /// An earlier epoch's connections may still go bad.
    #[test]
    fn a_line_of_an_earlier_epoch() {
        let line = |epoch: u64, split: f64, canary: (u64, u64), stable: u64| {
            let mut record = Record::of(0.0, epoch, &EpochCounts::default());
            record.split = split;
            (record.canary.connections, record.canary.resets) = canary;
            record.stable.connections = stable;
            serde_json::to_string(&record).expect("is JSON")
        };
        let text =
            [line(1, 0.05, (50, 0), 950), line(2, 0.25, (10, 0), 30), line(1, 0.05, (50, 20), 950)];
        let replay = replay(text.join("\n").as_bytes(), &Evidence::default()).expect("a recording");
        assert_eq!(replay.acted.map(|look| look.line), Some(3));
    }
}
