//! What each command does.

use std::{
    io::{IsTerminal as _, Write as _, stdout},
    num::NonZeroU32,
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Failure, complain, parse_split, show};
use crate::{
    api::{
        client::Client,
        parse_client,
        types::{
            DrainStatus, Flows, FollowedFlow, Reloaded, SetDrain, SetWeight, Status, Weight, Where,
        },
    },
    config::{self, LoadError},
    dataplane, names,
};

/// Between two looks at a drain.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// Between two looks of `status --watch`, at least.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Where there is no terminal to draw on, a line this often.
pub(super) const PLAIN_PROGRESS: Duration = Duration::from_secs(5);
/// Clears the screen and goes home.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Which flows to show.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) track: Option<String>,
    pub(super) backend: Option<String>,
}

impl Filter {
    /// As the query's end.
    fn query(&self) -> String {
        let parts = [("track", &self.track), ("backend", &self.backend)];
        let given = parts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.map(|(name, value)| format!("&{name}={}", encode(value))).collect()
    }
}

pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    print(&format!("{text}\n"))
}

/// A part of a path or query, percent-encoded (RFC 3986, 2.1).
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

pub(super) fn prepare(bpffs: &Path, user: &str) -> Result<(), Failure> {
    let ids = names::user_ids(user)?;
    let (uid, gid) = ids.ok_or_else(|| {
        Failure::Usage(format!("this host has no user {user:?}; make it with `useradd -r {user}`"))
    })?;
    Ok(dataplane::give(bpffs, uid, gid).map_err(anyhow::Error::from)?)
}

pub(super) fn check(file: &Path, json: bool) -> Result<(), Failure> {
    let checked = config::load(file);
    if json {
        return match checked {
            Ok(_) => print_json(&serde_json::json!({ "mistakes": [] })),
            Err(LoadError::Mistakes(mistakes)) => {
                print_json(&mistakes)?;
                Err(LoadError::Mistakes(mistakes).into())
            }
            Err(other) => Err(other.into()),
        };
    }
    let config = checked?;
    let services = config.services.len();
    let plural = if services == 1 { "" } else { "s" };
    print(&format!("{}: fine ({services} service{plural})\n", file.display()))
}

pub(super) fn status(
    client: &Client,
    service: Option<&str>,
    watch: Option<Duration>,
    json: bool,
) -> Result<(), Failure> {
    let path = match service {
        Some(service) => format!("/v1/status?service={}", encode(service)),
        None => "/v1/status".to_owned(),
    };
    loop {
        let status: Status = client.get(&path)?;
        if json {
            return print_json(&status);
        }
        let text = show::status(&status, show::colours());
        let Some(interval) = watch else { return print(&text) };
        let clear = if stdout().is_terminal() { CLEAR } else { "" };
        print(&format!("{clear}{text}"))?;
        std::thread::sleep(interval.max(SHORTEST_INTERVAL));
    }
}

pub(super) fn weight(
    client: &Client,
    service: &str,
    percent: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let path = format!("/v1/services/{}/weight", encode(service));
    let answer: Weight = match percent {
        None => client.get(&path)?,
        Some(percent) => {
            let split = parse_split(percent).map_err(Failure::Usage)?.fraction();
            client.put(&path, &SetWeight { split })?
        }
    };
    if json {
        return print_json(&answer);
    }
    print(&format!("{}: canary {}\n", answer.service, show::percent(answer.split)))
}

pub(super) fn drain(
    client: &Client,
    service: &str,
    target: &str,
    wait: Option<Duration>,
    undo: bool,
) -> Result<(), Failure> {
    let path = format!("/v1/services/{}/drain", encode(service));
    let body = SetDrain { target: target.to_owned(), drain: !undo };
    let started: DrainStatus = client.put(&path, &body)?;
    if undo {
        return print(&format!("{service}: {target} takes new connections again\n"));
    }
    let Some(timeout) = wait else {
        return print(&format!(
            "{service}: {target} takes no new connections; {} left\n",
            started.active
        ));
    };
    let path = format!("{path}?target={}", encode(target));
    wait_for_drain(client, &path, started, timeout)?;
    print(&format!("{service}: {target} is drained\n"))
}

fn wait_for_drain(
    client: &Client,
    path: &str,
    mut status: DrainStatus,
    timeout: Duration,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut most = status.active;
    let bar = ProgressBar::new(most);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} ended ({elapsed})");
    bar.set_style(style.map_err(anyhow::Error::from)?);
    bar.set_message(format!("draining {}", status.target));
    let mut said = begun;
    while status.active > 0 {
        if begun.elapsed() >= timeout {
            bar.abandon();
            return Err(Failure::TimedOut(format!(
                "{} connections are left on {} after {}; they go on, and so does the drain",
                status.active,
                status.target,
                humantime::format_duration(timeout)
            )));
        }
        most = most.max(status.active);
        bar.set_length(most);
        bar.set_position(most - status.active);
        if bar.is_hidden() && said.elapsed() >= PLAIN_PROGRESS {
            complain(&format!("draining {}: {} left", status.target, status.active));
            said = Instant::now();
        }
        std::thread::sleep(POLL.min(timeout));
        status = client.get(path)?;
    }
    bar.finish_and_clear();
    Ok(())
}

pub(super) fn where_to(
    client: &Client,
    service: &str,
    who: &str,
    json: bool,
) -> Result<(), Failure> {
    parse_client(who).map_err(Failure::Usage)?;
    let path = format!("/v1/services/{}/where?client={}", encode(service), encode(who));
    let answer: Where = client.get(&path)?;
    if json {
        return print_json(&answer);
    }
    let nowhere = || "nowhere".to_owned();
    print(&format!(
        "{} → {} ({})\n  {}\n",
        answer.client,
        answer.backend.clone().unwrap_or_else(nowhere),
        answer.track.clone().unwrap_or_else(nowhere),
        answer.why
    ))
}

pub(super) fn flows(
    client: &Client,
    service: &str,
    filter: &Filter,
    limit: usize,
    json: bool,
) -> Result<(), Failure> {
    let (service, filter) = (encode(service), filter.query());
    let flows: Flows =
        client.get(&format!("/v1/services/{service}/flows?limit={limit}{filter}"))?;
    if json { print_json(&flows) } else { print(&show::flows(&flows)) }
}

/// Events, a line each.
pub(super) fn follow(
    client: &Client,
    service: &str,
    filter: &Filter,
    one_in: NonZeroU32,
    json: bool,
) -> Result<(), Failure> {
    let (service, filter) = (encode(service), filter.query());
    let path = format!("/v1/services/{service}/flows/follow?one_in={one_in}{filter}");
    client.follow(&path, |event: FollowedFlow| match json {
        true => {
            let line = serde_json::to_string(&event).map_err(anyhow::Error::from)?;
            print(&format!("{line}\n"))
        }
        false => print(&show::followed(&event)),
    })
}

pub(super) fn reload(client: &Client) -> Result<(), Failure> {
    let reloaded: Reloaded = client.post("/v1/reload")?;
    if reloaded.changes.is_empty() {
        return print("reloaded: nothing changed\n");
    }
    print(&format!("reloaded:\n  {}\n", reloaded.changes.join("\n  ")))
}
