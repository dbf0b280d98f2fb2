//! Rules between values: of one service, and between services.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
};

use canary_common::{DEFAULT_TABLE_SIZE, MAX_SERVICES, MAX_SHARING, MAX_TABLE_SIZE, Split};
use toml::Spanned;

use super::{
    Backend, MAX_CONFIGURED_BACKENDS, MIN_TABLE_SIZE, Protocol,
    mistakes::Problems,
    read::Draft,
    service::{DraftService, DraftTrack},
    suggest::{is_prime, prime_near},
};

/// Slots for each backend that keep the shares inside a track within about a
/// percent (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
const SLOTS_PER_BACKEND: u32 = 100;

pub(super) fn check(draft: &Draft, problems: &mut Problems<'_>) {
    for service in &draft.services {
        check_tracks(service, problems);
        check_families(service, problems);
        check_weight(service, problems);
        check_rollout(service, problems);
        check_table_size(service, problems);
        check_duplicates(service, problems);
    }
    check_limits(&draft.services, problems);
    let listeners = check_listeners(draft, problems);
    check_shared_backends(&draft.services, &listeners, problems);
}

impl DraftTrack {
    /// Backends that take new flows.
    fn usable(&self) -> usize {
        self.backends.iter().filter(|backend| backend.get_ref().weight > 0).count()
    }
}

impl DraftService {
    fn backends(&self) -> impl Iterator<Item = &Spanned<Backend>> {
        self.stable.backends.iter().chain(&self.canary.backends)
    }
}

fn check_tracks(service: &DraftService, problems: &mut Problems<'_>) {
    let name = service.name.get_ref();
    let help = "write at least one: stable = [\"10.0.0.11:8080\"]";
    match &service.stable {
        DraftTrack { at: None, .. } => {
            problems.add(service.name.span(), format!("service `{name}` has no `stable`"), help);
        }
        DraftTrack { incomplete: true, .. } => {}
        DraftTrack { at: Some(at), backends, .. } if backends.is_empty() => {
            problems.add(at.clone(), "`stable` has no backends", help);
        }
        track @ DraftTrack { at: Some(at), .. } if track.usable() == 0 => problems.add(
            at.clone(),
            "every backend in `stable` has weight 0, so none takes connections",
            "write a weight of 1 or more for at least one of them",
        ),
        _ => {}
    }
}

fn check_families(service: &DraftService, problems: &mut Problems<'_>) {
    let Some(listen) = &service.listen else { return };
    let family = |address: &SocketAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let wanted = family(listen.get_ref());
    for backend in service.backends() {
        let address = backend.get_ref().address;
        if address.is_ipv4() != listen.get_ref().is_ipv4() {
            problems.add(
                backend.span(),
                format!("{address} is {}, but the service listens on {wanted}", family(&address)),
                format!(
                    "write the backend's {wanted} address, or make a service of its own with an \
                     {} listener",
                    family(&address)
                ),
            );
        }
    }
}

fn check_weight(service: &DraftService, problems: &mut Problems<'_>) {
    let Some(weight) = service.weight.as_ref().filter(|weight| *weight.get_ref() > 0.0) else {
        return;
    };
    if Split::from_fraction(*weight.get_ref()).is_none_or(|split| split == Split::NONE) {
        let message = "`weight` is smaller than one part in 2^32 and would come to nothing";
        problems.add(weight.span(), message, "write 0%, or 0.0000001% or more");
    }
    // A rollout lacks the same, and says so.
    if service.rollout.is_some() || service.canary.incomplete || service.canary.usable() > 0 {
        return;
    }
    let (lack, help) = if service.canary.backends.is_empty() {
        ("has no `canary` backends", "write canary = [\"10.0.0.21:8080\"], or weight = \"0%\"")
    } else {
        ("has only `canary` backends of weight 0", "give one a weight, or write weight = \"0%\"")
    };
    let message = format!("`weight` is above 0, but service `{}` {lack}", service.name.get_ref());
    problems.add(weight.span(), message, help);
}

fn check_rollout(service: &DraftService, problems: &mut Problems<'_>) {
    let Some(rollout) = &service.rollout else { return };
    if let Some(weight) = service.weight.as_ref().filter(|weight| *weight.get_ref() > 0.0) {
        let message = "`weight` is above 0 beside a `rollout`, which starts at 0";
        let help = "remove `weight`: `canary rollout start` begins with the first step";
        problems.add(weight.span(), message, help);
    }
    if !service.evidence.can_find_safe() {
        for at in &rollout.safe {
            problems.add(
                at.clone(),
                "no kind of failure is watched for this service, so nothing can be found safe",
                "write until = \"time\" and a `for`, or `watch` one of those that TCP services \
                 have",
            );
        }
    }
    if service.canary.incomplete || service.canary.usable() > 0 {
        return;
    }
    let (lack, help) = if service.canary.backends.is_empty() {
        ("has no `canary` backends", "write canary = [\"10.0.0.21:8080\"], the new version")
    } else {
        ("has only `canary` backends of weight 0", "give one a weight of 1 or more")
    };
    let message = format!("a rollout, but service `{}` {lack}", service.name.get_ref());
    problems.add(rollout.at.clone(), message, help);
}

