//! The ways to backends, as netlink tells of them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use canary_common::FrameAddresses;

use super::state::Daemon;
use crate::{
    netlink::{NetlinkError, Resolution},
    plan::Hop,
};

/// How long neighbours have to answer before the first packet may come.
const FIRST_ANSWERS: Duration = Duration::from_millis(50);
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// What was found of the way to a backend.
type Found = (IpAddr, Result<Resolution, NetlinkError>);

impl Daemon {
    /// After news from netlink.
    pub(super) async fn follow_changes(&mut self) {
        self.follow_interfaces();
        self.resolve_again().await;
    }

    /// What of the ways to backends has changed.
    pub(super) async fn resolve_again(&mut self) {
        let before = self.hops.clone();
        self.resolve_all().await;
        if self.hops != before
            && let Err(error) = self.apply()
        {
            tracing::error!("writing next hops: {error:#}");
        }
    }

    /// At start most neighbours are not known yet, and answer within
    /// milliseconds: who does not is warned of.
    pub(super) async fn resolve_first(&mut self) {
        let addresses: Vec<IpAddr> = self.backend_addresses().into_iter().collect();
        let begun = Instant::now();
        // Asks; the answers come by netlink.
        let mut found = self.resolver.resolve_all(&addresses).await;
        let is_known = |found: &Found| matches!(found.1, Ok(Resolution::Resolved(_)));
        while !found.iter().all(is_known) && begun.elapsed() < FIRST_ANSWERS {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            found = self.resolver.resolve_all(&addresses).await;
        }
        self.take_hops(found);
    }

    async fn resolve_all(&mut self) {
        let addresses = self.backend_addresses();
        self.hops.retain(|address, _| addresses.contains(address));
        self.unresolved.retain(|address, _| addresses.contains(address));
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let found = self.resolver.resolve_all(&addresses).await;
        self.take_hops(found);
    }

    /// Looks for the ways to backends that are new; of a change on the ways to
    /// the others there would have been news.
    pub(super) async fn resolve_new(&mut self) {
        let addresses = self.backend_addresses();
        self.hops.retain(|address, _| addresses.contains(address));
        self.unresolved.retain(|address, _| addresses.contains(address));
        let new: Vec<IpAddr> =
            addresses.into_iter().filter(|address| !self.hops.contains_key(address)).collect();
        let found = self.resolver.resolve_all(&new).await;
        self.take_hops(found);
    }

    fn take_hops(&mut self, found: Vec<Found>) {
        for (address, resolution) in found {
            match resolution {
                Ok(Resolution::Resolved(hop)) => {
                    let frame = FrameAddresses::new(hop.next_hop_mac, hop.own_mac);
                    self.hops.insert(address, Hop { ifindex: hop.ifindex, frame });
                    self.unresolved.remove(&address);
                }
                Ok(Resolution::Unresolved { reason }) => {
                    if self.unresolved.get(&address) != Some(&reason) {
                        tracing::warn!("backend {address}: {reason}");
                    }
                    self.hops.remove(&address);
                    self.unresolved.insert(address, reason);
                }
                // What was known stays: it may well be right.
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    pub(super) async fn refresh_neighbours(&mut self) {
        let addresses: Vec<IpAddr> = self.backend_addresses().into_iter().collect();
        if let Err(error) = self.resolver.refresh(&addresses).await {
            tracing::warn!("{error}");
        }
        if !self.away.is_empty() {
            self.follow_interfaces();
        }
        if !self.unresolved.is_empty() {
            self.resolve_again().await;
        }
    }

    pub(super) fn backend_addresses(&self) -> BTreeSet<IpAddr> {
        let services = self.config.services.iter();
        services
            .flat_map(|service| service.stable.iter().chain(&service.canary))
            .map(|backend| backend.address.ip())
            .collect()
    }
}
