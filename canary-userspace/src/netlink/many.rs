//! The ways to many backends at once: questions go out together, and what many
//! have in common is asked once.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use canary_common::Mac;
use netlink_packet_route::RouteNetlinkMessage;

use super::{
    NetlinkError, NextHop, Resolution, Resolver, lock,
    message::{self, Link, Neighbour},
};

/// Questions under way at once: their answers have to find room in the socket.
const AT_ONCE: usize = 64;

/// What one look has found out so far.
#[derive(Default)]
struct Seen {
    links: BTreeMap<u32, Result<Link, String>>,
    macs: BTreeMap<Neighbour, Option<Mac>>,
}

/// The inner error is the reason why there is none.
type Reasoned<T> = Result<Result<T, String>, NetlinkError>;

impl Resolver {
    /// The ways to backends, see [`Resolver::resolve`]; each fails by itself.
    pub async fn resolve_all(
        &mut self,
        backends: &[IpAddr],
    ) -> Vec<(IpAddr, Result<Resolution, NetlinkError>)> {
        let mut seen = Seen::default();
        let mut found = Vec::with_capacity(backends.len());
        for some in backends.chunks(AT_ONCE) {
            for (backend, route) in self.routes(some).await {
                let way = match route {
                    Ok(Ok(neighbour)) => {
                        self.ways.insert(backend, neighbour);
                        self.next_hop(neighbour, &mut seen).await
                    }
                    Ok(Err(reason)) => {
                        self.ways.remove(&backend);
                        Ok(Err(reason))
                    }
                    Err(error) => Err(error),
                };
                let resolution = way.map(|way| match way {
                    Ok(next_hop) => Resolution::Resolved(next_hop),
                    Err(reason) => Resolution::Unresolved { reason },
                });
                found.push((backend, resolution));
            }
        }
        found
    }

    /// Has the kernel look at the neighbours of these backends again: traffic
    /// that passes it by confirms none, and unconfirmed ones are forgotten.
    /// Static neighbours stay as they are.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn refresh(&mut self, backends: &[IpAddr]) -> Result<(), NetlinkError> {
        // A route that has changed since was news, and was looked up again.
        let (known, unknown): (Vec<IpAddr>, Vec<IpAddr>) =
            backends.iter().partition(|backend| self.ways.contains_key(backend));
        // Backends behind one gateway are one neighbour.
        let mut neighbours: BTreeSet<Neighbour> =
            known.iter().filter_map(|backend| self.ways.get(backend)).copied().collect();
        for some in unknown.chunks(AT_ONCE) {
            for (_, route) in self.routes(some).await {
                neighbours.extend(route?.ok());
            }
        }
        for neighbour in neighbours {
            let entry = self.entry(neighbour).await?;
            self.ask_for(neighbour, entry.as_ref()).await;
        }
        Ok(())
    }

    /// `ip route get` of each.
    async fn routes(&self, backends: &[IpAddr]) -> Vec<(IpAddr, Reasoned<Neighbour>)> {
        let what = "a route";
        let asked: Vec<_> =
            backends.iter().map(|to| (*to, self.ask(message::get_route(*to), what))).collect();
        let mut routes = Vec::with_capacity(asked.len());
        for (to, question) in asked {
            let answer = match question {
                Ok(question) => Self::answer(question, what).await,
                Err(error) => Err(error),
            };
            let route = answer.map(|answer| match answer {
                Ok(RouteNetlinkMessage::NewRoute(route)) => message::neighbour_of(&route, to),
                Ok(_) => Err(format!("no route to {to}")),
                Err(errno) => Err(message::refused(errno, to)),
            });
            routes.push((to, route));
        }
        routes
    }

    async fn next_hop(&self, neighbour: Neighbour, seen: &mut Seen) -> Reasoned<NextHop> {
        let link = match seen.links.entry(neighbour.ifindex) {
            Entry::Occupied(link) => link.into_mut(),
            Entry::Vacant(place) => place.insert(self.link(neighbour.ifindex).await?),
        };
        let link = match link {
            Ok(link) => link,
            Err(reason) => return Ok(Err(reason.clone())),
        };
        let mac = match seen.macs.entry(neighbour) {
            Entry::Occupied(mac) => *mac.get(),
            Entry::Vacant(place) => *place.insert(self.mac(neighbour).await?),
        };
        let (ifindex, own_mac, mtu) = (neighbour.ifindex, link.mac, link.mtu);
        Ok(match mac {
            Some(next_hop_mac) => Ok(NextHop { ifindex, own_mac, next_hop_mac, mtu }),
            None => Err(format!("{} does not answer on {}", neighbour.address, link.name)),
        })
    }

    /// None where it is not known; the kernel is asked to find out then.
    async fn mac(&self, neighbour: Neighbour) -> Result<Option<Mac>, NetlinkError> {
        let entry = self.entry(neighbour).await?;
        let mac = entry.as_ref().and_then(message::mac_of);
        lock(&self.told).insert(neighbour, mac);
        if mac.is_none() {
            self.ask_for(neighbour, entry.as_ref()).await;
        }
        Ok(mac)
    }
}
