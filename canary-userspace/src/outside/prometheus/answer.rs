//! What Prometheus answers:
//! <https://prometheus.io/docs/prometheus/latest/querying/api/>

use hyper::StatusCode;
use serde::Deserialize;

use crate::outside::{Answer, http::Reply, tries::Tried, words};

/// A number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// Finite.
    pub(super) value: f64,
    /// The first; one may say that data is missing.
    pub(super) warning: Option<String>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// It may come when asked again.
    NoAnswer(String),
    NoData(String),
}

impl Lack {
    pub(super) fn of(self, track: &str) -> Self {
        match self {
            Self::NoAnswer(detail) => Self::NoAnswer(format!("{track}: {detail}")),
            Self::NoData(detail) => Self::NoData(format!("{track}: {detail}")),
        }
    }

    pub(super) fn tried(self) -> Tried<Answer> {
        match self {
            Self::NoAnswer(detail) => Tried::NoAnswer(detail),
            Self::NoData(detail) => Tried::Settled(Answer::Missing { detail }),
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    status: String,
    data: Option<Data>,
    #[serde(default)]
    error: String,
    #[serde(default, rename = "errorType")]
    error_type: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: serde_json::Value,
}

/// Seconds, and a number as text.
type Point = (f64, String);

#[derive(Deserialize)]
struct Series {
    /// None is a native histogram.
    value: Option<Point>,
}

/// The one number in an answer.
pub(super) fn read(reply: &Reply) -> Result<Sample, Lack> {
    let no_data = |detail: &str| Err(Lack::NoData(detail.to_owned()));
    if !reply.whole {
        return no_data("more than 1 MiB came back; write a query with one number, sum(…) say");
    }
    let envelope = match serde_json::from_slice::<Envelope>(&reply.body) {
        Ok(envelope) => envelope,
        Err(_) if reply.status.is_redirection() => return no_data(&reply.redirect()),
        Err(_) if reply.status.is_client_error() && !reply.is_no_answer() => {
            return no_data(&reply.words());
        }
        Err(error) => {
            return Err(Lack::NoAnswer(format!(
                "no answer of Prometheus ({error}): {}",
                reply.words()
            )));
        }
    };
    if envelope.status != "success" || reply.status != StatusCode::OK {
        let said = words::said(envelope.error.as_bytes());
        let kind = words::said(envelope.error_type.as_bytes());
        let detail = format!("Prometheus says {}: {}", reply.status, words::with(kind, &said));
        let again = reply.is_no_answer();
        return Err(if again { Lack::NoAnswer(detail) } else { Lack::NoData(detail) });
    }
    let value =
        envelope.data.ok_or_else(|| Lack::NoData("an answer without data".into()))?.value()?;
    let warning = envelope.warnings.first().map(|warning| words::said(warning.as_bytes()));
    Ok(Sample { value, warning })
}

impl Data {
    fn value(self) -> Result<f64, Lack> {
        let malformed = |error| Lack::NoAnswer(format!("no answer of Prometheus: {error}"));
        let point: Option<Point> = match self.kind.as_str() {
            "scalar" => Some(serde_json::from_value(self.result).map_err(malformed)?),
            "vector" => {
                let mut all: Vec<Series> =
                    serde_json::from_value(self.result).map_err(malformed)?;
                if all.len() > 1 {
                    let detail = format!("{} series instead of one; write sum(…)", all.len());
                    return Err(Lack::NoData(detail));
                }
                all.pop().ok_or_else(|| Lack::NoData("no data (an empty result)".into()))?.value
            }
            other => {
                let other = words::said(other.as_bytes());
                let detail = format!("a {other} instead of one number; write sum(rate(…))");
                return Err(Lack::NoData(detail));
            }
        };
        let Some((_, text)) = point else {
            let detail = "a histogram instead of one number; write histogram_quantile(…)";
            return Err(Lack::NoData(detail.into()));
        };
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => {
                let text = words::said(text.as_bytes());
                Err(Lack::NoData(format!("no data (the result is {text})")))
            }
        }
    }
}
