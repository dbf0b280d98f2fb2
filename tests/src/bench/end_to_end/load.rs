//! As many requests as go, by wrk.

use std::{fmt::Write as _, fs, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;

/// wrk's threads, each with a target of its own where there are two.
const THREADS: usize = 2;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Requests, one after the other.
    KeepAlive,
    /// One request, which asks for the connection's end.
    NewConnections,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Done {
    pub(super) requests: u64,
    seconds: f64,
}

impl Done {
    pub(super) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// `clients` at a time, for whole `seconds`.
///
/// # Errors
/// Where a connection or a request fails.
pub(super) fn run(
    lab: &Lab,
    to: &[SocketAddr],
    kind: Kind,
    clients: usize,
    seconds: u64,
) -> Result<Done> {
    let file = lab.directory.join("wrk.lua");
    fs::write(&file, script(to)?).context("writing wrk's script")?;
    let (threads, clients) = (THREADS.to_string(), clients.to_string());
    let (duration, url) = (format!("{seconds}s"), format!("http://{}/", to[0]));
    let script = file.display().to_string();
    let mut arguments = vec!["-t", &threads, "-c", &clients, "-d", &duration, "-s", &script];
    if kind == Kind::NewConnections {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(&url);
    parse(&lab.command("client", "wrk", &arguments)?)
}

/// Gives each thread its target, and says at the end what wrk knows, exactly.
fn script(to: &[SocketAddr]) -> Result<String> {
    let mut text = "local targets = {".to_owned();
    for target in to {
        write!(text, "{{\"{}\", \"{}\"}}, ", target.ip(), target.port())?;
    }
    text.push_str(
        "}
local given = 0
function setup(thread)
  local target = targets[given % #targets + 1]
  given = given + 1
  thread.addr = wrk.lookup(target[1], target[2])[1]
end
function done(summary)
  local e = summary.errors
  io.write(string.format(\"done %d %d failed %d %d %d %d %d\\n\", summary.requests,
    summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
end
",
    );
    Ok(text)
}

fn parse(output: &str) -> Result<Done> {
    let line = output.lines().find_map(|line| line.strip_prefix("done "));
    let (done, failed) =
        line.and_then(|line| line.split_once(" failed ")).context("wrk did not end its script")?;
    ensure!(
        failed.split(' ').all(|count| count == "0"),
        "failed (connect, read, write, status, timeout): {failed}"
    );
    let (requests, micros) = done.split_once(' ').context("wrk's script said less")?;
    let requests = requests.parse()?;
    ensure!(requests > 0, "no request was answered");
    Ok(Done { requests, seconds: micros.parse::<f64>()? / 1e6 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn any_failure_is_one() {
        let done = parse("Running 1s test\ndone 5000 2000000 failed 0 0 0 0 0\n").unwrap();
        assert_eq!(done.per_second(), 2500.0);
        for failed in ["1 0 0 0 0", "0 0 0 7 0", "0 0 0 0 3"] {
            assert!(parse(&format!("done 5000 2000000 failed {failed}\n")).is_err());
        }
        assert!(parse("done 0 2000000 failed 0 0 0 0 0\n").is_err());
        assert!(parse("unable to connect to 10.0.0.1:80\n").is_err());
    }
}
