//! Addresses and ports: what is wrong with one, and what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A service's virtual address.
    Listen,
    Backend,
    /// An address of this host to serve HTTP on.
    Metrics,
}

/// Message and help.
pub(super) type Wrong = (String, String);

impl Role {
    pub(super) const fn example(self) -> &'static str {
        match self {
            Self::Listen => "203.0.113.10:80",
            Self::Backend => "10.0.0.11:8080",
            Self::Metrics => "127.0.0.1:9871",
        }
    }

    fn port_example(self) -> u16 {
        match self {
            Self::Listen => 80,
            Self::Backend => 8080,
            Self::Metrics => 9871,
        }
    }
}

/// Reads and checks one address and port.
pub(super) fn read(text: &str, role: Role) -> Result<SocketAddr, Wrong> {
    let address = text.parse::<SocketAddr>().map_err(|_| malformed(text, role))?;
    check(address, role)?;
    Ok(address)
}

/// Why `text` is no address and port.
fn malformed(text: &str, role: Role) -> Wrong {
    let (port, example) = (role.port_example(), role.example());
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let with_port = SocketAddr::new(ip, port);
        return (
            format!("\"{text}\" has no port"),
            match ip {
                IpAddr::V4(_) => format!("write the port after the address: \"{with_port}\""),
                IpAddr::V6(_) => format!(
                    "write the address in brackets and the port after them: \"{with_port}\""
                ),
            },
        );
    }
    if let Some((host, number)) = text.rsplit_once(':')
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
    {
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_address && number.parse::<u16>().is_err() {
            return (
                format!("port {number} does not exist"),
                "write a port from 1 to 65535".to_owned(),
            );
        }
        if is_address {
            return (
                format!("\"{text}\" is not an address and port"),
                format!("write \"[{}]:{number}\"", host.trim_matches(['[', ']'])),
            );
        }
        if host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains([':', '/']) {
            return (
                format!("\"{host}\" is a name; names are not looked up"),
                format!("write its address and the port, for example \"{example}\""),
            );
        }
    }
    (
        format!("\"{text}\" is not an address and port"),
        format!("write for example \"{example}\" or \"[2001:db8::1]:{port}\""),
    )
}

/// Why packets cannot be sent to an address, or accepted on it.
fn check(address: SocketAddr, role: Role) -> Result<(), Wrong> {
    let example = role.example();
    if address.port() == 0 {
        let named = SocketAddr::new(address.ip(), role.port_example());
        return Err((
            "port 0 is not a port".to_owned(),
            format!("write a port from 1 to 65535, for example \"{named}\""),
        ));
    }
    if role == Role::Metrics {
        return Ok(());
    }
    let ip = address.ip();
    let kind = match ip {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    };
    if let Some(v4) = mapped(ip) {
        return Err((
            format!("{ip} is an IPv4 address written as an IPv6 one"),
            format!("write \"{}\"", SocketAddr::new(v4, address.port())),
        ));
    }
    let Some(kind) = kind else { return check_scope(address) };
    Err((
        format!("{ip} is {kind}"),
        format!("write the address of one host that others can reach, for example \"{example}\""),
    ))
}

/// A scope beside an address that means the same host everywhere would make
/// two of one.
fn check_scope(address: SocketAddr) -> Result<(), Wrong> {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err((
            format!("\"{v6}\" names an interface after the %"),
            format!("write \"{}\"", SocketAddr::new(address.ip(), address.port())),
        )),
        _ => Ok(()),
    }
}

fn mapped(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

fn kind_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_broadcast() => Some("the broadcast address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        _ if ip.is_loopback() => Some("a loopback address, which no packet of the wire carries"),
        _ => None,
    }
}

fn kind_v6(ip: Ipv6Addr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        _ if ip.is_loopback() => Some("a loopback address, which no packet of the wire carries"),
        _ if ip.is_unicast_link_local() => {
            Some("a link-local address, which means another host on every interface")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        for text in ["203.0.113.10:80", "[2001:db8::1]:443", "10.0.0.1:65535", "[fd00::1]:1"] {
            assert_eq!(read(text, Role::Listen), Ok(text.parse().expect(text)));
            assert_eq!(read(text, Role::Backend), Ok(text.parse().expect(text)));
        }
        // Listening on every address is fine for metrics, and only there.
        assert!(read("0.0.0.0:9871", Role::Metrics).is_ok());
        assert!(read("[::]:9871", Role::Metrics).is_ok());
    }

    #[test]
    fn every_kind_of_bad_address_says_what_to_write() {
        let cases = [
            ("10.0.0.11", "has no port", "\"10.0.0.11:8080\""),
            ("2001:db8::1", "has no port", "\"[2001:db8::1]:8080\""),
            ("[2001:db8::1]", "has no port", "\"[2001:db8::1]:8080\""),
            // Eight groups and a port: no address by itself.
            ("1:2:3:4:5:6:7:8:443", "not an address and port", "\"[1:2:3:4:5:6:7:8]:443\""),
            ("10.0.0.11:70000", "port 70000 does not exist", "1 to 65535"),
            ("10.0.0.11:0", "port 0", "\"10.0.0.11:8080\""),
            ("web-1.example:80", "\"web-1.example\" is a name", "its address"),
            ("http://10.0.0.11:80", "not an address and port", "10.0.0.11:8080"),
            ("10.0.0.11:", "not an address and port", "10.0.0.11:8080"),
            ("", "not an address and port", "10.0.0.11:8080"),
            ("0.0.0.0:80", "unspecified", "one host"),
            ("[::]:80", "unspecified", "one host"),
            ("255.255.255.255:80", "broadcast", "one host"),
            ("224.0.0.1:80", "multicast", "one host"),
            ("[ff02::1]:80", "multicast", "one host"),
            ("127.0.0.1:80", "loopback", "one host"),
            ("[::1]:80", "loopback", "one host"),
            ("[fe80::1]:80", "link-local", "one host"),
            ("[fe80::1%2]:80", "link-local", "one host"),
            ("[2001:db8::1%2]:80", "names an interface", "\"[2001:db8::1]:80\""),
            ("[::ffff:10.0.0.1]:80", "IPv4 address written as", "\"10.0.0.1:80\""),
        ];
        for (text, message, help) in cases {
            let Err(wrong) = read(text, Role::Backend) else { panic!("{text} was accepted") };
            assert!(wrong.0.contains(message), "{text}: {}", wrong.0);
            assert!(wrong.1.contains(help), "{text}: {}", wrong.1);
        }
    }
}
