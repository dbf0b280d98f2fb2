//! Interfaces that come and go: the program follows them.

use std::collections::BTreeMap;

use super::state::Daemon;
use crate::{
    api::types::Attached,
    dataplane::{Dataplane, DataplaneError},
};

/// Interfaces of the configuration that the program is not on, by name.
pub(super) type Away = BTreeMap<String, Absence>;

/// See [`Away`].
#[derive(Clone, Debug, Default)]
pub(super) struct Absence {
    /// The number it had, while the program was on it.
    ifindex: Option<u32>,
    /// Rather than not being there, it cannot be attached to.
    is_refused: bool,
    why: String,
}

impl Daemon {
    /// After news of links, and now and then: lets go of what is gone, attaches
    /// to what has come.
    pub(super) fn follow_interfaces(&mut self) {
        let Some(plane) = &mut self.plane else { return };
        match plane.release_gone() {
            Ok(gone) => {
                for attachment in gone {
                    let name = attachment.interface.clone();
                    tracing::warn!("interface {name} is gone; attaching again when it is back");
                    let why = DataplaneError::NoInterface(name).to_string();
                    let ifindex = Some(attachment.ifindex);
                    let absence = Absence { ifindex, is_refused: false, why };
                    self.away.insert(attachment.interface, absence);
                }
            }
            Err(error) => tracing::error!("{error}"),
        }
        let Some(plane) = &self.plane else { return };
        let is_on = |name: &String| plane.attachments().any(|a| a.interface == *name);
        let missing: Vec<String> =
            self.config.interfaces.iter().filter(|name| !is_on(name)).cloned().collect();
        self.away.retain(|name, _| missing.contains(name));
        for name in missing {
            match self.attach(&name) {
                Ok(()) => self.is_back(&name),
                Err(error) => self.stays_away(&name, &error),
            }
        }
    }

    /// Attaches to what the configuration names at the start. What is not there
    /// is waited for.
    ///
    /// # Errors
    /// Where an interface is there and cannot be had.
    pub(super) fn attach_to_all(&mut self) -> Result<(), DataplaneError> {
        for interface in self.config.interfaces.clone() {
            match self.attach(&interface) {
                Err(error @ DataplaneError::NoInterface(_)) => {
                    self.stays_away(&interface, &error);
                }
                attached => attached?,
            }
        }
        Ok(())
    }

    /// Flows whose clients came by it get their replies there again.
    fn is_back(&mut self, name: &str) {
        let before = self.away.remove(name).and_then(|absence| absence.ifindex);
        let Some(plane) = &self.plane else { return };
        let now = plane.attachments().find(|a| a.interface == name).map(|a| a.ifindex);
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            let moved = plane.flow_table().move_clients(before, now);
            tracing::info!("{name} is back; {moved} live connections go on there");
        }
    }

    fn stays_away(&mut self, name: &str, error: &DataplaneError) {
        let absence = self.away.entry(name.to_owned()).or_default();
        let why = error.to_string();
        if absence.why != why {
            tracing::warn!("{why}; attaching to it when that changes");
        }
        absence.is_refused = !matches!(error, DataplaneError::NoInterface(_));
        absence.why = why;
    }

    /// As `canary status` shows them.
    pub(super) fn interfaces(&self) -> Vec<Attached> {
        let attached = self.plane.iter().flat_map(Dataplane::attachments).map(|a| Attached {
            interface: a.interface.clone(),
            mode: if a.native { "native" } else { "generic" }.to_owned(),
            reason: a.renamed().map(|name| renamed(&name)).unwrap_or_default(),
        });
        let away = self.away.iter().map(|(name, absence)| Attached {
            interface: name.clone(),
            mode: if absence.is_refused { "refused" } else { "gone" }.to_owned(),
            reason: absence.why.clone(),
        });
        attached.chain(away).collect()
    }

    /// What of them an operator should know.
    pub(super) fn interface_warnings(&self) -> Vec<String> {
        let worth = self.interfaces().into_iter().filter(|shown| !shown.reason.is_empty());
        worth.map(|shown| format!("{}: {}", shown.interface, shown.reason)).collect()
    }
}

fn renamed(now: &str) -> String {
    format!("is called {now} now, and stays attached; write that name into `interfaces`")
}
