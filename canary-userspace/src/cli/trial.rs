//! Commands of rollouts, steering and drills.

use std::{fs, io::BufReader, path::Path, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::{
    Failure,
    commands::{encode, print, print_json},
    complain, parse_split, show,
};
use crate::{
    api::{
        client::Client,
        types::{
            Drill, DrillReport, Explanation, Forecast, History, RolloutCommand, RolloutStatus,
            Steer, Steered,
        },
    },
    config, judge,
};

/// Networks sent at once.
const CHUNK: usize = 1000;
/// Between two looks at a drill.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Rollout {
    /// Begin to bring in the canary, by the configured steps
    Start {
        service: String,
        /// Who goes first follows from it; hosts with the same salt choose alike
        #[arg(long)]
        salt: Option<String>,
    },
    /// Stay at this split; harm is watched on
    Pause { service: String },
    /// Go on after a pause, or after what held it was looked at
    Resume { service: String },
    /// End this step now, whatever the evidence is worth so far
    Promote {
        service: String,
        /// All the way: the canary becomes stable
        #[arg(long)]
        full: bool,
    },
    /// Give the canary no more new connections, at once
    Abort { service: String },
    /// Try again what failed: a hook, or the whole rollout from its first step
    Retry { service: String },
    /// Back to the version that was stable before
    Undo { service: String },
}

