//! Prometheus' instant queries.

mod answer;

use std::time::Duration;

use super::{
    Answer, Tried,
    http::{self, Post, Target},
    words::{self, brief},
};
use crate::config::rollout::Bound;
use answer::{Lack, Sample, read};

/// Of an answer's body, in bytes. One number takes about a hundred.
const LIMIT: usize = 1 << 20;
const TRACK: &str = "{{track}}";

/// The query for one track.
#[must_use]
pub fn substitute(query: &str, track: &str) -> String {
    query.replace(TRACK, track)
}

/// Whether a query asks for a track. One with a relative bound must.
#[must_use]
pub fn names_track(query: &str) -> bool {
    query.contains(TRACK)
}

/// A gate's query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) url: &'a str,
    pub(super) query: &'a str,
    pub(super) bound: Bound,
    pub(super) relative: bool,
}

impl Question<'_> {
    pub(super) async fn ask(&self, timeout: Duration) -> Tried<Answer> {
        let target = match Target::parse(self.url) {
            Ok(target) => target.below("/api/v1/query"),
            Err(error) => return Tried::Settled(Answer::missing(format!("its url: {error}"))),
        };
        if self.relative && !names_track(self.query) {
            let detail = format!("a relative bound needs a query with {TRACK}");
            return Tried::Settled(Answer::missing(detail));
        }
        match self.found(&target, timeout).await {
            Ok(answer) => Tried::Settled(answer),
            Err(lack) => lack.tried(),
        }
    }

    /// Where both tracks' numbers are missing, the canary's is named.
    async fn found(&self, target: &Target, timeout: Duration) -> Result<Answer, Lack> {
        let canary = self.value(target, "canary", timeout);
        if !self.relative {
            return Ok(self.judge(&canary.await?, None));
        }
        let (canary, stable) = tokio::join!(canary, self.value(target, "stable", timeout));
        Ok(self.judge(&canary?, Some(&stable?)))
    }

    async fn value(
        &self,
        target: &Target,
        track: &'static str,
        timeout: Duration,
    ) -> Result<Sample, Lack> {
        let query = substitute(self.query, track);
        let post = Post {
            content_type: "application/x-www-form-urlencoded",
            body: &form(&query, timeout),
            limit: LIMIT,
        };
        let found = match http::post(target, post, timeout).await {
            Ok(reply) => read(&reply),
            Err(error) => Err(Lack::NoAnswer(words::chain(&error))),
        };
        found.map_err(|lack| if names_track(self.query) { lack.of(track) } else { lack })
    }

    /// A bound relative to a stable value of 0 is 0, as arithmetic has it: an
    /// error where stable has none is worse than any multiple of none. Who finds
    /// that too strict puts a floor under the query, with `clamp_min`.
    fn judge(&self, canary: &Sample, stable: Option<&Sample>) -> Answer {
        let (limit, factor, low) = match self.bound {
            Bound::Max(max) => (max, max, false),
            Bound::Min(min) => (min, min, true),
        };
        let limit = stable.map_or(limit, |stable| factor * stable.value);
        if let Some(stable) = stable.filter(|stable| stable.value < 0.0) {
            let detail = format!("a multiple of stable's {} is no bound", brief(stable.value));
            return Answer::Missing { detail };
        }
        let value = canary.value;
        let passes = if low { value >= limit } else { value <= limit };
        let sign = match (low, passes) {
            (false, true) => "≤",
            (false, false) => ">",
            (true, true) => "≥",
            (true, false) => "<",
        };
        // Two numbers that differ must not look alike.
        let alike = brief(value) == brief(limit) && value.to_bits() != limit.to_bits();
        let show = |number: f64| if alike { number.to_string() } else { brief(number) };
        let who = if names_track(self.query) { "canary " } else { "" };
        let against = match stable {
            Some(stable) => format!("{factor} × stable {}", show(stable.value)),
            None => limit.to_string(),
        };
        let warnings = [Some(canary), stable].into_iter().flatten();
        let warning: Vec<&str> = warnings.filter_map(|sample| sample.warning.as_deref()).collect();
        let detail = format!("{who}{} {sign} {against}", show(value));
        let detail = match warning.first() {
            Some(warning) => format!("{detail} (Prometheus warns: {warning})"),
            None => detail,
        };
        if passes { Answer::Pass { detail } } else { Answer::Fail { detail } }
    }
}

