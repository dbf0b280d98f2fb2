//! One connection that carries as much as it can.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Lab, Nginx, at};

/// Reads of the client.
const BUFFER: usize = 1 << 18;
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the time, before it counts: the window opens.
const RUN_UP: u32 = 5;

/// Gigabits a second of what the client's program reads from a server.
///
/// # Errors
/// Where the connection fails.
pub(super) fn run(lab: &Lab, to: SocketAddr, time: Duration) -> Result<f64> {
    at(lab, "client", || read_for(to, time))?.context("the long download")
}

fn read_for(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // One after the other, more of them than fit into the time.
    let request = format!("GET {} HTTP/1.1\r\nHost: lab\r\n\r\n", Nginx::BULK);
    stream.write_all(request.repeat(1000).as_bytes())?;
    let mut buffer = vec![0; BUFFER];
    let first = stream.read(&mut buffer)?;
    ensure!(buffer[..first].starts_with(b"HTTP/1.1 200 "), "the server has no {}", Nginx::BULK);
    read_until(&mut stream, &mut buffer, Instant::now() + time / RUN_UP)?;
    let begun = Instant::now();
    let bytes = read_until(&mut stream, &mut buffer, begun + time)?;
    Ok(bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9)
}

fn read_until(stream: &mut TcpStream, buffer: &mut [u8], end: Instant) -> Result<u64> {
    let mut bytes = 0;
    while Instant::now() < end {
        let read = stream.read(buffer)?;
        ensure!(read > 0, "the server ended it");
        bytes += read as u64;
    }
    Ok(bytes)
}
