//! The command line.

mod commands;
mod leave;
mod manuals;
mod percent;
mod show;
mod trial;

use std::{io::Write as _, num::NonZeroU32, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};

pub use percent::parse_split;

use crate::{
    api::client::{Client, ClientError},
    config, logging,
};

const DEFAULT_CONFIG: &str = "/etc/canary/canary.toml";
const DEFAULT_SOCKET: &str = "/run/canary/canary.sock";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/canary";

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 refused or failed, 2 wrong usage, \
3 the configuration has mistakes, 4 no daemon answers, 5 timed out.";

/// Splits new connections between a stable and a canary version, in XDP.
#[derive(Debug, Parser)]
#[command(name = "canary", version, after_help = EXIT_CODES)]
struct Cli {
    /// The daemon's socket
    #[arg(long, global = true, env = "CANARY_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run {
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// error, warn, info, debug, trace or off, or TARGET=LEVEL for a part of
        /// it; several by commas; goes before RUST_LOG
        #[arg(long, value_parser = logging::check_levels)]
        log_level: Option<String>,
    },
    /// Make the directory of pins and give it to the user that the daemon is to
    /// run as; by root, before it starts
    Prepare {
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        #[arg(long)]
        user: String,
    },
    /// Name every mistake of a configuration file
    Check {
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// What runs where, and how it fares
    Status {
        service: Option<String>,
        /// Show it again and again until interrupted
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// Time between two looks of --watch
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        interval: Duration,
        #[arg(long)]
        json: bool,
    },
    /// Show or set the canary's share of new connections
    Weight {
        service: String,
        /// "5%", "0.1%", or 5 for 5 %
        percent: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Bring the canary in by steps, decided by evidence
    #[command(subcommand)]
    Rollout(trial::Rollout),
    /// Why the rollout holds, went on or went back, with the numbers
    Explain {
        service: String,
        #[arg(long)]
        json: bool,
    },
    /// Every transition of the service's rollouts, with its evidence
    History {
        service: String,
        /// The latest so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[arg(long)]
        json: bool,
    },
    /// How long a rollout would take, and how fast it would find failures
    Plan {
        service: String,
        #[arg(long)]
        json: bool,
    },
    /// Judge recorded counters: what would have been decided, and when
    Replay {
        /// As the daemon writes them, STATE_DIR/looks/SERVICE.jsonl
        file: PathBuf,
        /// A configuration whose service's [evidence] holds instead of the defaults
        #[arg(long, requires = "service")]
        config: Option<PathBuf>,
        /// Its service
        #[arg(long, requires = "config")]
        service: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Say which clients go first, or never
    Steer(trial::SteerArguments),
    /// Let clients go by the split again
    Unsteer {
        service: String,
        /// A network, an address, or @FILE with one a line
        clients: String,
    },
    /// Rehearse: make the canary fail, and see that it is found out
    Drill(trial::DrillArguments),
    /// No new connections to a backend or track; those that exist finish
    Drain {
        service: String,
        /// stable, canary, or a backend's address and port
        target: String,
        /// Wait until no connection is left
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this time
        #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
        timeout: Duration,
        /// Take it back into use
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
    },
    /// Which track and backend this client gets, and why
    Where {
        service: String,
        /// ADDRESS or ADDRESS:PORT
        client: String,
        #[arg(long)]
        json: bool,
    },
    /// Live flows
    Flows {
        service: String,
        /// stable or canary
        #[arg(long)]
        track: Option<String>,
        /// A backend's address and port
        #[arg(long)]
        backend: Option<String>,
        #[arg(long, default_value_t = 50, conflicts_with = "follow")]
        limit: usize,
        /// Show flows as they begin and end, until interrupted
        #[arg(long)]
        follow: bool,
        /// Of one flow in so many
        #[arg(long, default_value_t = NonZeroU32::MIN, requires = "follow")]
        one_in: NonZeroU32,
        #[arg(long)]
        json: bool,
    },
    /// Read the configuration again: all of it is taken, or nothing
    Reload,
    /// Take the program off all interfaces and remove its maps: live
    /// connections through this host are cut, or waited for with --drain
    Detach {
        /// Where the maps are pinned, for when no daemon runs
        #[arg(long, default_value = DEFAULT_BPFFS)]
        bpffs: PathBuf,
        /// Take both, socket and bpffs, from this configuration
        #[arg(long, conflicts_with = "bpffs")]
        config: Option<PathBuf>,
        /// First pass new connections to the kernel, and wait until those that
        /// there are have ended; Ctrl-C takes it back
        #[arg(long)]
        drain: bool,
        /// Detach after this time, whatever is left then
        #[arg(long, default_value = "5m", requires = "drain", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
    /// Write a manual page for each command into a directory
    #[command(hide = true)]
    Manuals { directory: PathBuf },
}

/// How a command failed; each has its exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Config(#[from] config::LoadError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    TimedOut(String),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
    /// Whoever read the output has seen enough.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Client(ClientError::NoDaemon(_)) => 4,
            Self::Client(_) | Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::Config(_) => 3,
            Self::TimedOut(_) => 5,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Other(error.into()),
        }
    }
}

