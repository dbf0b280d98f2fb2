//! Addresses of both families in one type, as they stand on the wire.

use canary_common::{Address, DirectoryKey, EntryKind, PROTO_TCP, PROTO_UDP};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

#[expect(clippy::unwrap_used, reason = "tests")]
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bytes(address: Address) -> Vec<u8> {
    address.words_be.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn both_families_come_back() {
    for text in [
        "0.0.0.0",
        "10.0.0.11",
        "203.0.113.10",
        "255.255.255.255",
        "::",
        "::1",
        "2001:db8::21",
        "fe80::1:2:3:4",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        // Near IPv4-mapped, and not it.
        "::10.0.0.11",
        "::fffe:10.0.0.11",
        "::1:ffff:a00:b",
        "1::ffff:a00:b",
    ] {
        let address = Address::from(ip(text));
        assert_eq!(IpAddr::from(address), ip(text));
        assert_eq!(address.is_v4(), ip(text).is_ipv4(), "{text}");
    }
}

/// A mapped address is the IPv4 address: they are one client.
#[test]
fn mapped_addresses_are_ipv4() {
    let address = Address::from(ip("::ffff:10.0.0.11"));
    assert_eq!(address, Address::from(ip("10.0.0.11")));
    assert_eq!(IpAddr::from(address), ip("10.0.0.11"));
}

#[test]
fn memory_holds_what_the_wire_does() {
    let v6 = bytes(Address::from(ip("2001:db8:1:2:3:4:5:6")));
    assert_eq!(v6, [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]);
    let v4 = bytes(Address::from(ip("10.1.2.3")));
    assert_eq!(v4, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
}

/// The program reads four bytes of the IPv4 header as one number.
#[test]
fn the_headers_number_is_the_same_address() {
    for octets in [[10, 1, 2, 3], [0, 0, 0, 1], [255, 0, 0, 254]] {
        let from_header = Address::from_v4_be(u32::from_ne_bytes(octets));
        assert_eq!(from_header, Address::from(IpAddr::from(Ipv4Addr::from(octets))));
    }
}

#[test]
fn directory_keys_differ_in_each_part() {
    let mut extras = HashSet::new();
    for port in [0_u16, 1, 80, 0x5000, 443, u16::MAX] {
        for protocol in [PROTO_TCP, PROTO_UDP] {
            for kind in [EntryKind::Service, EntryKind::Backend] {
                let key = DirectoryKey::new(kind, Address::default(), port.to_be(), protocol);
                assert!(extras.insert(key.rest()), "{key:?}");
                assert_eq!(key.kind, kind as u8);
            }
        }
    }
}
