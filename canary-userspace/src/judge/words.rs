//! Verdicts in words.

use std::fmt::{self, Display, Formatter};

use super::{Connections, Failures, Judgement, Last, Metric, Times, Verdict};
use crate::evidence::Outcomes;

/// Thousands apart: "38,000".
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// To two digits.
#[must_use]
pub fn about(number: u64) -> String {
    let digits = number.checked_ilog10().map_or(0, |log| log.saturating_sub(1));
    let unit = 10_u64.pow(digits);
    grouped((number + unit / 2) / unit * unit)
}

/// What [`super::needed`] found, in words.
#[must_use]
pub fn still_needed(needed: Option<u64>, split: f64) -> String {
    match needed {
        Some(0) => "known to be safe".to_owned(),
        Some(more) => format!(
            "safe after about {} more connections at {}, if failures go on as they are",
            about(more),
            percent(split)
        ),
        None => format!("not to be found safe at {} as failures are now", percent(split)),
    }
}

/// A fraction of 1 as a percentage to two significant digits: "0.097 %". What
/// is not all is never shown as 100 %, nor what is something as 0.
#[must_use]
pub fn percent(fraction: f64) -> String {
    let percent = fraction * 100.0;
    if fraction < 1.0 && percent >= 99.5 {
        return "over 99 %".to_owned();
    }
    format!("{} %", significant(percent))
}

/// To two significant digits, whole numbers whole.
pub(super) fn significant(number: f64) -> String {
    if number >= 9.95 {
        return grouped(number.round() as u64);
    }
    if number <= 0.0 {
        return "0".to_owned();
    }
    let decimals = (1.0 - number.log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{number:.decimals$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

/// Evidence as people compare it with `1/α`.
fn evidence(ln: f64) -> String {
    if ln >= 1e6_f64.ln() { "over a million".to_owned() } else { significant(ln.exp()) }
}

/// Seconds.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "none".to_owned(),
        Some(s) if s < 1e-3 => format!("{} µs", significant(s * 1e6)),
        Some(s) if s < 1.0 => format!("{} ms", significant(s * 1e3)),
        Some(s) => format!("{} s", significant(s)),
    }
}

impl Display for Metric {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Metric {
    /// What befell connections, after their number.
    const fn befell(self) -> &'static str {
        match self {
            Self::Refused => " connections were refused",
            Self::Resets => " connections were reset",
            Self::HandshakeTimeouts => " connections got no answer to their handshake",
            Self::Http5xx => " connections had a 5xx answer",
            Self::Handshake => " connections had a handshake",
            Self::FirstByte => " connections had a first byte",
        }
    }

    const fn time(self) -> &'static str {
        match self {
            Self::FirstByte => "first byte",
            _ => "handshake",
        }
    }
}

/// "12 of 434 connections were reset (2.8 %)".
fn befell(outcomes: Outcomes, what: &str) -> String {
    let Outcomes { connections, bad } = outcomes;
    if connections == 0 {
        return "no connections".to_owned();
    }
    let all = grouped(connections);
    if bad == 0 {
        return format!("none of {all}{what}");
    }
    let rate = percent(bad as f64 / connections as f64);
    format!("{} of {all}{what} ({rate})", grouped(bad))
}

impl Display for Failures {
    /// What was counted and what follows for the ratio, without a verdict.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let canary = befell(self.canary, self.metric.befell());
        write!(f, "canary: {canary}, stable: {}", befell(self.stable, ""))
    }
}

impl Failures {
    /// "29 times as often (99 %: 8.1 to 140)"; `None` without a failure.
    fn times_as_often(&self, level: &str) -> Option<String> {
        let low = significant(self.ratio_low);
        match (self.ratio, self.ratio_high) {
            (Some(ratio), Some(high)) if ratio <= 0.0 => {
                Some(format!("at most {} times as often ({level})", significant(high)))
            }
            (Some(ratio), None) if ratio <= 0.0 => None,
            (Some(ratio), Some(high)) => {
                let (ratio, high) = (significant(ratio), significant(high));
                Some(format!("{ratio} times as often ({level}: {low} to {high})"))
            }
            (Some(ratio), None) => {
                Some(format!("{} times as often ({level}: {low} or more)", significant(ratio)))
            }
            (None, _) if self.ratio_low > 0.0 => {
                Some(format!("at least {low} times as often ({level})"))
            }
            (None, _) => None,
        }
    }
}

impl Last {
    fn sentence(&self, metric: Metric) -> String {
        let canary = befell(self.canary, metric.befell());
        let record = match self.recorded.connections {
            0 => "nothing of stable's is on record".to_owned(),
            _ => format!("stable's record: {}", befell(self.recorded, "")),
        };
        format!(
            "canary, alone at 100 %: {canary}, {record}; up to {} is allowed (the weaker \
             comparison: what changes for both versions counts against the canary)",
            percent(self.allowed),
        )
    }
}

