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
