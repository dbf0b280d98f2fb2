//! Networks, and the keys of the steering maps.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use canary_common::{Address, Cidr, CidrError, Fault, SteerKey};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn networks_come_back_as_they_were_written() {
    for text in [
        "192.0.2.1",
        "192.0.2.0/24",
        "0.0.0.0/0",
        "128.0.0.0/1",
        "198.51.100.6/31",
        "2001:db8::1",
        "2001:db8::/32",
        "::/0",
        "8000::/1",
    ] {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
    }
    // The same, in short.
    for (text, short) in [
        ("192.0.2.1/32", "192.0.2.1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1/128", "192.0.2.1"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
    ] {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), short);
    }
}

#[test]
fn what_is_no_network_says_why() {
    let error = |text: &str| text.parse::<Cidr>().unwrap_err();
    assert_eq!(error("192.0.2.0/33"), CidrError::TooLong(32));
    assert_eq!(error("2001:db8::/129"), CidrError::TooLong(128));
    let meant = "192.0.2.0/24".parse().unwrap();
    assert_eq!(error("192.0.2.7/24"), CidrError::HostBits(meant));
    assert_eq!(
        error("192.0.2.7/24").to_string(),
        "the address has bits beyond the prefix; the network is 192.0.2.0/24"
    );
    let meant = "2001:db8::/32".parse().unwrap();
    assert_eq!(error("2001:db8::7/32"), CidrError::HostBits(meant));
    for text in ["", "/24", "192.0.2/24", "host/24"] {
        assert!(matches!(error(text), CidrError::Address(_)), "{text}");
    }
    for text in ["192.0.2.0/", "192.0.2.0/-1", "192.0.2.0/256", "192.0.2.0/a", "192.0.2.0/8/8"] {
        assert!(matches!(error(text), CidrError::Prefix(_)), "{text}");
    }
}

/// The kernel's comparison under a mask and ours say the same.
#[test]
fn who_is_inside() {
    let cases = [
        (
            "192.0.2.0/24",
            &["192.0.2.0", "192.0.2.255"][..],
            &["192.0.3.0", "192.0.1.255", "::"][..],
        ),
        ("192.0.2.1", &["192.0.2.1"], &["192.0.2.0", "192.0.2.2"]),
        ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["2001:db8::1"]),
        ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::", "192.0.2.1"]),
        ("2001:db8::1", &["2001:db8::1"], &["2001:db8::", "2001:db8::2"]),
    ];
    for (network, inside, outside) in cases {
        let cidr: Cidr = network.parse().unwrap();
        let (network, mask) = cidr.network_and_mask();
        let fault = Fault { network, mask, ..Fault::default() };
        for (addresses, expected) in [(inside, true), (outside, false)] {
            for text in addresses {
                assert_eq!(cidr.contains(ip(text)), expected, "{text} in {cidr}");
                assert_eq!(fault.hits(&Address::from(ip(text))), expected, "{text} in {cidr}");
            }
        }
    }
    // Everybody.
    assert!(Fault::default().hits(&Address::from(ip("192.0.2.1"))));
    assert!(Fault::default().hits(&Address::from(ip("2001:db8::1"))));
}

/// Tries compare the bits of memory, from the first on.
#[test]
fn keys_are_the_address_as_on_the_wire() {
    let key = SteerKey::v4(0x0102, &Address::from(ip("192.0.2.33")));
    let bytes: Vec<u8> = key[1..].iter().flat_map(|half| half.to_ne_bytes()).collect();
    assert_eq!(bytes, [192, 0, 2, 33]);
    assert_eq!(key[0], 0x0102);
    assert_eq!(IpAddr::from(SteerKey::address_v4(key)), ip("192.0.2.33"));
    let address = ip("2001:db8:1:2:3:4:5:678");
    let key = SteerKey::v6(7, &Address::from(address));
    let bytes: Vec<u8> = key[1..].iter().flat_map(|half| half.to_ne_bytes()).collect();
    let IpAddr::V6(v6) = address else { panic!("{address}") };
    assert_eq!(bytes, v6.octets());
    assert_eq!(IpAddr::from(SteerKey::address_v6(key)), address);
    assert_eq!(SteerKey::WHOLE_V6, 8 * size_of_val(&key) as u32);
}
