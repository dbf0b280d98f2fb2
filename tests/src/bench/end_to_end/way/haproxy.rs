//! HAProxy in TCP mode, as Debian has it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::SERVERS;
use crate::{
    lab::{Lab, Process, VIP_V4, address, wait_for},
    netns::ip,
};

/// The process, while this lives.
#[derive(Debug)]
pub(in crate::bench::end_to_end) struct Haproxy {
    process: Process,
    socket: PathBuf,
}

impl Haproxy {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// Where it does not come up.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let socket = lab.directory.join("haproxy.sock");
        let config = lab.directory.join("haproxy.cfg");
        fs::write(&config, text(&socket.display().to_string()))?;
        vip(lab, "add")?;
        let log = lab.directory.join("haproxy.log");
        let mut command = lab.on("lb", "haproxy");
        command.args(["-db", "-f"]).arg(&config).stderr(fs::File::create(&log)?);
        let proxy = Self { process: Process::start(&mut command)?, socket };
        let up = wait_for("HAProxy", Duration::from_secs(5), || proxy.sessions().is_ok());
        up.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(proxy)
    }

    /// Connections that it had a server take.
    ///
    /// # Errors
    /// Where it does not answer.
    pub(super) fn sessions(&self) -> Result<u64> {
        let mut stream = UnixStream::connect(&self.socket).context("asking HAProxy")?;
        stream.write_all(b"show stat\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        sessions_of(&text).context("HAProxy's figures have no backend")
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where the VIP stays on the balancer.
    pub(super) fn stop(self, lab: &Lab) -> Result<()> {
        drop(self.process);
        vip(lab, "del")
    }
}

/// It accepts connections itself, so the VIP is the balancer's own.
fn vip(lab: &Lab, verb: &str) -> Result<()> {
    let vip = format!("{}/32", address(VIP_V4).ip());
    ip(&["-n", &lab.namespace("lb"), "addr", verb, &vip, "dev", "lo"]).map(drop)
}

/// A thread for each CPU, which is its default.
fn text(socket: &str) -> String {
    let mut text = format!(
        "global\n  maxconn 4000\n  stats socket {socket}\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend web\n  bind {VIP_V4}\n  default_backend servers\n\
         backend servers\n  balance random\n"
    );
    for host in SERVERS {
        text.push_str(&format!("  server {host} {}\n", Lab::backend(host, false)));
    }
    text
}

/// The field `stot` of the backend's own line.
fn sessions_of(csv: &str) -> Option<u64> {
    let names = csv.lines().next()?.trim_start_matches("# ");
    let at = names.split(',').position(|name| name == "stot")?;
    let line = csv.lines().find(|line| line.starts_with("servers,BACKEND,"))?;
    line.split(',').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::sessions_of;

    #[test]
    fn sessions_are_the_backends() {
        let csv = "# pxname,svname,qcur,stot,bin\nweb,FRONTEND,,5,1\nservers,s1,0,3,1\n\
                   servers,BACKEND,0,4,1\n\n";
        assert_eq!(sessions_of(csv), Some(4));
        assert_eq!(sessions_of("# pxname,svname,stot\nweb,FRONTEND,5\n"), None);
    }
}
