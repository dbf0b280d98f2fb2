//! Frames on a host's wire, as they are: sent and heard past its kernel.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::uplink;
use crate::lab::{Lab, at};

/// Frames in one system call. A veth's ring has 256 places.
pub(super) const BATCH: usize = 64;
/// A device that takes nothing for so long takes no more.
const STUCK: Duration = Duration::from_secs(1);
const BREATH: Duration = Duration::from_micros(50);
/// Longest frame that is heard whole.
const HEARD: usize = 128;
/// Bytes that may wait to be heard.
const ROOM: libc::c_int = 64 << 20;

/// A packet socket on a host's end of a wire to the balancer.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    /// The host's address, and the balancer's next to it.
    pub(super) own_mac: [u8; 6],
    pub(super) balancer_mac: [u8; 6],
}

impl Wire {
    /// To send and to hear IPv4 from the balancer.
    ///
    /// # Errors
    /// Without root.
    pub(super) fn open(lab: &Lab, host: &str) -> Result<Self> {
        Self::between(lab, host, ("eth0", &Lab::interface(host)), true)
    }

    /// For floods: the client's second wire, where there is one. The ring of a
    /// wire that is full loses everybody's frames. Also the balancer's end.
    ///
    /// # Errors
    /// Without root.
    pub(super) fn for_floods(lab: &Lab) -> Result<(Self, String)> {
        let (client, balancer) = if uplink::is_there(lab) {
            (uplink::AT_CLIENT, uplink::AT_BALANCER.to_owned())
        } else {
            ("eth0", Lab::interface("client"))
        };
        let wire = Self::between(lab, "client", (client, &balancer), false)?;
        Ok((wire, balancer))
    }

    fn between(lab: &Lab, host: &str, ends: (&str, &str), hears: bool) -> Result<Self> {
        let own_mac = mac(lab, host, ends.0)?;
        let balancer_mac = mac(lab, "lb", ends.1)?;
        let socket = at(lab, host, || socket(ends.0, hears))?;
        let socket = socket.with_context(|| format!("a wire of {host}"))?;
        Ok(Self { socket, own_mac, balancer_mac })
    }

    /// Sends them all, as fast as the device takes them but for a breath when its
    /// ring is full, in which others find room; how many it has taken.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn send(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        let mut left = frames;
        let mut progress = Instant::now();
        while !left.is_empty() && progress.elapsed() < STUCK {
            let taken = self.send_batch(&left[..left.len().min(BATCH)])?;
            if taken == 0 {
                std::thread::sleep(BREATH);
            } else {
                left = &left[taken..];
                progress = Instant::now();
            }
        }
        Ok(frames.len() - left.len())
    }

    fn send_batch(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        // SAFETY: plain data; zeroes are empty messages.
        let (mut vectors, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { std::mem::zeroed() };
        for ((frame, vector), message) in frames.iter().zip(&mut vectors).zip(&mut messages) {
            let frame = frame.as_ref();
            vector.iov_base = frame.as_ptr().cast_mut().cast();
            vector.iov_len = frame.len();
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = frames.len().min(BATCH) as u32;
        // SAFETY: `count` messages that each have one frame, all alive.
        let sent =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        // The device had no room for the first of them.
        if error.raw_os_error() == Some(libc::ENOBUFS) { Ok(0) } else { Err(error) }
    }

    /// Gives each frame that comes to `each` until that says it is enough, or
    /// none came for so long. Whether it was enough.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn hear(
        &self,
        within: Duration,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<bool> {
        let begun = Instant::now();
        let mut buffer = [0; HEARD];
        loop {
            // SAFETY: room for so many bytes.
            let got = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    HEARD,
                    libc::MSG_DONTWAIT,
                )
            };
            if got > 0 {
                if each(&buffer[..got as usize]) {
                    return Ok(true);
                }
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
            if begun.elapsed() >= within {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Of an interface, as the kernel writes it.
fn mac(lab: &Lab, host: &str, interface: &str) -> Result<[u8; 6]> {
    let shown = lab.command(host, "ip", &["-j", "link", "show", "dev", interface])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let text = shown[0]["address"].as_str().context("an interface without an address")?;
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(mac)
}

/// In this thread's namespace.
fn socket(device: &str, hears: bool) -> Result<OwnedFd> {
    // A socket for no protocol hears nothing.
    let protocol = if hears { (libc::ETH_P_IP as u16).to_be() } else { 0 };
    // SAFETY: no pointers.
    let socket = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into())
    };
    if socket < 0 {
        return Err(io::Error::last_os_error()).context("a packet socket");
    }
    // SAFETY: a new descriptor, ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
    option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)?;
    // SAFETY: plain data; zeroes are a value of it.
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_protocol = protocol;
    place.sll_ifindex = crate::netns::ifindex(device)?.cast_signed();
    let size = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: an address of its own size.
    let failed = unsafe { libc::bind(socket.as_raw_fd(), (&raw const place).cast(), size) } != 0;
    if failed {
        return Err(io::Error::last_os_error()).with_context(|| format!("binding to {device}"));
    }
    Ok(socket)
}

fn option(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    // SAFETY: a number and its size.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as u32,
        )
    } != 0;
    if failed {
        return Err(io::Error::last_os_error()).context("setting up a packet socket");
    }
    Ok(())
}
