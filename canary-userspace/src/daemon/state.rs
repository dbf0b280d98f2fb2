//! The daemon's state, its start, and what of it is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use canary_common::{Backend, Split, Track};

use super::{
    books::Books,
    follow::Followers,
    health::Health,
    interfaces::Away,
    ledger::Ledger,
    past::Past,
    promotion::Promoted,
    scan::{Pins, Scan},
    store::{Saved, SavedService, SavedTrial, Store},
    trial::{Inbox, Steered, Trial},
};
use crate::{
    config::{self, Config},
    dataplane::{Dataplane, DataplaneError, OpenOptions},
    netlink::Resolver,
    plan::{self, Hop, Observed},
    rollout,
};

/// A disk that was full, or away, may be back.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// What was said to the daemon about a service, or decided by it.
#[derive(Clone, Debug)]
pub(super) struct Runtime {
    pub(super) split: Split,
    pub(super) drained: BTreeSet<SocketAddr>,
    pub(super) file_weight: f64,
    pub(super) rolled_back: Option<String>,
    pub(super) rollbacks: u64,
    /// The file has the tracks the other way round.
    pub(super) promoted: Option<Promoted>,
    /// What both versions did in the present trial.
    pub(super) ledger: Ledger,
    pub(super) rollout: rollout::State,
    /// Of stable's, those that the rollout takes out of use.
    pub(super) retiring: BTreeSet<SocketAddr>,
    /// Who goes first follows from it; 0 is the plain hash.
    pub(super) salt: u32,
    /// What the operator said when it began.
    pub(super) asked_salt: Option<String>,
    /// Flows of the canary of another one are reset.
    pub(super) generation: u8,
    /// Another number begins a new epoch, also at the same split.
    pub(super) epoch: u64,
    /// New flows that the guard sent to stable, as far as they are booked.
    pub(super) diverted: u64,
    /// Who has a track of their own.
    pub(super) steered: Steered,
    /// When the rollout began, in seconds since 1970.
    pub(super) began: f64,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            split: Split::NONE,
            drained: BTreeSet::new(),
            file_weight: 0.0,
            rolled_back: None,
            rollbacks: 0,
            promoted: None,
            ledger: Ledger::default(),
            rollout: rollout::State::default(),
            retiring: BTreeSet::new(),
            salt: 0,
            asked_salt: None,
            // 0 is no generation: flows of it could never be reset.
            generation: 1,
            epoch: 0,
            diverted: 0,
            steered: Steered::new(),
            began: 0.0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) path: PathBuf,
    /// As the file has it, but for promoted canaries: those are stable.
    pub(super) config: Config,
    pub(super) plane: Option<Dataplane>,
    pub(super) observed: Observed,
    /// Interfaces that the program is not on.
    pub(super) away: Away,
    pub(super) runtime: BTreeMap<String, Runtime>,
    pub(super) hops: BTreeMap<IpAddr, Hop>,
    pub(super) unresolved: BTreeMap<IpAddr, String>,
    pub(super) resolver: Resolver,
    pub(super) books: Books,
    pub(super) scan: Scan,
    pub(super) followers: Followers,
    /// Cells that nothing was born into since before the pass under way.
    pub(super) retired: BTreeSet<u16>,
    /// There is no cell to be folded, and will be none before the next change.
    pub(super) is_settled: bool,
    /// Memory that is free goes back to the host at the next tick.
    pub(super) has_freed: bool,
    /// When connections were last counted, for their rates.
    pub(super) sampled: Option<Instant>,
    pub(super) trials: BTreeMap<String, Trial>,
    pub(super) inbox: Inbox,
    pub(super) health: Health,
    /// Something was said that the maps do not have yet.
    pub(super) to_apply: bool,
    pub(super) store: Store,
    /// Seconds since 1970.
    pub(super) started: f64,
    last_save: Option<Saved>,
    /// What is forgotten since an earlier state was lost, until a reload.
    pub(super) lost: Option<String>,
    /// Why the state on the disk is an old one.
    pub(super) unsaved: Option<String>,
    /// When that was last tried.
    tried_to_save: Instant,
    /// No new flows, for `detach` is to follow: since somebody asked last.
    pub(super) leaving: Option<Instant>,
}

