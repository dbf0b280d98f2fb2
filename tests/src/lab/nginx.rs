//! Real servers.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Result;

use super::{Lab, PORT, Process, wait_for};

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers with its name.
    Good,
    /// Resets each connection instead of answering.
    Resetting,
    /// Resets so many percent of the connections, by chance.
    ResettingSome(u8),
    /// Answers with its name, fails by path, and keeps a log: the client's
    /// address and the status, a line each.
    FailingByPath,
}

/// An nginx on a host, answering with the host's name.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    config: PathBuf,
    host: String,
}

impl Nginx {
    /// Path of a large file, as fast as it goes.
    pub const BULK: &str = "/bulk";

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// Where nginx is missing or does not start.
    pub fn start(lab: &Lab, host: &str) -> Result<Self> {
        Self::start_as(lab, host, Behaviour::Good)
    }

    /// The same, behaving so from the beginning.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_as(lab: &Lab, host: &str, behaviour: Behaviour) -> Result<Self> {
        let directory = lab.directory.join(host);
        fs::create_dir_all(&directory)?;
        // For downloads: larger than a slow client takes in half a minute.
        let large = directory.join("large");
        if !large.exists() {
            fs::write(large, vec![b'x'; 45 << 20])?;
        }
        let config = directory.join("nginx.conf");
        fs::write(&config, text(&directory, host, behaviour))?;
        let mut command = lab.on(host, "nginx");
        let process = Process::start(command.arg("-c").arg(&config))?;
        let nginx = Self { process, config, host: host.to_owned() };
        wait_for("nginx to listen", Duration::from_secs(10), || {
            lab.command(host, "curl", &["-s", &format!("http://127.0.0.1:{PORT}/")]).is_ok()
        })?;
        Ok(nginx)
    }

    /// Changes how it answers; connections that exist go on.
    ///
    /// # Errors
    /// Where the configuration cannot be written.
    pub fn behave(&self, behaviour: Behaviour) -> Result<()> {
        let directory = self.config.parent().unwrap_or(&self.config);
        fs::write(&self.config, text(directory, &self.host, behaviour))?;
        let pid = i32::try_from(self.process.pid())?;
        // SAFETY: a signal to a child of ours.
        unsafe { libc::kill(pid, libc::SIGHUP) };
        Ok(())
    }

    /// What it says of itself at `/healthz`: all else stays as it is.
    ///
    /// # Errors
    /// Where its directory cannot be written to.
    pub fn be_sick(&self, sick: bool) -> Result<()> {
        let file = self.config.with_file_name("sick");
        let done = if sick { fs::write(file, "") } else { fs::remove_file(file) };
        Ok(done?)
    }

    /// Starts it again, after [`Nginx::stop`].
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn restart(&mut self, lab: &Lab) -> Result<()> {
        *self = Self::start(lab, &self.host)?;
        Ok(())
    }

    /// Has it hang, or go on: its kernel still takes connections.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn freeze(&self, hang: bool) -> Result<()> {
        let pid = self.process.pid();
        let workers = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for pid in workers.split_whitespace().map(str::parse).chain([Ok(pid.cast_signed())]) {
            let signal = if hang { libc::SIGSTOP } else { libc::SIGCONT };
            // SAFETY: a signal to a child of ours, or one of its own.
            unsafe { libc::kill(pid?, signal) };
        }
        Ok(())
    }

    /// Stops it; its port refuses connections then.
    pub fn stop(&mut self) {
        let pid = self.process.pid().cast_signed();
        // The master ends its workers on SIGTERM, but not when killed.
        // SAFETY: a signal to a child of ours.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        wait_for("nginx to end", Duration::from_secs(5), || !self.process.is_running()).ok();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

fn text(directory: &std::path::Path, host: &str, behaviour: Behaviour) -> String {
    let (directory, bulk) = (directory.display(), Nginx::BULK);
    let named = format!("return 200 \"{host}\\n\";");
    let (mut log, mut failing) = ("off".to_owned(), "");
    if behaviour == Behaviour::FailingByPath {
        log = format!("{directory}/access.log witness");
        failing = "location /missing { return 404; } location /broken { return 503; }
    location /moved { return 302 /; } location /reset { return 444; }";
    }
    let mut chance = String::new();
    let answer = match behaviour {
        Behaviour::Good | Behaviour::FailingByPath => named,
        // With `reset_timedout_connection` 444 ends in a RST.
        Behaviour::Resetting => "return 444;".to_owned(),
        Behaviour::ResettingSome(percent) => {
            // By the request's own random number, so that it is independent of
            // what the split was decided by.
            chance = format!("split_clients $request_id $bad {{ {percent}% 1; * 0; }}");
            format!("if ($bad) {{ return 444; }} {named}")
        }
    };
    format!(
        "daemon off; pid {directory}/pid; error_log {directory}/error.log; user root;
worker_processes 1; worker_shutdown_timeout 300s;
events {{ worker_connections 16384; }}
http {{
  log_format witness '$remote_addr $status'; access_log {log}; keepalive_timeout 3600s; keepalive_requests 1000000000;
  {chance}
  reset_timedout_connection on; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    client_max_body_size 64m; listen {PORT} backlog=8192; listen [::]:{PORT} backlog=8192;
    location / {{ {answer} }}
    location = /healthz {{ if (-f {directory}/sick) {{ return 503; }} return 200 \"well\\n\"; }}
    {failing}
    # Takes all of what is sent before it answers.
    location /up {{ proxy_pass http://127.0.0.1:{PORT}/; }}
    location /large {{ root {directory}; limit_rate 1500k; }}
    location {bulk} {{ alias {directory}/large; sendfile on; }}
  }}
}}
"
    )
}
