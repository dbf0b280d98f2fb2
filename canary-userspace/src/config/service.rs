//! The services of a configuration file, each read by itself.

use std::{net::SocketAddr, ops::Range};

use canary_common::DEFAULT_TABLE_SIZE;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Affinity, Backend, Evidence, Health, MAX_BACKEND_WEIGHT, Protocol, Rollback, Service, Steer,
    Timeouts,
    address::Role,
    field::{Field, field},
    keys::{self, check_unknown},
    mistakes::Problems,
    read::{read_rollback, read_signals, read_timeouts},
    read_evidence::{Seen, read_evidence},
    read_health::read_health,
    read_rollout::{DraftRollout, read_rollout},
    read_steer::read_steer,
};

const MAX_NAME: usize = 63;
pub(super) const NAME_HELP: &str =
    "write letters a to z, digits, - and _ only, beginning with a letter or digit, 63 at most";
const MAX_SEED: usize = 255;

#[derive(Debug)]
pub(super) struct DraftService {
    pub(super) name: Spanned<String>,
    pub(super) listen: Option<Spanned<SocketAddr>>,
    /// `None` where it is written wrong; checks that need it are left out then.
    pub(super) protocol: Option<Protocol>,
    pub(super) stable: DraftTrack,
    pub(super) canary: DraftTrack,
    pub(super) weight: Option<Spanned<f64>>,
    pub(super) affinity: Affinity,
    pub(super) seed: Option<String>,
    pub(super) table_size: Option<Spanned<u32>>,
    pub(super) timeouts: Timeouts,
    pub(super) rollback: Rollback,
    pub(super) rollout: Option<DraftRollout>,
    pub(super) evidence: Evidence,
    pub(super) health: [Health; 2],
    pub(super) steer: Vec<Steer>,
    pub(super) signals: u16,
}

/// What the top of the file says for all services that say nothing else.
#[derive(Debug)]
pub(super) struct ForAll {
    pub(super) timeouts: Timeouts,
    pub(super) rollback: Rollback,
    pub(super) evidence: Evidence,
    pub(super) health: Health,
    pub(super) signals: u16,
}

#[derive(Debug, Default)]
pub(super) struct DraftTrack {
    /// Where its list stands, if there is one.
    pub(super) at: Option<Range<usize>>,
    pub(super) backends: Vec<Spanned<Backend>>,
    /// Some elements could not be read.
    pub(super) incomplete: bool,
}

/// In the order of the file.
pub(super) fn read_services(
    top: &DeTable<'_>,
    for_all: &ForAll,
    problems: &mut Problems<'_>,
) -> Vec<DraftService> {
    let example = "write a table [service.web] with `listen` and `stable`";
    let Some(services) = field(top, "service") else {
        problems.add_missing("no service is configured", example);
        return Vec::new();
    };
    let DeValue::Table(table) = services.value else {
        services.wrong_type(problems, "a table of services", example.to_owned());
        return Vec::new();
    };
    if table.is_empty() {
        problems.add(services.at, "no service is configured", example);
    }
    let mut drafts = Vec::new();
    for (name, value) in table {
        let name = Spanned::new(name.span(), name.get_ref().to_string());
        check_name(&name, problems);
        let DeValue::Table(service) = value.get_ref() else {
            let key = name.get_ref();
            if keys::SERVICE.keys.contains(&key.as_str()) {
                let message = format!("`{key}` stands in [service], which has no name");
                problems.add(
                    name.span(),
                    message,
                    "write [service.NAME], for example [service.web]",
                );
            } else {
                let field = Field { key, value: value.get_ref(), at: name.span() };
                field.wrong_type(problems, "a service", format!("write [service.{key}]"));
            }
            continue;
        };
        drafts.push(read_service(name, service, for_all, problems));
    }
    drafts.sort_by_key(|service| service.name.span().start);
    drafts
}

fn check_name(name: &Spanned<String>, problems: &mut Problems<'_>) {
    let text = name.get_ref();
    if !is_name(text) {
        problems.add(name.span(), format!("\"{text}\" cannot be a service's name"), NAME_HELP);
    }
}

/// What can stand in a metric's label, a path and a command line as it is.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && text.len() <= MAX_NAME
}