/// The body of a query. The server is told to give up when we do.
fn form(query: &str, timeout: Duration) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("query", query)
        .append_pair("timeout", &format!("{}ms", timeout.as_millis().max(1)))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_track_is_put_in() {
        for (query, expected) in [
            (r#"x{track="{{track}}"}"#, r#"x{track="stable"}"#),
            (r#"a{t="{{track}}"} / b{t="{{track}}"}"#, r#"a{t="stable"} / b{t="stable"}"#),
            ("sum(x)", "sum(x)"),
            // Only what is written so: the server complains of the rest.
            ("x{t=\"{{ track }}\"}", "x{t=\"{{ track }}\"}"),
        ] {
            assert_eq!(substitute(query, "stable"), expected);
            assert_eq!(names_track(query), query != expected);
        }
    }

    fn judged(bound: Bound, query: &str, canary: f64, stable: Option<f64>) -> Answer {
        let sample = |value| Sample { value, warning: None };
        let question = Question { url: "", query, bound, relative: stable.is_some() };
        question.judge(&sample(canary), stable.map(sample).as_ref())
    }

    #[test]
    fn bounds_are_kept_or_not() {
        let (max, min) = (Bound::Max(1.5), Bound::Min(0.5));
        let table = [
            (max, 1.5, None, true, "canary 1.5 ≤ 1.5"),
            (max, 1.6, None, false, "canary 1.6 > 1.5"),
            (max, 1.500_000_1, None, false, "canary 1.5000001 > 1.5"),
            (max, -1.0, None, true, "canary -1 ≤ 1.5"),
            (min, 0.5, None, true, "canary 0.5 ≥ 0.5"),
            (min, 0.012_345_6, None, false, "canary 0.01235 < 0.5"),
            (max, 0.013, Some(0.004), false, "canary 0.013 > 1.5 × stable 0.004"),
            (max, 0.006, Some(0.004), true, "canary 0.006 ≤ 1.5 × stable 0.004"),
            (min, 0.4, Some(1.0), false, "canary 0.4 < 0.5 × stable 1"),
            (min, 0.6, Some(1.0), true, "canary 0.6 ≥ 0.5 × stable 1"),
            (max, 0.0, Some(0.0), true, "canary 0 ≤ 1.5 × stable 0"),
            (max, 1e-6, Some(0.0), false, "canary 1e-6 > 1.5 × stable 0"),
            (min, 0.0, Some(0.0), true, "canary 0 ≥ 0.5 × stable 0"),
        ];
        for (bound, canary, stable, passes, detail) in table {
            let detail = detail.to_owned();
            let expected = if passes { Answer::Pass { detail } } else { Answer::Fail { detail } };
            assert_eq!(judged(bound, "{{track}}", canary, stable), expected);
        }
        let got = judged(max, "{{track}}", 1.0, Some(-2.0));
        assert_eq!(got, Answer::missing("a multiple of stable's -2 is no bound"));
        // Nobody said that it is the canary's.
        assert_eq!(judged(max, "sum(x)", 1.0, None), Answer::Pass { detail: "1 ≤ 1.5".into() });
    }

    #[test]
    fn warnings_are_passed_on() {
        let question = Question { url: "", query: "x", bound: Bound::Max(1.0), relative: false };
        let sample = Sample { value: 2.0, warning: Some("a store is away".into()) };
        let expected = "2 > 1 (Prometheus warns: a store is away)";
        assert_eq!(question.judge(&sample, None), Answer::Fail { detail: expected.into() });
    }

    #[test]
    fn the_server_gives_up_when_we_do() {
        let form = |timeout| form("a b&c", timeout);
        assert_eq!(form(Duration::from_secs(5)), "query=a+b%26c&timeout=5000ms");
        assert_eq!(form(Duration::from_nanos(1)), "query=a+b%26c&timeout=1ms");
    }
}
