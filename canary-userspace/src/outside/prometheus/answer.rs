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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        let status = StatusCode::from_u16(status).unwrap();
        Reply { status, location: None, body: body.into(), whole: true }
    }

    fn data(kind: &str, result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
    }

    /// Of a series with these labels.
    fn one(value: &str) -> String {
        format!(r#"{{"metric":{{"job":"x"}},"value":[1700000000.781,"{value}"]}}"#)
    }

    #[test]
    fn numbers_are_read() {
        for (kind, result, expected) in [
            ("vector", format!("[{}]", one("0.013")), 0.013),
            ("vector", format!("[{}]", one("-1e-3")), -0.001),
            ("vector", format!("[{}]", one("0")), 0.0),
            ("scalar", r#"[1700000000,"3"]"#.into(), 3.0),
        ] {
            let sample = Sample { value: expected, warning: None };
            assert_eq!(read(&reply(200, &data(kind, &result))), Ok(sample));
        }
        let body =
            data("scalar", r#"[1,"3"]"#).replace("\"data\"", "\"warnings\":[\"w\",\"v\"],\"data\"");
        let sample = Sample { value: 3.0, warning: Some("w".into()) };
        assert_eq!(read(&reply(200, &body)), Ok(sample));
    }

    #[test]
    fn what_is_no_number_is_no_data() {
        let histogram = r#"[{"metric":{},"histogram":[1,{"count":"1","sum":"2"}]}]"#;
        for (kind, result, expected) in [
            ("vector", "[]".to_owned(), "no data (an empty result)"),
            ("vector", format!("[{}]", one("NaN")), "no data (the result is NaN)"),
            ("vector", format!("[{}]", one("+Inf")), "no data (the result is +Inf)"),
            ("scalar", r#"[1,"-Inf"]"#.into(), "no data (the result is -Inf)"),
            ("scalar", r#"[1,"many"]"#.into(), "no data (the result is many)"),
            (
                "vector",
                format!("[{},{},{}]", one("1"), one("1"), one("2")),
                "3 series instead of one; write sum(…)",
            ),
            (
                "vector",
                histogram.into(),
                "a histogram instead of one number; write histogram_quantile(…)",
            ),
            ("matrix", "[]".into(), "a matrix instead of one number; write sum(rate(…))"),
            ("string", r#"[1,"x"]"#.into(), "a string instead of one number; write sum(rate(…))"),
        ] {
            let got = read(&reply(200, &data(kind, &result)));
            assert_eq!(got, Err(Lack::NoData(expected.into())), "{kind} {result}");
        }
        let got = read(&reply(200, r#"{"status":"success"}"#));
        assert_eq!(got, Err(Lack::NoData("an answer without data".into())));
        let got = read(&Reply { whole: false, ..reply(200, &data("scalar", r#"[1,"3"]"#)) });
        assert!(matches!(&got, Err(Lack::NoData(detail)) if detail.starts_with("more than 1 MiB")));
    }

    #[test]
    fn errors_come_in_the_servers_words() {
        let error = r#"{"status":"error","errorType":"bad_data","error":"1:5: parse error"}"#;
        let said = |status| format!("Prometheus says {status}: bad_data: 1:5: parse error");
        for (status, body, again, expected) in [
            (400, error, false, said("400 Bad Request")),
            (422, error, false, said("422 Unprocessable Entity")),
            (503, error, true, said("503 Service Unavailable")),
            // A status that contradicts the body: no number can be trusted.
            (200, error, false, said("200 OK")),
            (404, "404 page not found\n", false, "404 Not Found: 404 page not found".into()),
            (401, "", false, "401 Unauthorized".into()),
        ] {
            let expected = if again { Lack::NoAnswer(expected) } else { Lack::NoData(expected) };
            assert_eq!(read(&reply(status, body)), Err(expected), "{status} {body}");
        }
        let moved = Reply { location: Some("https://b/".into()), ..reply(302, "<html>") };
        let expected = "302 Found to https://b/: redirects are not followed, name the last address";
        assert_eq!(read(&moved), Err(Lack::NoData(expected.into())));
    }

    #[test]
    fn garbage_is_no_answer() {
        let deep = "[".repeat(100_000);
        let good = data("scalar", r#"[1,"3"]"#);
        for (status, body) in [
            (200, ""),
            (200, "<html>"),
            (200, "null"),
            (200, "[]"),
            (200, &good[..good.len() - 1]),
            (200, &data("vector", "7")),
            (200, &data("vector", r#"[{"value":[1]}]"#)),
            (200, &data("vector", r#"[{"value":[1,2]}]"#)),
            (200, &data("scalar", r#"["3",1]"#)),
            (200, &data("vector", &deep)),
            (502, "<html>"),
            (429, "slow down"),
        ] {
            let got = read(&reply(status, body));
            assert!(matches!(&got, Err(Lack::NoAnswer(_))), "{status} {body:.60}: {got:?}");
        }
        // A number in an answer that is none.
        let got = read(&reply(500, &good));
        assert!(matches!(&got, Err(Lack::NoAnswer(_))), "{got:?}");
    }
}
