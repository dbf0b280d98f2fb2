//! Steering: clients that have a track of their own.

use std::{net::IpAddr, time::Duration};

use aya::{
    Pod,
    maps::{LpmTrie, MapData, MapError, lpm_trie::Key},
};
use canary_common::{Address, Cidr, Steer, SteerKey, Track};

use super::{
    Dataplane,
    error::{Context as _, DataplaneError},
};

/// Where clients of a network go, whatever the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    pub track: Track,
    /// To the canary also where the guard stops it.
    pub always: bool,
    /// After so long the network is steered no more; `None`: never.
    pub expires_in: Option<Duration>,
}

impl Dataplane {
    /// Steers a network's new flows, in place of what it was told before; the
    /// longest network that names a client counts. A flow that is pinned stays
    /// where it is. The service's record must say that it has any
    /// ([`crate::plan::DesiredService::steered`]).
    ///
    /// # Errors
    /// Where the kernel refuses, also because there are too many
    /// ([`canary_common::MAX_STEERED`] of each family).
    pub fn steer(
        &mut self,
        service: u16,
        network: Cidr,
        steering: &Steering,
    ) -> Result<(), DataplaneError> {
        self.steer_all(service, [(network, *steering)])
    }

    /// The same of many.
    ///
    /// # Errors
    /// Where the kernel refuses one: those before it are steered.
    pub fn steer_all(
        &mut self,
        service: u16,
        all: impl IntoIterator<Item = (Cidr, Steering)>,
    ) -> Result<(), DataplaneError> {
        let now = self.clock()?;
        for (network, steering) in all {
            let prefix = SteerKey::SERVICE_BITS + u32::from(network.prefix());
            let value = Steer {
                until: steering.expires_in.map_or(0, |after| self.deadline(now, after)),
                track: steering.track as u8,
                always: u8::from(steering.always),
                prefix: prefix as u8,
                reserved: [0; 5],
            };
            let address = Address::from(network.address());
            let put = match network.address() {
                IpAddr::V4(_) => {
                    let key = Key::new(prefix, SteerKey::v4(service, &address));
                    self.steer_v4.insert(&key, value, 0)
                }
                IpAddr::V6(_) => {
                    let key = Key::new(prefix, SteerKey::v6(service, &address));
                    self.steer_v6.insert(&key, value, 0)
                }
            };
            put.context(|| format!("steering {network}"))?;
        }
        Ok(())
    }

    /// Leaves a network to the split again; whether it was steered.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn unsteer(&mut self, service: u16, network: Cidr) -> Result<bool, DataplaneError> {
        let prefix = SteerKey::SERVICE_BITS + u32::from(network.prefix());
        let address = Address::from(network.address());
        let removed = match network.address() {
            IpAddr::V4(_) => {
                self.steer_v4.remove(&Key::new(prefix, SteerKey::v4(service, &address)))
            }
            IpAddr::V6(_) => {
                self.steer_v6.remove(&Key::new(prefix, SteerKey::v6(service, &address)))
            }
        };
        was_there(removed).context(|| format!("unsteering {network}"))
    }

    /// The networks of a service that are steered, at most `limit` of them, and
    /// how many there are. What has expired is removed on the way. Looks at
    /// every service's: a million take about a second.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn steered(
        &mut self,
        service: u16,
        limit: usize,
    ) -> Result<(Vec<(Cidr, Steering)>, usize), DataplaneError> {
        let now = self.clock()?;
        let hz = self.hz;
        let mut listed = Vec::new();
        let mut total = 0;
        let mut list = |address: Address, value: &Steer| {
            total += 1;
            if listed.len() >= limit {
                return;
            }
            let prefix = u32::from(value.prefix).saturating_sub(SteerKey::SERVICE_BITS) as u8;
            if let Ok(network) = Cidr::new(address.into(), prefix) {
                listed.push((network, steering(value, now, hz)));
            }
        };
        visit(
            &mut self.steer_v4,
            |key| key[0] == service,
            now,
            |key, value| {
                list(SteerKey::address_v4(key), value);
            },
        )?;
        visit(
            &mut self.steer_v6,
            |key| key[0] == service,
            now,
            |key, value| {
                list(SteerKey::address_v6(key), value);
            },
        )?;
        listed.sort_unstable_by_key(|(network, _)| *network);
        Ok((listed, total))
    }

    /// Leaves all of a service's clients to the split.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn forget_steering(&mut self, service: u16) -> Result<(), DataplaneError> {
        forget(&mut self.steer_v4, |key| key[0] == service)?;
        forget(&mut self.steer_v6, |key| key[0] == service)
    }
}

type Trie<K> = LpmTrie<MapData, K, Steer>;

fn steering(value: &Steer, now: u64, hz: u32) -> Steering {
    let left = value.until.saturating_sub(now).saturating_mul(1000) / u64::from(hz);
    Steering {
        track: if value.track == 0 { Track::Stable } else { Track::Canary },
        always: value.always != 0,
        expires_in: (value.until != 0).then(|| Duration::from_millis(left)),
    }
}

/// Keys are collected first: the kernel begins anew where the one that it is to
/// go on from has been removed.
fn keys_of<K: Pod>(
    trie: &Trie<K>,
    is_theirs: impl Fn(K) -> bool,
) -> Result<Vec<Key<K>>, DataplaneError> {
    let all = trie.keys().filter(|key| key.as_ref().map_or(true, |key| is_theirs(key.data())));
    all.collect::<Result<_, _>>().context(|| "listing who is steered")
}

fn visit<K: Pod>(
    trie: &mut Trie<K>,
    is_theirs: impl Fn(K) -> bool,
    now: u64,
    mut each: impl FnMut(K, &Steer),
) -> Result<(), DataplaneError> {
    for key in keys_of(trie, is_theirs)? {
        let value = match trie.get(&key, 0) {
            Ok(value) => value,
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error).context(|| "reading who is steered"),
        };
        if value.until != 0 && value.until < now {
            was_there(trie.remove(&key)).context(|| "removing an expired network")?;
            continue;
        }
        each(key.data(), &value);
    }
    Ok(())
}

fn forget<K: Pod>(trie: &mut Trie<K>, is_theirs: impl Fn(K) -> bool) -> Result<(), DataplaneError> {
    for key in keys_of(trie, is_theirs)? {
        was_there(trie.remove(&key)).context(|| "removing a steered network")?;
    }
    Ok(())
}

/// Of a removal's outcome: whether there was anything.
fn was_there(removed: Result<(), MapError>) -> Result<bool, MapError> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
