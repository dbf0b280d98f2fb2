//! What a start knows of the time before: by what was written down, and by what
//! the maps of an earlier daemon hold. Those count most, for they are what
//! traffic meets; and the file may be lost, or older, where a disk was full.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use canary_common::{Service, Split, WeightTable};

use super::{
    ledger::Ledger,
    promotion::{self, Promoted, Standing},
    state::Runtime,
    store::{Found, Saved, SavedService, Store},
};
use crate::{
    config::{self, Config},
    plan::{self, Observed},
};

/// See the module.
pub(super) struct Past {
    /// Nothing where nothing is there, or cannot be read.
    pub(super) saved: Saved,
    /// There is nothing written down, and should be: what is forgotten, for
    /// whoever can say it again.
    pub(super) lost: Option<String>,
    /// The maps are an earlier daemon's, and carry its traffic.
    adopted: bool,
}

impl Past {
    pub(super) fn find(store: &Store, adopted: bool) -> Self {
        let (saved, why) = match store.load() {
            Found::Saved(saved) => (saved, None),
            Found::Nothing => (Saved::default(), adopted.then(|| store.nothing_there())),
            Found::Damaged(why) => (Saved::default(), Some(why)),
        };
        let lost = why.map(|why| what_is_forgotten(&why, adopted));
        if let Some(lost) = &lost {
            tracing::warn!("{lost}");
        }
        Self { saved, lost, adopted }
    }

    /// Swaps the tracks of services whose canary was promoted, as long as the
    /// file does not say it itself; which they are.
    ///
    /// # Errors
    /// A file that names neither, while the kernel still sends traffic to that
    /// version. Without that the file is all there is.
    pub(super) fn promoted(
        &self,
        config: &mut Config,
        observed: &Observed,
    ) -> Result<BTreeMap<String, Promoted>> {
        let mut all = BTreeMap::new();
        for service in &mut config.services {
            let written = self.saved.services.get(&service.name).and_then(|e| e.promoted.clone());
            let met = || self.lost.is_some().then(|| Promoted::met(service, observed)).flatten();
            let Some(promoted) = written.or_else(met) else { continue };
            match promoted.standing(service) {
                Standing::Followed => {}
                Standing::Swapped => {
                    promotion::swap(service);
                    all.insert(service.name.clone(), promoted);
                }
                Standing::Contradicts => {
                    let words = format!(
                        "{}: its canary was promoted and serves now, but the configuration calls \
                         other backends stable; write stable = [{}] (traffic goes on meanwhile)",
                        service.name,
                        promoted.new_stable()
                    );
                    anyhow::ensure!(!self.adopted, words);
                    tracing::warn!("{words}");
                }
            }
        }
        Ok(all)
    }

    /// Splits, drains and rollouts as they were.
    pub(super) fn runtimes(
        &self,
        config: &Config,
        observed: &Observed,
        promoted: &BTreeMap<String, Promoted>,
    ) -> BTreeMap<String, Runtime> {
        let runtime = |service: &config::Service| {
            let number = observed.service_of(service);
            let record = number.and_then(|number| observed.services.get(&number));
            let promoted = promoted.get(&service.name).cloned();
            (service.name.clone(), Runtime { promoted, ..self.runtime(service, record) })
        };
        config.services.iter().map(runtime).collect()
    }

    fn runtime(&self, service: &config::Service, record: Option<&Service>) -> Runtime {
        let earlier = self.saved.services.get(&service.name);
        let rewritten = is_rewritten(service, earlier);
        let mut drained: BTreeSet<_> = earlier.map(|e| e.drained.clone()).unwrap_or_default();
        let all = || service.stable.iter().chain(&service.canary);
        drained.retain(|address| all().any(|backend| backend.address == *address));
        let mut runtime = Runtime {
            split: self.split(service, record, earlier),
            drained,
            file_weight: service.weight,
            rolled_back: earlier.and_then(|e| e.rolled_back.clone()).filter(|_| !rewritten),
            rollbacks: earlier.map_or(0, |e| e.rollbacks),
            ledger: earlier
                .map_or_else(Ledger::default, |e| Ledger::restore(&e.ledger, self.adopted)),
            ..earlier.map_or_else(Runtime::default, |e| e.trial.runtime())
        };
        // Another generation would cut who is on the canary, another salt draw
        // other clients.
        if let Some(record) = record {
            runtime.generation = plan::generation_of(record.generation);
            runtime.salt = record.salt;
        }
        runtime
    }

    fn split(
        &self,
        service: &config::Service,
        record: Option<&Service>,
        earlier: Option<&SavedService>,
    ) -> Split {
        let in_force = record.map(|record| WeightTable::unpack(record.weights).split);
        let configured = || Split::from_fraction(service.weight).unwrap_or(Split::NONE);
        match (in_force, earlier) {
            _ if service.canary.is_empty() => Split::NONE,
            // The file says something new since it was last read.
            _ if is_rewritten(service, earlier) => configured(),
            // It was not the operator, nor a rollout, who set that.
            (Some(Split::NONE), Some(earlier)) if earlier.withheld => {
                Split::from_parts(earlier.split)
            }
            (Some(split), _) => split,
            (None, Some(earlier)) => Split::from_parts(earlier.split),
            (None, None) if self.lost.is_some() => Split::NONE,
            (None, None) => configured(),
        }
    }
}

/// Whether the file says something else than when it was last read.
fn is_rewritten(service: &config::Service, earlier: Option<&SavedService>) -> bool {
    earlier.is_some_and(|earlier| earlier.file_weight != service.weight)
}

/// Of a state that was written down and cannot be had.
fn what_is_forgotten(why: &str, adopted: bool) -> String {
    let kept = if adopted {
        "splits, and who is stable, are as the kernel has them"
    } else {
        "no canary gets new connections"
    };
    format!(
        "{why}; {kept}; drains and rollouts under way are forgotten: say again what is to be \
         drained, then `canary reload` ends this warning"
    )
}