fn check_table_size(service: &DraftService, problems: &mut Problems<'_>) {
    let most = service.stable.usable().max(service.canary.usable());
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    let enough = most.saturating_mul(SLOTS_PER_BACKEND).max(MIN_TABLE_SIZE);
    let Some(size) = &service.table_size else { return };
    let (slots, at) = (*size.get_ref(), size.span());
    let (said, from) = if slots > MAX_TABLE_SIZE {
        (format!("over the limit of {MAX_TABLE_SIZE}"), MAX_TABLE_SIZE)
    } else if slots < MIN_TABLE_SIZE {
        (format!("below the least of {MIN_TABLE_SIZE}"), enough)
    } else if slots < most {
        (format!("less than the {most} backends of a track"), enough)
    } else if !is_prime(slots) {
        ("not a prime".to_owned(), slots)
    } else {
        return;
    };
    let prime = prime_near(from, MAX_TABLE_SIZE);
    problems.add(
        at,
        format!("`table_size` is {slots}, {said}"),
        format!("write {prime}, or leave it out for {DEFAULT_TABLE_SIZE}"),
    );
}

/// The same address twice in a service would make its share and its counters
/// ambiguous, also when it stands in both tracks.
fn check_duplicates(service: &DraftService, problems: &mut Problems<'_>) {
    let mut first: HashMap<SocketAddr, Range<usize>> = HashMap::new();
    let mut backends: Vec<&Spanned<Backend>> = service.backends().collect();
    backends.sort_by_key(|backend| backend.span().start);
    for backend in backends {
        let address = backend.get_ref().address;
        if let Some(earlier) = first.get(&address) {
            let line = problems.line_of(earlier);
            problems.add(
                backend.span(),
                format!("backend {address} stands twice in service `{}`", service.name.get_ref()),
                format!("remove it here or on line {line}; for a larger share give it a `weight`"),
            );
        } else {
            first.insert(address, backend.span());
        }
    }
}

fn check_limits(services: &[DraftService], problems: &mut Problems<'_>) {
    if let Some(service) = services.get(MAX_SERVICES as usize) {
        let message = format!(
            "{} services are more than the {MAX_SERVICES} there is room for",
            services.len()
        );
        problems.add(service.name.span(), message, "remove those from here on");
    }
    let total: usize = services.iter().map(|service| service.backends().count()).sum();
    let first_over = services.iter().flat_map(DraftService::backends).nth(MAX_CONFIGURED_BACKENDS);
    if let Some(backend) = first_over {
        let message = format!(
            "{total} backends are more than the {MAX_CONFIGURED_BACKENDS} there is room for"
        );
        problems.add(backend.span(), message, "remove those from here on, or use a second host");
    }
}

type Listeners<'d> = HashMap<(SocketAddr, Protocol), &'d DraftService>;

/// Who listens where; the same place twice is a mistake.
fn check_listeners<'d>(draft: &'d Draft, problems: &mut Problems<'_>) -> Listeners<'d> {
    let mut listeners = Listeners::new();
    for service in &draft.services {
        let (Some(listen), Some(protocol)) = (&service.listen, service.protocol) else { continue };
        let address = *listen.get_ref();
        if let Some(earlier) = listeners.get(&(address, protocol)) {
            let line = earlier.listen.as_ref().map_or(0, |at| problems.line_of(&at.span()));
            problems.add(
                listen.span(),
                format!(
                    "service `{}` listens on {address} ({}) already, on line {line}",
                    earlier.name.get_ref(),
                    protocol.name()
                ),
                "write another address, port or protocol, or make the two services one",
            );
        } else {
            listeners.insert((address, protocol), service);
        }
    }
    if let Some(metrics) = &draft.metrics_listen
        && let Some(service) = listeners.get(&(*metrics.get_ref(), Protocol::Tcp))
    {
        let message = format!(
            "metrics would listen on {}, which service `{}` takes",
            metrics.get_ref(),
            service.name.get_ref()
        );
        problems.add(metrics.span(), message, "write another port, or listen = \"off\"");
    }
    listeners
}

fn check_shared_backends(
    services: &[DraftService],
    listeners: &Listeners<'_>,
    problems: &mut Problems<'_>,
) {
    let mut sharing: HashMap<(SocketAddr, Protocol), u32> = HashMap::new();
    for service in services {
        let Some(protocol) = service.protocol else { continue };
        let mut seen = HashSet::new();
        for backend in service.backends() {
            let place = (backend.get_ref().address, protocol);
            if !seen.insert(place) {
                continue;
            }
            if let Some(listener) = listeners.get(&place) {
                let message = format!(
                    "backend {} is where service `{}` listens",
                    place.0,
                    listener.name.get_ref()
                );
                let help = "packets would come back here: write the address of the server itself";
                problems.add(backend.span(), message, help);
            }
            let count = sharing.entry(place).or_default();
            *count += 1;
            if *count == MAX_SHARING + 1 {
                let message = format!(
                    "backend {} ({}) stands behind more than {MAX_SHARING} services",
                    place.0,
                    protocol.name()
                );
                let help = "give the server another port or address for the services beyond that";
                problems.add(backend.span(), message, help);
            }
        }
    }
}
