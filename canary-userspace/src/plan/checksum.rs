//! What a translation adds to checksums, computed once a backend.

use std::net::{IpAddr, SocketAddr};

/// What translating `vip` to `backend` adds to the one's complement sum of a
/// checksum over the addresses, and over addresses and port: the sum of the
/// new 16-bit words and the complements of the old ones (RFC 1624, eqn. 3),
/// folded, in words as they stand in memory, so that nobody swaps bytes.
/// The way back adds the complement.
#[must_use]
pub fn checksum_deltas(vip: SocketAddr, backend: SocketAddr) -> (u16, u16) {
    let addresses = sum(&words(backend.ip())) + sum(&complement(&words(vip.ip())));
    let ports = u32::from(backend.port().to_be()) + u32::from(!vip.port().to_be());
    (fold(addresses), fold(addresses + ports))
}

fn words(ip: IpAddr) -> Vec<u16> {
    let octets = match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect()
}

fn complement(words: &[u16]) -> Vec<u16> {
    words.iter().map(|word| !word).collect()
}

fn sum(words: &[u16]) -> u32 {
    words.iter().copied().map(u32::from).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of words that a checksum is the complement of.
    fn checksum_of(words: &[u16]) -> u16 {
        !fold(sum(words))
    }

    #[test]
    fn incremental_equals_from_scratch() {
        let cases = [
            ("203.0.113.10:80", "10.0.0.21:8080"),
            ("0.0.0.1:1", "255.255.255.255:65535"),
            ("255.255.255.255:65535", "0.0.0.1:1"),
            ("[2001:db8::1]:443", "[fd00::2:1]:8443"),
        ];
        for (vip, backend) in cases {
            let (vip, backend): (SocketAddr, SocketAddr) =
                (vip.parse().expect("an address"), backend.parse().expect("an address"));
            let (addresses, all) = checksum_deltas(vip, backend);
            for rest in [vec![0x1234, 0xffff, 7], vec![0, 0], vec![0xfffe, 1]] {
                let before = checksum_of(&[words(vip.ip()), rest.clone()].concat());
                let after = checksum_of(&[words(backend.ip()), rest.clone()].concat());
                assert_eq!(!fold(u32::from(!before) + u32::from(addresses)), after);
                let port = |address: SocketAddr| vec![address.port().to_be()];
                let before = checksum_of(&[words(vip.ip()), port(vip), rest.clone()].concat());
                let after = checksum_of(&[words(backend.ip()), port(backend), rest].concat());
                assert_eq!(!fold(u32::from(!before) + u32::from(all)), after);
                // And back.
                assert_eq!(!fold(u32::from(!after) + u32::from(!all)), before);
            }
        }
    }
}
