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
        for (number, record) in &*self.services {
            if !maybe.services.contains_key(number) {
                maybe.services.insert(*number, *record);
            }
        }
        for (number, record) in &*self.backends {
            if !maybe.backends.contains_key(number) {
                maybe.backends.insert(*number, *record);
            }
        }
        let words = self.services.values().chain(attempted.services.values());
        let named = words.flat_map(|service| WeightTable::unpack(service.weights).tables);
        let tables = named.chain(self.tables.keys().copied()).filter(|table| *table != 0);
        maybe.tables.extend(tables.map(|table| (table, 0)));
        for fingerprint in maybe.tables.values_mut() {
            *fingerprint = 0;
        }
        maybe.services.change_all(|record| record.flags &= !ServiceFlags::PRESENT);
        maybe.backends.change_all(|record| record.flags &= !BackendFlags::PRESENT);
        maybe.cells.extend(&self.cells);
        maybe.unnamed.clear();
        maybe.uncertain = true;
        maybe
    }
}
