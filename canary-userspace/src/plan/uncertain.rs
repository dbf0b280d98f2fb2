//! After writes that failed on the way.

use canary_common::{BackendFlags, ServiceFlags, WeightTable};

use super::Observed;

impl Observed {
    /// What may stand in the maps when `attempted` was on its way from here
    /// and did not arrive: every number of both is in use, and no record is
    /// taken to be as it should be.
    #[must_use]
    pub fn uncertain(&self, attempted: &Self) -> Self {
        let mut maybe = attempted.clone();
        for (number, record) in &self.services {
            maybe.services.entry(*number).or_insert(*record);
        }
        for (number, record) in &self.backends {
            maybe.backends.entry(*number).or_insert(*record);
        }
        let words = self.services.values().chain(attempted.services.values());
        let named = words.flat_map(|service| WeightTable::unpack(service.weights).tables);
        let tables = named.chain(self.tables.keys().copied()).filter(|table| *table != 0);
        maybe.tables.extend(tables.map(|table| (table, 0)));
        for fingerprint in maybe.tables.values_mut() {
            *fingerprint = 0;
        }
        for record in maybe.services.values_mut() {
            record.flags &= !ServiceFlags::PRESENT;
        }
        for record in maybe.backends.values_mut() {
            record.flags &= !BackendFlags::PRESENT;
        }
        maybe.cells.extend(&self.cells);
        maybe.unnamed.clear();
        maybe.uncertain = true;
        maybe
    }
}