/// A line for whoever watches stderr. `eprintln!` would panic where nobody does
/// any more, and the exit code would be lost.
fn complain(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// Runs what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                complain(&format!("canary: {failure}"));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let client = Client::new(&cli.socket);
    match cli.command {
        Command::Run { config, log_level } => {
            match crate::daemon::run(&config, log_level.as_deref()) {
                Ok(()) => Ok(()),
                Err(error) => Err(match error.downcast::<config::LoadError>() {
                    Ok(mistakes) => mistakes.into(),
                    Err(error) => error.into(),
                }),
            }
        }
        Command::Prepare { config, user } => {
            // Interfaces may be gone.
            let config = config::load_to_run(&config)?;
            commands::prepare(&config.bpffs, &user)
        }
        Command::Check { file, json } => commands::check(&file, json),
        Command::Status { service, watch, interval, json } => {
            commands::status(&client, service.as_deref(), watch.then_some(interval), json)
        }
        Command::Weight { service, percent, json } => {
            commands::weight(&client, &service, percent.as_deref(), json)
        }
        Command::Rollout(order) => trial::rollout(&client, order),
        Command::Explain { service, json } => trial::explain(&client, &service, json),
        Command::History { service, limit, json } => trial::history(&client, &service, limit, json),
        Command::Plan { service, json } => trial::plan(&client, &service, json),
        Command::Replay { file, config, service, json } => {
            trial::replay(&file, config.as_deref().zip(service.as_deref()), json)
        }
        Command::Steer(arguments) => trial::steer(&client, &arguments),
        Command::Unsteer { service, clients } => trial::unsteer(&client, &service, &clients),
        Command::Drill(arguments) => trial::drill(&client, &arguments),
        Command::Drain { service, target, wait, timeout, undo } => {
            let wait = wait.then_some(timeout);
            commands::drain(&client, &service, &target, wait, undo)
        }
        Command::Where { service, client: who, json } => {
            commands::where_to(&client, &service, &who, json)
        }
        Command::Flows { service, track, backend, limit, follow, one_in, json } => {
            let filter = commands::Filter { track, backend };
            match follow {
                true => commands::follow(&client, &service, &filter, one_in, json),
                false => commands::flows(&client, &service, &filter, limit, json),
            }
        }
        Command::Reload => commands::reload(&client),
        Command::Detach { bpffs, config, drain, timeout } => {
            let drain = drain.then_some(timeout);
            match config {
                None => leave::detach(&client, &bpffs, drain),
                Some(file) => {
                    // Interfaces may be gone.
                    let config = config::load_to_run(&file)?;
                    leave::detach(&Client::new(&config.socket), &config.bpffs, drain)
                }
            }
        }
        Command::Manuals { directory } => Ok(manuals::write(Cli::command(), &directory)?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "canary", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn completions_name_every_command() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "canary", &mut script);
            let script = String::from_utf8(script).expect("a script is text");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{}", command.get_name());
            }
        }
    }
}
