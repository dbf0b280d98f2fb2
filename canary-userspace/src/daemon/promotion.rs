//! Who is stable once a canary was promoted: the file still has it the other
//! way round, until an operator writes it down.

use std::{collections::BTreeSet, net::SocketAddr};

use canary_common::BackendFlags;
use serde::{Deserialize, Serialize};

use crate::{config, plan::Observed};

/// The tracks of the configuration when its canary became stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Promoted {
    stable: BTreeSet<SocketAddr>,
    canary: BTreeSet<SocketAddr>,
}

/// What a configuration says of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is as it was: the tracks are to be swapped.
    Swapped,
    /// It has the promoted version as stable.
    Followed,
    /// Neither: its stable is not the version that carries the traffic.
    Contradicts,
}

fn addresses(backends: &[config::Backend]) -> BTreeSet<SocketAddr> {
    backends.iter().map(|backend| backend.address).collect()
}

impl Promoted {
    /// `service` as the file has it.
    pub(super) fn of(service: &config::Service) -> Self {
        Self { stable: addresses(&service.stable), canary: addresses(&service.canary) }
    }

    /// By the maps of an earlier daemon, which wrote nothing down: whether they
    /// have the tracks the other way round than the file.
    pub(super) fn met(service: &config::Service, observed: &Observed) -> Option<Self> {
        let number = observed.service_of(service)?;
        let is_canary = |backend: &config::Backend| {
            let record =
                observed.backends.get(&observed.backend_number(number, backend.address)?)?;
            Some(record.flags & BackendFlags::CANARY != 0)
        };
        let all_are = |backends: &[config::Backend], canary| {
            !backends.is_empty()
                && backends.iter().all(|backend| is_canary(backend) == Some(canary))
        };
        let swapped = all_are(&service.stable, true) && all_are(&service.canary, false);
        swapped.then(|| Self::of(service))
    }

    pub(super) fn standing(&self, service: &config::Service) -> Standing {
        let stable = addresses(&service.stable);
        if stable == self.canary {
            Standing::Followed
        } else if stable == self.stable && addresses(&service.canary) == self.canary {
            Standing::Swapped
        } else {
            Standing::Contradicts
        }
    }

    /// The version that carries the traffic, as the file would name it.
    pub(super) fn new_stable(&self) -> String {
        let names: Vec<String> = self.canary.iter().map(|a| format!("\"{a}\"")).collect();
        names.join(", ")
    }
}

/// The other way round.
pub(super) fn swap(service: &mut config::Service) {
    std::mem::swap(&mut service.stable, &mut service.canary);
    // It is of the backends that they are checked so.
    service.health.swap(0, 1);
}

#[cfg(test)]
mod tests {
    use canary_common::{Backend, Service};

    use super::*;
    use crate::config::parse;

    fn service(stable: &str, canary: &str) -> config::Service {
        let text = format!(
            "interfaces = [\"eth0\"]\n[service.web]\nlisten = \"203.0.113.10:80\"\n\
             stable = [{stable}]\ncanary = [{canary}]\n"
        );
        parse(&text, "test").expect("a configuration").services.remove(0)
    }

    /// The maps of a service, with these backends in its canary's track.
    fn maps(of: &config::Service, canary: &[config::Backend]) -> Observed {
        let mut observed = Observed::default();
        let (vip, port_be) = (of.listen.ip().into(), of.listen.port().to_be());
        observed.services.insert(3, Service { vip, port_be, protocol: 6, ..Service::default() });
        let all = of.stable.iter().chain(&of.canary).map(|backend| backend.address);
        for (number, address) in (1..).zip(all) {
            let is_canary = canary.iter().any(|backend| backend.address == address);
            let record = Backend {
                address: address.ip().into(),
                port_be: address.port().to_be(),
                flags: BackendFlags::CANARY * u16::from(is_canary),
                service: 3,
                ..Backend::default()
            };
            observed.backends.insert(number, record);
        }
        observed
    }

    #[test]
    fn what_the_maps_say_where_nothing_is_written_down() {
        let (old, new) = ("\"10.0.0.1:80\", \"10.0.0.2:80\"", "\"10.0.0.9:80\"");
        let file = service(old, new);
        let swapped = maps(&file, &file.stable);
        assert_eq!(Promoted::met(&file, &swapped), Some(Promoted::of(&file)));
        // As the file has it; a file that follows; one that has another canary.
        assert_eq!(Promoted::met(&file, &maps(&file, &file.canary)), None);
        for (stable, canary) in [(new, old), (old, ""), (old, "\"10.0.0.5:80\"")] {
            assert_eq!(
                Promoted::met(&service(stable, canary), &swapped),
                None,
                "{stable} {canary}"
            );
        }
        assert_eq!(Promoted::met(&file, &Observed::default()), None);
    }

    #[test]
    fn what_the_file_says_afterwards() {
        let (old, new) = ("\"10.0.0.1:80\", \"10.0.0.2:80\"", "\"10.0.0.9:80\"");
        let promoted = Promoted::of(&service(old, new));
        for (stable, canary, standing) in [
            (old, new, Standing::Swapped),
            ("\"10.0.0.2:80\", \"10.0.0.1:80\"", new, Standing::Swapped),
            (new, "", Standing::Followed),
            (new, old, Standing::Followed),
            (new, "\"10.0.0.5:80\"", Standing::Followed),
            (old, "", Standing::Contradicts),
            (old, "\"10.0.0.5:80\"", Standing::Contradicts),
            ("\"10.0.0.1:80\"", new, Standing::Contradicts),
        ] {
            assert_eq!(promoted.standing(&service(stable, canary)), standing, "{stable} {canary}");
        }
        assert_eq!(promoted.new_stable(), new);
        let mut swapped = service(old, new);
        swap(&mut swapped);
        assert_eq!((swapped.stable.len(), swapped.canary.len()), (1, 2));
    }
}
