//! What changed of backends' health, into log and history.

use canary_common::Track;

use super::super::{books::Key, state::Daemon, trial::seconds_since_1970};
use crate::api::types::HistoryEntry;

impl Daemon {
    pub(super) fn note_health(&self, key: &Key, track: Track, moved: (&str, &str), reason: String) {
        let (name, address) = key;
        let (from, to) = moved;
        if matches!(to, "up" | "active") {
            tracing::info!("{name}: {} backend {address} is {to} again: {reason}", track.name());
        } else {
            tracing::warn!("{name}: {} backend {address} is {to}: {reason}", track.name());
        }
        let backend = address.to_string();
        let line = HistoryEntry { backend, ..self.health_line(name, (from, to), reason) };
        self.write_health(name, &line);
    }

    pub(super) fn health_line(
        &self,
        name: &str,
        (from, to): (&str, &str),
        reason: String,
    ) -> HistoryEntry {
        HistoryEntry {
            at: seconds_since_1970(),
            event: "health".to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            split: self.split(name).fraction(),
            reason,
            ..HistoryEntry::default()
        }
    }

    pub(super) fn write_health(&self, name: &str, line: &HistoryEntry) {
        // Not waited for: nothing is decided by it.
        if let Err(error) = self.health_journal(name).append(line, false) {
            tracing::warn!("{name}: writing the history: {error}");
        }
    }
}
