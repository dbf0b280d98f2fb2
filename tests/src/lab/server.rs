//! A small web server inside this process, for places where nginx is not.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{Lab, PORT, at};

/// Answers on a host, for both families, with the host's name.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// # Errors
    /// Where the port is taken.
    pub fn start(lab: &Lab, host: &str) -> Result<Self> {
        // The socket stays in the namespace it was made in.
        let listener = at(lab, host, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))?
            .with_context(|| format!("listening on {host}"))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, name) = (Arc::clone(&stop), host.to_owned());
        let thread = std::thread::spawn(move || serve(&listener, &name, &stopping));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Connections end with their clients.
fn serve(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let name = name.to_owned();
                // A client that goes away in the middle is the test's to judge.
                std::thread::spawn(move || answer(&stream, &name).ok());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(_) => return,
        }
    }
}

/// Requests without a body, until the client wants no more.
fn answer(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    let mut last = false;
    while let Some(line) = lines.next().transpose()? {
        last |= line.eq_ignore_ascii_case("connection: close");
        if !line.is_empty() {
            continue;
        }
        let len = name.len() + 1;
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{name}\n");
        let mut to = stream;
        to.write_all(text.as_bytes())?;
        if last {
            return Ok(());
        }
    }
    Ok(())
}
