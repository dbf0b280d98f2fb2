//! For tests that keep a model beside the data plane: one record by its key,
//! time that passes at once, and tables that are empty again.

use std::{mem::offset_of, sync::atomic::Ordering};

use aya::maps::HashMap;
use canary_common::{Bucket, Ctl, Flow, FlowKey, WAYS, deadline_passed};

use super::{
    Dataplane, FlowTable,
    error::{Context as _, DataplaneError},
    flow_table::is_live,
};

const DEADLINE: usize = offset_of!(Flow, deadline);

impl Dataplane {
    /// The live record under this key, in the table or the overflow map; `now`
    /// in jiffies. Not for use beside traffic: it may be torn.
    #[must_use]
    pub fn flow_record(&self, key: &FlowKey, now: u32) -> Option<Flow> {
        let hash = key.hash(&self.keys);
        let table = &self.flow_table.table;
        let bucket = table.read(Bucket::index(hash, table.len() - 1));
        let overflown = || self.flow_table.overflown(key);
        let mut all = bucket.ways.into_iter().chain(overflown());
        all.find(|flow| {
            is_live(Ctl(flow.ctl)) && flow.key == *key && !deadline_passed(flow.deadline, now)
        })
    }
}

impl Dataplane {
    /// Forgets where packets in fragments went.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn forget_fragments(&mut self) -> Result<(), DataplaneError> {
        let map = self.ebpf.map_mut("FRAGMENTS").ok_or(DataplaneError::NoMap("FRAGMENTS"))?;
        let mut map: HashMap<_, [u64; 5], [u64; 2]> =
            HashMap::try_from(map).context(|| "opening FRAGMENTS")?;
        let keys: Vec<_> = map.keys().filter_map(Result::ok).collect();
        // Evicted in between: gone as well.
        keys.iter().for_each(|key| drop(map.remove(key)));
        Ok(())
    }
}

impl FlowTable {
    /// Lets `jiffies` pass for every flow, by moving its end that much nearer.
    pub fn age_by(&self, jiffies: u32) {
        for bucket in 0..self.buckets() {
            for way in 0..WAYS {
                let deadline = self.table.half_word(bucket, way * size_of::<Flow>() + DEADLINE);
                deadline.fetch_sub(jiffies, Ordering::Relaxed);
            }
        }
        let mut overflow = self.lock();
        let records: Vec<_> = overflow.iter().filter_map(Result::ok).collect();
        for (key, mut flow) in records {
            flow.deadline = flow.deadline.wrapping_sub(jiffies);
            // Evicted in between: no record, no time.
            let _ = overflow.insert(key, flow, 0);
        }
    }

    /// Empties table and overflow map; nothing is booked.
    pub fn clear(&self) {
        for bucket in 0..self.buckets() {
            self.table.write(bucket, &Bucket::default());
        }
        self.drop_overflow(|_| true, |_| ());
    }

    fn overflown(&self, key: &FlowKey) -> Option<Flow> {
        self.lock().get(key, 0).ok()
    }
}
