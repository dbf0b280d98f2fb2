//! The text format itself: families, samples, labels and histograms.

use std::rc::Rc;

use canary_common::{Histogram, Ticks};

use crate::{api::types::Times, config::Histograms};

/// The text as it grows.
pub(super) struct Text {
    text: String,
    /// The bounds that histograms show, and as they are written.
    bounds: Rc<[(f64, String)]>,
}

impl Text {
    pub(super) fn new(histograms: Histograms) -> Self {
        let bounds = shown_bounds(histograms).map(|bound| (bound, bound.to_string()));
        Self { text: String::new(), bounds: bounds.collect() }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// The two lines before a family's samples.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // The help texts are ours and have nothing to escape.
        for part in ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"] {
            self.text.push_str(part);
        }
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.text.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.text.push(if i == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.escaped(text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.text.push(' ');
        self.text.push_str(value);
        self.text.push('\n');
    }

    /// Cumulative buckets, sum and count.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], times: &Times) {
        let bucket = format!("{name}_bucket");
        let bounds = Rc::clone(&self.bounds);
        let mut sample = |bound: &str, count: u64| {
            let mut labels = labels.to_vec();
            labels.push(("le", bound));
            self.sample(&bucket, &labels, &count.to_string());
        };
        let mut filled = times.buckets.iter().peekable();
        let mut count = 0;
        for (shown, written) in &*bounds {
            while let Some((_, more)) =
                filled.next_if(|(bound, _)| bound.is_some_and(|bound| bound <= *shown))
            {
                count += more;
            }
            sample(written, count);
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
    fn escaped(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
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
