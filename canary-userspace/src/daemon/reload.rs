//! A new configuration: all of it, or nothing.

use std::collections::BTreeSet;

use canary_common::Split;

use super::{
    promotion::{self, Promoted, Standing},
    state::{Daemon, Runtime},
};
use crate::{
    api::{
        request::{Peer, Refusal},
        types::Reloaded,
    },
    config::{self, Config, XdpMode},
    dataplane::Dataplane,
    rollout,
};

impl Daemon {
    /// Reads the file again.
    ///
    /// # Errors
    /// The file's mistakes, or what of it needs a restart; nothing has changed.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, Refusal> {
        let outcome = self.try_reload().await;
        match &outcome {
            Ok(reloaded) if reloaded.changes.is_empty() => tracing::info!("reload: no change"),
            Ok(reloaded) => tracing::info!("reloaded: {}", reloaded.changes.join("; ")),
            Err(refusal) => tracing::error!("reload refused: {}", refusal.message),
        }
        outcome
    }

    /// Into the history of each service that is another now.
    pub(super) fn note_reload(&self, former: &[config::Service], by: &Peer) {
        for service in &self.config.services {
            let what = match former.iter().find(|other| other.name == service.name) {
                None => "added by a reload",
                Some(other) if other != service => "changed by a reload",
                Some(_) => continue,
            };
            self.note_change(&service.name, "reload", what, by);
        }
    }

    async fn try_reload(&mut self) -> Result<Reloaded, Refusal> {
        let mut new =
            config::load_to_run(&self.path).map_err(|e| Refusal::bad_request(e.to_string()))?;
        needs_restart(&self.config, &new)?;
        let promoted = self.accept(&mut new)?;
        let changes = changes(&self.config, &new);
        let added: Vec<_> = new
            .interfaces
            .iter()
            .filter(|i| !self.config.interfaces.contains(i))
            .cloned()
            .collect();
        let modes = self.modes();
        let mode = std::mem::replace(&mut self.config.xdp_mode, new.xdp_mode);
        let attached = self.attach_all(&added);
        let attached = attached.and_then(|()| self.set_modes(new.xdp_mode, &modes, &added));
        self.config.xdp_mode = mode;
        attached?;
        let old = std::mem::replace(&mut self.config, new);
        let runtime = self.runtime.clone();
        self.follow(&old);
        for (name, promoted) in promoted {
            if let Some(runtime) = self.runtime.get_mut(&name) {
                runtime.promoted = promoted;
            }
        }
        self.follow_health();
        self.resolve_new().await;
        if let Err(error) = self.apply() {
            self.config = old;
            self.runtime = runtime;
            self.follow_health();
            self.restore();
            self.detach_all(&added);
            self.restore_modes(&modes);
            return Err(Refusal::internal(format!("{error:#}; nothing was changed")));
        }
        let removed: Vec<_> = old
            .interfaces
            .iter()
            .filter(|i| !self.config.interfaces.contains(i))
            .cloned()
            .collect();
        self.detach_all(&removed);
        self.rollouts_follow();
        if let Err(error) = self.follow_steering() {
            tracing::error!("steering clients: {error:#}");
        }
        self.lost = None;
        self.save();
        Ok(Reloaded { changes })
    }

    /// Whether rollouts allow this configuration; where a canary was promoted
    /// its tracks are swapped, as long as the file does not have it so itself.
    fn accept(&self, new: &mut Config) -> Result<Vec<(String, Option<Promoted>)>, Refusal> {
        let mut promotions = Vec::new();
        for service in &mut new.services {
            let Some(runtime) = self.runtime.get(&service.name) else { continue };
            let name = service.name.clone();
            let refused =
                |why: String| Refusal::conflict(format!("{name}: {why}; nothing was changed"));
            let promoted = runtime.promoted.clone();
            let standing = promoted.as_ref().map(|promoted| promoted.standing(service));
            match (standing, &promoted) {
                (Some(Standing::Contradicts), Some(promoted)) => {
                    return Err(refused(format!(
                        "its canary was promoted and serves now: write stable = [{}], or go back \
                         with `canary rollout undo {}` first",
                        promoted.new_stable(),
                        name
                    )));
                }
                (Some(Standing::Swapped), _) => {
                    promotion::swap(service);
                    promotions.push((name.clone(), promoted));
                }
                _ => promotions.push((name.clone(), None)),
            }
            let former = self.config.services.iter().find(|s| s.name == service.name);
            if former.is_some_and(|former| concerns_rollout(former, service)) {
                rollout::accepts_new_configuration(&runtime.rollout)
                    .map_err(|refusal| refused(refusal.to_string()))?;
            }
        }
        for former in &self.config.services {
            let stays = new.services.iter().any(|s| s.name == former.name);
            if !stays && let Some(runtime) = self.runtime.get(&former.name) {
                rollout::accepts_new_configuration(&runtime.rollout).map_err(|refusal| {
                    Refusal::conflict(format!("{}: {refusal}; nothing was changed", former.name))
                })?;
            }
        }
        Ok(promotions)
    }

    fn attach_all(&mut self, interfaces: &[String]) -> Result<(), Refusal> {
        for (done, interface) in interfaces.iter().enumerate() {
            if let Err(error) = self.attach(interface) {
                self.detach_all(&interfaces[..done]);
                return Err(Refusal::conflict(format!("{error}; nothing was changed")));
            }
        }
        Ok(())
    }

    /// The mode of each interface that is attached.
    fn modes(&self) -> Vec<(String, XdpMode)> {
        let attached = self.plane.iter().flat_map(Dataplane::attachments);
        let mode = |native| if native { XdpMode::Native } else { XdpMode::Generic };
        attached.map(|a| (a.interface.clone(), mode(a.native))).collect()
    }

    /// Interfaces that are attached get another mode. Where one cannot have it
    /// the others get back what they had, and `added` are let go.
    fn set_modes(
        &mut self,
        mode: XdpMode,
        before: &[(String, XdpMode)],
        added: &[String],
    ) -> Result<(), Refusal> {
        let all: Vec<String> = self.modes().into_iter().map(|(interface, _)| interface).collect();
        let set = all.iter().try_for_each(|interface| self.plane()?.set_mode(interface, mode));
        set.map_err(|error| {
            self.detach_all(added);
            self.restore_modes(before);
            Refusal::conflict(format!("{error}; nothing was changed"))
        })
    }

    fn restore_modes(&mut self, before: &[(String, XdpMode)]) {
        for (interface, mode) in before {
            let set = self.plane().and_then(|plane| plane.set_mode(interface, *mode));
            if let Err(error) = set {
                tracing::error!("{error}");
            }
        }
    }

    fn detach_all(&mut self, interfaces: &[String]) {
        for interface in interfaces {
            if self.away.remove(interface).is_some() {
                continue;
            }
            let detached = self.plane().and_then(|plane| plane.detach(interface));
            match detached {
                Ok(()) => tracing::info!("detached from {interface}"),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Splits and drains follow the new file only where it says something new.
    fn follow(&mut self, old: &Config) {
        let services = self.config.services.clone();
        let names: BTreeSet<&str> = services.iter().map(|service| &*service.name).collect();
        self.runtime.retain(|name, _| names.contains(&**name));
        self.trials.retain(|name, _| names.contains(&**name));
        for service in &services {
            let fresh = Split::from_fraction(service.weight).unwrap_or(Split::NONE);
            let former = old.services.iter().find(|s| s.name == service.name);
            let runtime = self.runtime.entry(service.name.clone()).or_insert_with(|| Runtime {
                split: fresh,
                file_weight: service.weight,
                ..Runtime::default()
            });
            if former.is_some_and(|former| former.weight != service.weight) {
                runtime.split = fresh;
                runtime.rolled_back = None;
            }
            runtime.file_weight = service.weight;
            if service.canary.is_empty() {
                runtime.split = Split::NONE;
            }
            let known: Vec<_> =
                service.stable.iter().chain(&service.canary).map(|b| b.address).collect();
            runtime.drained.retain(|address| known.contains(address));
        }
    }
}

/// Whether what a rollout rests on is another.
fn concerns_rollout(former: &config::Service, new: &config::Service) -> bool {
    (&former.stable, &former.canary, &former.rollout, &former.evidence)
        != (&new.stable, &new.canary, &new.rollout, &new.evidence)
}

/// Keys that are read at start only.
fn needs_restart(old: &Config, new: &Config) -> Result<(), Refusal> {
    let changed: Vec<_> = [
        ("flows", old.flows != new.flows),
        ("socket", old.socket != new.socket),
        ("socket_group, socket_mode, read_group", old.socket_access != new.socket_access),
        ("bpffs", old.bpffs != new.bpffs),
        ("state_dir", old.state_dir != new.state_dir),
        ("[metrics]", old.metrics != new.metrics),
        ("[log]", old.log != new.log),
        ("signals", old.signals != new.signals),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(Refusal::conflict(format!(
        "{} needs a restart of the daemon (traffic goes on meanwhile); nothing was changed",
        changed.join(", ")
    )))
}

/// In words, a line each.
fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    if old.interfaces != new.interfaces {
        changes.push(format!("interfaces: {}", new.interfaces.join(", ")));
    }
    if old.xdp_mode != new.xdp_mode {
        changes.push(format!("xdp_mode: {}", new.xdp_mode.name()));
    }
    for service in &new.services {
        match old.services.iter().find(|s| s.name == service.name) {
            None => changes.push(format!("service {} is new", service.name)),
            Some(former) if former != service => {
                changes.push(format!("service {} changed", service.name));
            }
            Some(_) => {}
        }
    }
    for former in &old.services {
        if !new.services.iter().any(|s| s.name == former.name) {
            changes.push(format!("service {} is gone", former.name));
        }
    }
    changes
}
