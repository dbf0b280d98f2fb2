//! `canary where`: the program itself is asked.

use std::net::SocketAddr;

use canary_common::WhereAnswer;

use super::{Dataplane, error::DataplaneError};

/// Room for the answer, which is longer than the shortest frame.
const FRAME_LEN: usize = 96;

impl Dataplane {
    /// What a first packet from `client` to the service at `vip` would meet.
    /// Runs the packet path's own functions in the kernel; books nothing.
    ///
    /// # Errors
    /// Where the kernel refuses the test run.
    pub fn ask_where(
        &self,
        vip: SocketAddr,
        udp: bool,
        client: SocketAddr,
    ) -> Result<WhereAnswer, DataplaneError> {
        let mut out = [0; FRAME_LEN];
        self.test_run("canary_where", &first_packet(vip, udp, client), &mut out)?;
        // SAFETY: any bytes are an answer, and there are enough of them.
        Ok(unsafe { out.as_ptr().cast::<WhereAnswer>().read_unaligned() })
    }
}

/// A SYN or a datagram; checksums are not looked at.
fn first_packet(vip: SocketAddr, udp: bool, client: SocketAddr) -> [u8; FRAME_LEN] {
    const ETHERNET: usize = 14;
    const SYN: u8 = 2;
    let protocol = if udp { canary_common::PROTO_UDP } else { canary_common::PROTO_TCP };
    let mut frame = [0; FRAME_LEN];
    let transport = match (client.ip(), vip.ip()) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
            frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
            let ip = &mut frame[ETHERNET..];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&((FRAME_LEN - ETHERNET) as u16).to_be_bytes());
            ip[8] = 64;
            ip[9] = protocol;
            ip[12..16].copy_from_slice(&source.octets());
            ip[16..20].copy_from_slice(&destination.octets());
            ETHERNET + 20
        }
        (source, destination) => {
            frame[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
            let ip = &mut frame[ETHERNET..];
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&((FRAME_LEN - ETHERNET - 40) as u16).to_be_bytes());
            ip[6] = protocol;
            ip[7] = 64;
            ip[8..24].copy_from_slice(&octets(source));
            ip[24..40].copy_from_slice(&octets(destination));
            ETHERNET + 40
        }
    };
    frame[transport..transport + 2].copy_from_slice(&client.port().to_be_bytes());
    frame[transport + 2..transport + 4].copy_from_slice(&vip.port().to_be_bytes());
    if !udp {
        frame[transport + 12] = 5 << 4;
        frame[transport + 13] = SYN;
    }
    frame
}

fn octets(ip: std::net::IpAddr) -> [u8; 16] {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}