impl Rollout {
    fn order(self) -> (String, RolloutCommand) {
        let plain = |command: &str| RolloutCommand {
            command: command.to_owned(),
            ..RolloutCommand::default()
        };
        match self {
            Self::Start { service, salt } => (service, RolloutCommand { salt, ..plain("start") }),
            Self::Pause { service } => (service, plain("pause")),
            Self::Resume { service } => (service, plain("resume")),
            Self::Promote { service, full } => {
                (service, RolloutCommand { full, ..plain("promote") })
            }
            Self::Abort { service } => (service, plain("abort")),
            Self::Retry { service } => (service, plain("retry")),
            Self::Undo { service } => (service, plain("undo")),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct SteerArguments {
    service: String,
    /// A network (192.0.2.0/24, 2001:db8::/32), an address, or @FILE with one
    /// a line; without it those that are steered are listed
    clients: Option<String>,
    /// Where its new connections go
    #[arg(requires = "clients")]
    track: Option<Track>,
    /// For so long only
    #[arg(long = "for", value_parser = humantime::parse_duration, requires = "track")]
    lasts: Option<Duration>,
    /// Also while the guard, or a rollback, keeps others from the canary
    #[arg(long, requires = "track")]
    always: bool,
    /// Of a list, so many at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Track {
    Stable,
    Canary,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    /// A RST in place of what the client sends
    Reset,
    /// The client's SYNs get lost
    Drop,
    /// A RST in answer to the SYN
    Refuse,
    /// The status of HTTP/1.x responses becomes a 5xx
    #[value(name = "5xx")]
    Http5xx,
}

#[derive(Debug, Args)]
pub(super) struct DrillArguments {
    service: String,
    #[arg(long, required_unless_present_any = ["stop", "report"])]
    fault: Option<Fault>,
    /// Of the canary's new connections
    #[arg(long, default_value = "10%")]
    share: String,
    #[arg(long = "for", default_value = "30s", value_parser = humantime::parse_duration)]
    lasts: Duration,
    /// Only these clients are hit: a network, or an address
    #[arg(long, conflicts_with = "all_clients")]
    clients: Option<String>,
    /// Any client may be hit
    #[arg(long)]
    all_clients: bool,
    /// Nothing fails: the controller's copy is told that it did
    #[arg(long)]
    dry: bool,
    /// End it before its time
    #[arg(long, conflicts_with_all = ["fault", "report"])]
    stop: bool,
    /// The report of the last one, without a new one
    #[arg(long, conflicts_with = "fault")]
    report: bool,
    #[arg(long)]
    json: bool,
}

fn path_of(service: &str, what: &str) -> String {
    format!("/v1/services/{}/{what}", encode(service))
}

pub(super) fn rollout(client: &Client, order: Rollout) -> Result<(), Failure> {
    let (service, order) = order.order();
    let status: RolloutStatus = client.order(&path_of(&service, "rollout"), &order)?;
    print(&format!("{service}: {}\n", show::rollout(&status)))
}

pub(super) fn explain(client: &Client, service: &str, json: bool) -> Result<(), Failure> {
    let explanation: Explanation = client.get(&path_of(service, "explain"))?;
    if json { print_json(&explanation) } else { print(&show::explanation(&explanation)) }
}

pub(super) fn history(
    client: &Client,
    service: &str,
    limit: usize,
    json: bool,
) -> Result<(), Failure> {
    let path = format!("{}?limit={limit}", path_of(service, "history"));
    let history: History = client.get(&path)?;
    if json { print_json(&history) } else { print(&show::history(&history)) }
}

pub(super) fn plan(client: &Client, service: &str, json: bool) -> Result<(), Failure> {
    let forecast: Forecast = client.get(&path_of(service, "plan"))?;
    if json { print_json(&forecast) } else { print(&(forecast.text.join("\n") + "\n")) }
}

/// The networks that an argument names.
fn networks(argument: &str) -> Result<Vec<String>, Failure> {
    let Some(path) = argument.strip_prefix('@') else { return Ok(vec![argument.to_owned()]) };
    let text = fs::read_to_string(Path::new(path))
        .map_err(|error| Failure::Usage(format!("reading {path}: {error}")))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines.filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

pub(super) fn steer(client: &Client, arguments: &SteerArguments) -> Result<(), Failure> {
    let SteerArguments { service, clients, track, lasts, always, limit, json } = arguments;
    let Some(clients) = clients else {
        let path = format!("{}?limit={limit}", path_of(service, "steer"));
        let steered: Steered = client.get(&path)?;
        return if *json { print_json(&steered) } else { print(&show::steered(&steered)) };
    };
    let Some(track) = track else {
        return Err(Failure::Usage(format!(
            "say where {clients} is to go: canary steer {service} {clients} canary (or stable)"
        )));
    };
    let track = match track {
        Track::Stable => "stable",
        Track::Canary => "canary",
    };
    let steer = Steer {
        clients: Vec::new(),
        track: Some(track.to_owned()),
        always: *always,
        lasts: lasts.map(|lasts| lasts.as_secs_f64()),
    };
    let answer = send(client, service, &networks(clients)?, &steer)?;
    if *json {
        return print_json(&answer);
    }
    print(&format!(
        "{service}: {} to {track}; {} steered\n",
        plural(answer.changed, "network goes", "networks go"),
        plural(answer.total, "network is", "networks are")
    ))
}

pub(super) fn unsteer(client: &Client, service: &str, clients: &str) -> Result<(), Failure> {
    let answer = send(client, service, &networks(clients)?, &Steer::default())?;
    print(&format!(
        "{service}: {} by the split again; {} steered\n",
        plural(answer.changed, "network goes", "networks go"),
        plural(answer.total, "network is", "networks are")
    ))
}

/// In parts, for a request is bounded. What was sent stays where a later part
/// is refused, and the error says so.
fn send(
    client: &Client,
    service: &str,
    networks: &[String],
    like: &Steer,
) -> Result<Steered, Failure> {
    let mut all = Steered::default();
    for part in networks.chunks(CHUNK) {
        let steer = Steer { clients: part.to_vec(), ..like.clone() };
        let answer: Steered = match client.put(&path_of(service, "steer"), &steer) {
            Ok(answer) => answer,
            Err(error) => {
                if all.changed > 0 {
                    complain(&format!("{} networks were changed before this", all.changed));
                }
                return Err(error.into());
            }
        };
        all = Steered { changed: all.changed + answer.changed, ..answer };
    }
    Ok(all)
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

pub(super) fn drill(client: &Client, arguments: &DrillArguments) -> Result<(), Failure> {
    let path = path_of(&arguments.service, "drill");
    let show = |report: &DrillReport| match arguments.json {
        true => print_json(report),
        false => print(&show::drill(report)),
    };
    if arguments.report {
        return show(&client.get(&path)?);
    }
    if arguments.stop {
        return show(&client.delete(&path)?);
    }
    let mut report: DrillReport = client.put(&path, &order(arguments)?)?;
    while !report.over {
        std::thread::sleep(POLL);
        report = client.get(&path)?;
    }
    show(&report)
}

fn order(arguments: &DrillArguments) -> Result<Drill, Failure> {
    if arguments.clients.is_none() && !arguments.all_clients && !arguments.dry {
        return Err(Failure::Usage(
            "say who may be hit: --clients 192.0.2.0/24, or --all-clients".to_owned(),
        ));
    }
    let fault = match arguments.fault {
        Some(Fault::Reset) => "reset",
        Some(Fault::Drop) => "drop",
        Some(Fault::Refuse) => "refuse",
        Some(Fault::Http5xx) => "5xx",
        None => return Err(Failure::Usage("say what is to fail: --fault reset".to_owned())),
    };
    Ok(Drill {
        fault: fault.to_owned(),
        share: parse_split(&arguments.share).map_err(Failure::Usage)?.fraction(),
        lasts: arguments.lasts.as_secs_f64(),
        clients: arguments.clients.clone(),
        dry: arguments.dry,
    })
}

/// Judges a file of looks; the rules are a service's, or the defaults.
pub(super) fn replay(file: &Path, rules: Option<(&Path, &str)>, json: bool) -> Result<(), Failure> {
    let rules = match rules {
        None => config::Evidence::default(),
        Some((path, name)) => {
            let config = config::load(path)?;
            let service = config.services.iter().find(|service| service.name == name);
            let service = service.ok_or_else(|| {
                Failure::Usage(format!("{} has no service {name:?}", path.display()))
            })?;
            service.evidence
        }
    };
    let what = || format!("{}", file.display());
    let records = fs::File::open(file).with_context(what)?;
    let replay = judge::replay(BufReader::new(records), &rules).with_context(what)?;
    if json { print_json(&replay) } else { print(&(replay.lines().join("\n") + "\n")) }
}