impl Daemon {
    pub(super) async fn start(path: &Path, mut config: Config) -> Result<Self> {
        let store = Store::open(&config.state_dir)?;
        let options = OpenOptions {
            bpffs: config.bpffs.clone(),
            flows: config.flows,
            log: config.log.data_plane,
            signals: config.signals,
            sole: true,
        };
        let (mut plane, mut observed) = Dataplane::open(&options)?;
        let ring = plane.take_events().context("the program has no ring of events")?;
        let followers = Followers::new(ring, plane.keys()).context("reading events")?;
        let past = Past::find(&store, plane.adopted());
        let promoted = past.promoted(&mut config, &observed)?;
        // Cells are of the maps: with new maps there are none.
        let books =
            if plane.adopted() { Books::restore(&past.saved.books) } else { Books::default() };
        observed.cells = books.cells();
        observed.cells.extend(observed.backends.values().flat_map(Backend::current_cells));
        if plane.adopted() {
            // Should the saved state not know them.
            observed.cells.extend(Pins::now(&plane.flow_table(), plane.now()?).cells());
            tracing::info!("took over the maps in {}", config.bpffs.display());
        }
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut daemon = Self {
            path: path.to_owned(),
            runtime: BTreeMap::new(),
            plane: Some(plane),
            observed,
            away: Away::new(),
            hops: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            resolver: Resolver::new()?,
            books,
            scan: Scan::default(),
            followers,
            retired: BTreeSet::new(),
            is_settled: false,
            has_freed: true,
            sampled: None,
            trials: BTreeMap::new(),
            inbox: Inbox::default(),
            health: Health::default(),
            to_apply: false,
            store,
            started: started.as_secs_f64(),
            last_save: None,
            lost: past.lost.clone().or_else(|| past.saved.lost.clone()),
            unsaved: None,
            tried_to_save: Instant::now(),
            leaving: None,
            config,
        };
        daemon.runtime = past.runtimes(&daemon.config, &daemon.observed, &promoted);
        daemon.recall_health(&past.saved.health);
        daemon.follow_health();
        let away = daemon.store.away();
        daemon.resolve_first().await;
        if let Err(error) = daemon.set_up() {
            daemon.forget_new_maps();
            return Err(error);
        }
        daemon.save();
        daemon.take_up_rollouts(away);
        Ok(daemon)
    }

    fn set_up(&mut self) -> Result<()> {
        self.recall_steering();
        self.apply().context("setting up the data plane")?;
        self.write_steering().context("steering clients")?;
        self.attach_to_all()?;
        Ok(())
    }

    /// A start that fails leaves nothing behind that was not there before.
    fn forget_new_maps(&mut self) {
        if let Some(plane) = self.plane.take_if(|plane| !plane.adopted())
            && let Err(error) = plane.remove_all()
        {
            tracing::warn!("{error}");
        }
    }

    /// The data plane, which is there until `detach`.
    pub(super) fn plane(&mut self) -> Result<&mut Dataplane, DataplaneError> {
        self.plane.as_mut().ok_or_else(|| DataplaneError::NoProgram("any more".to_owned()))
    }

    pub(super) fn attach(&mut self, interface: &str) -> Result<(), DataplaneError> {
        let mode = self.config.xdp_mode;
        let attached = self.plane()?.attach(interface, mode)?;
        let how = if attached.native { "native" } else { "generic" };
        tracing::info!("attached to {interface} ({how})");
        let allow = plan::Write::AllowInterface { ifindex: attached.ifindex };
        self.plane()?.apply(&[allow])
    }

    /// Writes down what must survive, if it changed.
    pub(super) fn save(&mut self) {
        let withheld = self.config.services.iter().filter(|s| self.withholds_canary(s));
        let withheld: BTreeSet<&str> = withheld.map(|service| &*service.name).collect();
        let services = self.runtime.iter().map(|(name, runtime)| {
            let saved = SavedService {
                split: runtime.split.parts(),
                withheld: withheld.contains(&**name),
                drained: runtime.drained.clone(),
                file_weight: runtime.file_weight,
                rolled_back: runtime.rolled_back.clone(),
                rollbacks: runtime.rollbacks,
                promoted: runtime.promoted.clone(),
                ledger: runtime.ledger.save(),
                trial: SavedTrial::of(runtime),
            };
            (name.clone(), saved)
        });
        let (services, health) = (services.collect(), self.save_health());
        let saved = Saved { services, health, lost: self.lost.clone(), books: self.books.save() };
        if self.last_save.as_ref() == Some(&saved) {
            self.unsaved = None;
            return;
        }
        self.tried_to_save = Instant::now();
        match self.store.save(&saved) {
            Ok(()) => {
                self.last_save = Some(saved);
                if self.unsaved.take().is_some() {
                    tracing::info!("what must survive is written down again");
                }
            }
            Err(error) => {
                let unsaved = format!("{error}; a restart would not know of the last changes");
                if self.unsaved.as_ref() != Some(&unsaved) {
                    tracing::warn!("{unsaved}");
                }
                self.unsaved = Some(unsaved);
            }
        }
    }

    /// Where it could not be written the last time, now and then.
    pub(super) fn save_again(&mut self) {
        if self.unsaved.is_some() && self.tried_to_save.elapsed() >= SAVE_AGAIN {
            self.save();
        }
    }
}

/// A track's backends.
pub(super) fn backends(service: &config::Service, track: Track) -> &[config::Backend] {
    match track {
        Track::Stable => &service.stable,
        Track::Canary => &service.canary,
    }
}
