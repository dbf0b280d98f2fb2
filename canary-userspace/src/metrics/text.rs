//! The text format itself: families, samples, labels and histograms.

use canary_common::{Histogram, Ticks};

use crate::{api::types::Times, config::Histograms};

/// The text as it grows.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    /// The two lines before a family's samples.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // The help texts are ours and have nothing to escape.
        for part in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.0.push_str(part);
        }
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            self.escaped(text);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0.push(' ');
        self.0.push_str(value);
        self.0.push('\n');
    }

    /// Cumulative buckets, sum and count.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        times: &Times,
        histograms: Histograms,
    ) {
        let bucket = format!("{name}_bucket");
        let mut sample = |bound: &str, count: u64| {
            let mut labels = labels.to_vec();
            labels.push(("le", bound));
            self.sample(&bucket, &labels, &count.to_string());
        };
        let mut filled = times.buckets.iter().peekable();
        let mut count = 0;
        for shown in shown_bounds(histograms) {
            while let Some((_, more)) =
                filled.next_if(|(bound, _)| bound.is_some_and(|bound| bound <= shown))
            {
                count += more;
            }
            sample(&shown.to_string(), count);
        }
        sample("+Inf", times.count);
        self.sample(&format!("{name}_sum"), labels, &times.sum.to_string());
        self.sample(&format!("{name}_count"), labels, &times.count.to_string());
    }

    /// One series a state. A state that is not among them gets a series of its
    /// own, rather than that all are 0.
    pub(super) fn state_set(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        label: &str,
        states: &[&str],
        current: &str,
    ) {
        let unknown = (!states.contains(&current)).then_some(current);
        for state in states.iter().copied().chain(unknown) {
            let mut labels = labels.to_vec();
            labels.push((label, state));
            self.sample(name, &labels, if state == current { "1" } else { "0" });
        }
    }

    /// A label's value: backslash, quote and line feed are escaped.
    pub(super) fn escaped(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
    }
}

/// The bounds that are shown, from 1 µs to 69 s.
fn shown_bounds(histograms: Histograms) -> impl Iterator<Item = f64> {
    /// The one that ends at 1.024 µs, a power of two of ticks.
    const FIRST: usize = 3;
    let step = match histograms {
        Histograms::Full => 1,
        Histograms::Coarse => 4,
    };
    let bounds = (FIRST..Histogram::BUCKETS).step_by(step).filter_map(Histogram::upper_bound);
    bounds.map(Ticks::seconds)
}
