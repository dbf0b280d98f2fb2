//! The daemon's interface: HTTP and JSON over a Unix socket, and the metrics
//! over TCP, which only reads.

pub mod client;
pub mod request;
pub mod server;
#[cfg(test)]
mod tests;
pub mod types;

/// A client's address with or without port: `192.0.2.1`, `192.0.2.1:4711`,
/// `2001:db8::1`, `[2001:db8::1]:4711`.
///
/// # Errors
/// What to write instead.
pub fn parse_client(text: &str) -> Result<(std::net::IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Ok((address.ip(), Some(address.port())));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|ip| (ip, None)).map_err(|_| {
        format!("{text:?} is no client; write an address, or an address and port, as 192.0.2.1:4711 or [2001:db8::1]:4711")
    })
}
