//! What a fault did, as a row of the table.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::CrowdReport;

/// A fault, and what became of those who were there.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub fault: String,
    /// Live when it came.
    pub connections: u64,
    pub cut: u64,
    /// Answered by another server than before.
    pub moved: u64,
    /// What they were asked meanwhile, all answered but for the cut ones.
    pub requests: u64,
    /// The longest that a client waited for an answer, seconds.
    pub longest_wait: Option<f64>,
    /// Until all was as before, seconds; `None` where nothing was away.
    pub recovered: Option<f64>,
    /// What else there is to say.
    pub notes: String,
}

impl Row {
    /// Of keep-alive connections.
    #[must_use]
    pub fn of(fault: &str, crowd: &CrowdReport) -> Self {
        Self {
            fault: fault.to_owned(),
            connections: crowd.connections,
            cut: crowd.cut.len() as u64,
            moved: crowd.moved,
            requests: crowd.requests,
            longest_wait: Some(crowd.longest_wait.as_secs_f64()),
            recovered: None,
            notes: String::new(),
        }
    }

    #[must_use]
    pub fn recovered(mut self, after: Duration) -> Self {
        self.recovered = Some(after.as_secs_f64());
        self
    }

    #[must_use]
    pub fn notes(mut self, notes: impl Into<String>) -> Self {
        self.notes = notes.into();
        self
    }

    /// Whether nobody was hurt.
    #[must_use]
    pub const fn is_fine(&self) -> bool {
        self.connections > 0 && self.cut == 0 && self.moved == 0
    }

    /// # Errors
    /// Where somebody was.
    pub fn check(&self) -> Result<()> {
        ensure!(self.is_fine(), "{}: {self:?}", self.fault);
        Ok(())
    }
}

/// The table, as docs/reliability.md has it.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let seconds = |value: Option<f64>| {
        value.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"))
    };
    let mut text = "| fault | connections live | cut | moved | requests meanwhile | longest wait | time to recover | |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            row.fault,
            row.connections,
            row.cut,
            row.moved,
            row.requests,
            seconds(row.longest_wait),
            seconds(row.recovered),
            row.notes
        );
    }
    text
}