impl Display for Times {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.metric.time();
        let of = |q: &super::Quantiles| match q.count {
            0 => "none".to_owned(),
            count => format!("p50 {}, p99 {} of {}", time(q.p50), time(q.p99), grouped(count)),
        };
        write!(f, "{name}, canary: {}; stable: {}", of(&self.canary), of(&self.stable))?;
        if self.reference == 0 {
            return f.write_str("; not judged, none of stable's are from before the rollout");
        }
        write!(f, "; {} times as long is tolerated", significant(self.tolerated))?;
        match self.floor {
            floor if floor > 0.0 => write!(f, ", and anything up to {}", time(Some(floor))),
            _ => Ok(()),
        }
    }
}

impl Judgement {
    fn level(&self) -> String {
        percent(1.0 - (-self.ln_harm_bound).exp())
    }

    fn failures_of(&self, metric: Metric) -> Option<&Failures> {
        self.failures.iter().find(|failures| failures.metric == metric)
    }

    /// What is known of a metric, with what follows from it.
    fn counted(&self, metric: Metric) -> String {
        if let Some(times) = self.times.iter().find(|times| times.metric == metric) {
            return times.to_string();
        }
        let Some(failures) = self.failures_of(metric) else { return metric.name().to_owned() };
        match (&failures.last, failures.times_as_often(&self.level())) {
            (Some(last), _) if last.ln > failures.ln_ratio => last.sentence(metric),
            (_, Some(ratio)) => format!("{failures}: {ratio}"),
            (_, None) => failures.to_string(),
        }
    }

    fn harm(&self) -> String {
        let [now, bound] = [self.ln_harm, self.ln_harm_bound].map(evidence);
        format!("evidence of harm {now}, acts at {bound}")
    }

    /// A line, for the status and the history.
    #[must_use]
    pub fn reason(&self) -> String {
        match self.verdict {
            Verdict::Harm { metric } => format!("{}; {}", self.counted(metric), self.harm()),
            Verdict::Mismatch => {
                let Connections { canary, stable } = self.connections;
                let all = canary + stable;
                format!(
                    "connections are not shared as the split of {} says: {} of {} went to the canary ({})",
                    percent(self.split),
                    grouped(canary),
                    grouped(all),
                    percent(canary as f64 / all.max(1) as f64)
                )
            }
            Verdict::Safe => {
                let worst = self.failures.iter().min_by(|a, b| a.ln_safe.total_cmp(&b.ln_safe));
                let counted = worst.map_or_else(String::new, |worst| format!(": {worst}"));
                format!("the canary is safe by all that is watched{counted}")
            }
            Verdict::NotYet { metric: Some(metric) } => {
                let now = self.failures_of(metric).map_or(0.0, |failures| failures.ln_safe);
                let [now, bound] = [now, self.ln_safe_bound].map(evidence);
                format!(
                    "no harm found, not known to be safe: {}; evidence of safety {now}, enough at {bound}",
                    self.counted(metric)
                )
            }
            Verdict::NotYet { metric: None } => {
                format!("no harm found, and no failure is watched; {}", self.harm())
            }
            Verdict::NoTraffic => {
                format!("the canary had no connection at {}", percent(self.split))
            }
        }
    }

    /// `canary explain`, a line for each thing that was asked.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let mut lines = vec![self.reason()];
        let bound = self.failures.len() + self.times.len();
        lines.push(format!("{}: the mean over {bound} metrics", self.harm()));
        for failures in &self.failures {
            lines.push(self.explain_failures(failures));
            if let Some(last) = &failures.last {
                lines.push(format!(
                    "  {}; evidence {}",
                    last.sentence(failures.metric),
                    evidence(last.ln)
                ));
            }
        }
        for times in &self.times {
            lines.push(format!("{times}; evidence of harm {}", evidence(times.ln_harm)));
        }
        match self.ln_mismatch {
            Some(ln) => lines.push(format!(
                "split of {}: evidence that it is not kept {}, holds at {}",
                percent(self.split),
                evidence(ln),
                evidence(-super::MISMATCH_LEVEL.ln())
            )),
            None => lines.push("whether the split is kept can't be told: clients stay with their version, or only one version has new connections".to_owned()),
        }
        lines
    }

    fn explain_failures(&self, failures: &Failures) -> String {
        let ratio = failures.times_as_often(&self.level());
        let ratio = ratio.map_or_else(String::new, |ratio| format!(", {ratio}"));
        let mut harm = evidence(failures.ln_harm);
        if let Some(margin) = failures.ln_margin {
            let parts = [failures.ln_ratio, margin].map(evidence);
            harm = format!("{harm} (by ratio {}, by margin {}; both must)", parts[0], parts[1]);
        }
        let safe = if failures.safe { "safe" } else { "not known to be safe" };
        format!(
            "{}: {failures}{ratio}; evidence of harm {harm}; {safe}, evidence {} of {}",
            failures.metric,
            evidence(failures.ln_safe),
            evidence(self.ln_safe_bound)
        )
    }
}
