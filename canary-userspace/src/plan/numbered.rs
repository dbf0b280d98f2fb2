//! Records by number, and the numbers by who they are of: with as many as there
//! may be, each is looked for often.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    ops::Deref,
};

use canary_common::{Address, Backend, Service};

/// Whose a record is: an address, and what else tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(IpAddr, u16, u16);

impl Identity {
    /// A service's: what it listens on, and its IP protocol.
    pub(super) fn of_service(listen: SocketAddr, protocol: u8) -> Self {
        Self(listen.ip().to_canonical(), listen.port(), u16::from(protocol))
    }

    /// A backend's: its own address, and its service's number.
    pub(super) fn of_backend(service: u16, address: SocketAddr) -> Self {
        Self(address.ip().to_canonical(), address.port(), service)
    }
}

/// A record that tells whose it is.
pub trait Identified: Copy {
    fn identity(&self) -> Identity;
}

impl Identified for Service {
    fn identity(&self) -> Identity {
        Identity::of_service(socket_address(&self.vip, self.port_be), self.protocol)
    }
}

impl Identified for Backend {
    fn identity(&self) -> Identity {
        Identity::of_backend(self.service, socket_address(&self.address, self.port_be))
    }
}

fn socket_address(address: &Address, port_be: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(*address), u16::from_be(port_be))
}

/// See the module. It reads as the map of records that it is.
#[derive(Clone, Debug)]
pub struct Numbered<R> {
    records: BTreeMap<u16, R>,
    /// After writes that failed two numbers may be of one.
    numbers: BTreeSet<(Identity, u16)>,
}

impl<R> Default for Numbered<R> {
    fn default() -> Self {
        Self { records: BTreeMap::new(), numbers: BTreeSet::new() }
    }
}

impl<R> Deref for Numbered<R> {
    type Target = BTreeMap<u16, R>;

    fn deref(&self) -> &BTreeMap<u16, R> {
        &self.records
    }
}

impl<R: Identified> Numbered<R> {
    /// The number that a record of this identity has; the lowest of several.
    #[must_use]
    pub fn number_of(&self, identity: Identity) -> Option<u16> {
        let mut from_here = self.numbers.range((identity, 0)..);
        from_here.next().filter(|(found, _)| *found == identity).map(|(_, number)| *number)
    }

    /// Puts a record in the place of what had that number.
    pub fn insert(&mut self, number: u16, record: R) {
        self.remove(number);
        self.numbers.insert((record.identity(), number));
        self.records.insert(number, record);
    }

    pub fn remove(&mut self, number: u16) {
        if let Some(former) = self.records.remove(&number) {
            self.numbers.remove(&(former.identity(), number));
        }
    }

    /// Changes what is no part of anybody's identity.
    pub(super) fn change_all(&mut self, change: impl FnMut(&mut R)) {
        self.records.values_mut().for_each(change);
    }
}

impl<R: Identified> FromIterator<(u16, R)> for Numbered<R> {
    fn from_iter<I: IntoIterator<Item = (u16, R)>>(records: I) -> Self {
        let mut numbered = Self::default();
        records.into_iter().for_each(|(number, record)| numbered.insert(number, record));
        numbered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(port: u16, flags: u16) -> Backend {
        Backend { service: 3, port_be: port.to_be(), flags, ..Backend::default() }
    }

    #[test]
    fn numbers_follow_the_records() {
        let mut backends: Numbered<Backend> =
            [(1, backend(80, 0)), (2, backend(81, 0))].into_iter().collect();
        let numbers = |backends: &Numbered<Backend>| {
            [80, 81, 82].map(|port| backends.number_of(backend(port, 0).identity()))
        };
        assert_eq!(numbers(&backends), [Some(1), Some(2), None]);
        // The same with another content, and another under the same number.
        backends.insert(1, backend(80, 7));
        backends.insert(2, backend(82, 0));
        assert_eq!(numbers(&backends), [Some(1), None, Some(2)]);
        assert_eq!(backends.get(&1), Some(&backend(80, 7)));
        // Twins: the lower number is theirs, for as long as it is there.
        backends.insert(9, backend(80, 0));
        assert_eq!(numbers(&backends), [Some(1), None, Some(2)]);
        backends.remove(1);
        assert_eq!(numbers(&backends), [Some(9), None, Some(2)]);
        backends.remove(9);
        assert_eq!(numbers(&backends), [None, None, Some(2)]);
        assert_eq!(backends.len(), 1);
    }
}
