//! What a benchmark says: sections of rows, as a table for people and as JSON.

use std::fmt::{self, Display, Formatter};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Rows that were measured in turns, so that their ratios mean something.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Section {
    /// How it is asked for by name.
    pub name: String,
    /// What was done, and what the figures count.
    pub about: String,
    pub unit: String,
    pub rows: Vec<Row>,
}

/// One thing that was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub name: String,
    pub min: f64,
    pub median: f64,
    pub max: f64,
    /// What the median itself is to come to.
    #[serde(default)]
    pub wanted: Option<Wanted>,
    /// Against another row of the section, where there is something to compare.
    pub against: Option<Against>,
}

/// A comparison of medians.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Against {
    /// The other row's name.
    pub row: String,
    pub value: f64,
    pub by: By,
    pub wanted: Option<Wanted>,
}

/// How two rows are compared.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Median over median.
    Ratio,
    /// Median of the differences round by round.
    Difference,
}

/// What the comparison is to come to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    /// Of all the times (or rates) of a row, one a round.
    ///
    /// # Errors
    /// Where nothing was measured.
    pub fn of(name: impl Into<String>, figures: &[f64]) -> Result<Self> {
        let [min, median, max] = spread(figures)?;
        Ok(Self { name: name.into(), min, median, max, wanted: None, against: None })
    }

    /// The same with what its own median is to come to.
    #[must_use]
    pub fn wanted(self, wanted: Wanted) -> Self {
        Self { wanted: Some(wanted), ..self }
    }

    /// The same beside another row, whose figures are of the same rounds.
    ///
    /// # Errors
    /// Where nothing was measured.
    pub fn beside(
        self,
        other: (&str, &[f64]),
        by: By,
        own: &[f64],
        wanted: Option<Wanted>,
    ) -> Result<Self> {
        let value = match by {
            By::Ratio => self.median / spread(other.1)?[1],
            By::Difference => {
                let differences: Vec<f64> = own.iter().zip(other.1).map(|(a, b)| a - b).collect();
                spread(&differences)?[1]
            }
        };
        let against = Some(Against { row: other.0.to_owned(), value, by, wanted });
        Ok(Self { against, ..self })
    }
}

impl Wanted {
    #[must_use]
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    /// What a table says of it.
    fn verdict(self, value: f64) -> &'static str {
        if self.is_met_by(value) { "" } else { ", missed" }
    }
}

impl Display for Wanted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

impl Display for Section {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}: {}", self.name, self.about)?;
        let name = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let title = format!("in {}", self.unit);
        let columns = ["min", "median", "max", "compared"];
        let [min, median, max, compared] = columns;
        writeln!(f, "  {title:<name$} {min:>9} {median:>9} {max:>9} {compared:>9}  wanted")?;
        for row in &self.rows {
            let [min, median, max] = [row.min, row.median, row.max].map(short);
            write!(f, "  {:<name$} {min:>9} {median:>9} {max:>9}", row.name)?;
            if let Some(against) = &row.against {
                let value = match against.by {
                    By::Ratio => format!("{:.2}", against.value),
                    By::Difference => format!("{:+.0}", against.value),
                };
                write!(f, " {value:>9}")?;
                if let Some(wanted) = against.wanted {
                    write!(f, "  {wanted}{}", wanted.verdict(against.value))?;
                }
            }
            if let Some(wanted) = row.wanted {
                let gap = if row.against.is_some() { 0 } else { 10 };
                write!(f, "{:gap$}  {wanted}{}", "", wanted.verdict(row.median))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Three digits, and all of those before the point.
fn short(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

/// Least, median, most.
///
/// # Errors
/// Where nothing was measured.
pub fn spread(figures: &[f64]) -> Result<[f64; 3]> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().context("nothing was measured");
    Ok([at(0)?, at(sorted.len() / 2)?, at(sorted.len().saturating_sub(1))?])
}