fn read_service(
    name: Spanned<String>,
    table: &DeTable<'_>,
    for_all: &ForAll,
    problems: &mut Problems<'_>,
) -> DraftService {
    check_unknown(table, &keys::SERVICE, problems);
    let mut protocol = Some(Protocol::Tcp);
    if let Some(field) = field(table, "protocol") {
        let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
        protocol = field.choice(problems, &protocols);
    }
    if let Some(field) = field(table, "forward") {
        let _only: Option<()> = field.choice(problems, &[("nat", ())]);
    }
    let affinities = [("flow", Affinity::Flow), ("client", Affinity::Client)];
    let stable = read_track(table, "stable", problems);
    let signals = read_signals(table, for_all.signals, problems);
    let listen = read_listen(&name, table, problems);
    DraftService {
        steer: read_steer(table, listen.as_ref(), problems),
        listen,
        protocol,
        rollout: read_rollout(table, &stable, problems),
        stable,
        canary: read_track(table, "canary", problems),
        weight: field(table, "weight")
            .and_then(|field| Some(Spanned::new(field.at.clone(), field.share(problems)?))),
        affinity: field(table, "affinity")
            .and_then(|field| field.choice(problems, &affinities))
            .unwrap_or_default(),
        seed: field(table, "seed").and_then(|field| read_seed(&field, problems)),
        table_size: field(table, "table_size").and_then(|field| {
            let size = field.whole(problems, 0..=u32::MAX, DEFAULT_TABLE_SIZE)?;
            Some(Spanned::new(field.at, size))
        }),
        timeouts: read_timeouts(table, for_all.timeouts, problems),
        rollback: read_rollback(table, for_all.rollback, problems),
        evidence: read_evidence(table, for_all.evidence, Seen { signals, protocol }, problems),
        health: read_health(table, &for_all.health, protocol, problems),
        signals,
        name,
    }
}

fn read_listen(
    name: &Spanned<String>,
    table: &DeTable<'_>,
    problems: &mut Problems<'_>,
) -> Option<Spanned<SocketAddr>> {
    let Some(field) = field(table, "listen") else {
        problems.add(
            name.span(),
            format!("service `{}` has no `listen`", name.get_ref()),
            "write the address and port that clients connect to: listen = \"203.0.113.10:80\"",
        );
        return None;
    };
    let address = field.address(problems, Role::Listen)?;
    Some(Spanned::new(field.at, address))
}

fn read_seed(field: &Field<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let seed = field.string(problems, "web")?;
    if seed.is_empty() || seed.len() > MAX_SEED {
        problems.add(
            field.at.clone(),
            format!("`seed` is {} bytes long", seed.len()),
            format!("write 1 to {MAX_SEED} bytes, or leave it out for the service's name"),
        );
    }
    Some(seed.to_owned())
}

fn read_track(table: &DeTable<'_>, key: &str, problems: &mut Problems<'_>) -> DraftTrack {
    let Some(field) = field(table, key) else { return DraftTrack::default() };
    let example = format!("\"{}\"", Role::Backend.example());
    let mut track = DraftTrack { at: Some(field.at.clone()), ..DraftTrack::default() };
    let Some(elements) = field.list(problems, &example) else {
        track.incomplete = true;
        return track;
    };
    for element in elements {
        let backend = read_backend(key, element, problems);
        track.incomplete |= backend.is_none();
        track.backends.extend(backend);
    }
    track
}

/// `"ADDRESS:PORT"`, or a table with `address` and `weight`. The place is the
/// address's.
fn read_backend(
    key: &str,
    element: &Spanned<DeValue<'_>>,
    problems: &mut Problems<'_>,
) -> Option<Spanned<Backend>> {
    let whole = Field { key, value: element.get_ref(), at: element.span() };
    let table = match whole.value {
        DeValue::String(_) => {
            let address = whole.address(problems, Role::Backend)?;
            return Some(Spanned::new(whole.at, Backend { address, weight: 1 }));
        }
        DeValue::Table(table) => table,
        _ => {
            let help = "write each as \"10.0.0.11:8080\" or \
                        { address = \"10.0.0.11:8080\", weight = 1 }";
            whole.wrong_type(problems, "a backend", help.to_owned());
            return None;
        }
    };
    check_unknown(table, &keys::BACKEND, problems);
    let weight = field(table, "weight")
        .map_or(Some(1), |field| field.whole(problems, 0..=MAX_BACKEND_WEIGHT, 1));
    let Some(address) = field(table, "address") else {
        let help = "write { address = \"10.0.0.11:8080\", weight = 1 }";
        problems.add(whole.at, "a backend without `address`", help);
        return None;
    };
    let backend = Backend { address: address.address(problems, Role::Backend)?, weight: weight? };
    Some(Spanned::new(address.at, backend))
}

impl DraftService {
    /// `None` if the listener's address or the protocol could not be read.
    pub(super) fn finish(self) -> Option<Service> {
        let backends =
            |track: DraftTrack| track.backends.into_iter().map(Spanned::into_inner).collect();
        Some(Service {
            listen: self.listen?.into_inner(),
            protocol: self.protocol?,
            stable: backends(self.stable),
            canary: backends(self.canary),
            weight: self.weight.map_or(0.0, Spanned::into_inner),
            affinity: self.affinity,
            seed: self.seed.unwrap_or_else(|| self.name.get_ref().clone()),
            table_size: self.table_size.map_or(DEFAULT_TABLE_SIZE, Spanned::into_inner),
            timeouts: self.timeouts,
            rollback: self.rollback,
            rollout: self.rollout.map(|draft| draft.finish(&self.evidence)),
            evidence: self.evidence,
            health: self.health,
            steer: self.steer,
            signals: self.signals,
            name: self.name.into_inner(),
        })
    }
}
