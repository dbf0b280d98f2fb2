//! Backends' health, of those that are watched.

use super::{of_backend, text::Text};
use crate::api::types::{BackendHealth, BackendStatus, ServiceStatus, Status, TrackStatus};

/// A backend, and where it stands.
type Placed<'a> = (&'a ServiceStatus, &'a TrackStatus, &'a BackendStatus);

pub(super) fn render(text: &mut Text, status: &Status, all: &[Placed<'_>]) {
    let watched: Vec<(Placed<'_>, &BackendHealth)> =
        all.iter().filter_map(|place| Some((*place, place.2.health.as_ref()?))).collect();
    if watched.is_empty() {
        return;
    }
    let name = "canary_backend_up";
    text.family(name, "gauge", "Whether the backend is well: neither down nor ejected.");
    for ((service, track, backend), health) in &watched {
        let is_well = health.up && health.ejected_for.is_none();
        let labels = of_backend(service, track, backend);
        text.sample(name, &labels, if is_well { "1" } else { "0" });
    }
    checks(text, &watched);
    let name = "canary_backend_ejections_total";
    text.family(name, "counter", "Times the backend was ejected for its clients' failures.");
    for ((service, track, backend), health) in &watched {
        text.sample(name, &of_backend(service, track, backend), &health.ejections.to_string());
    }
    let name = "canary_track_panic";
    text.family(name, "gauge", "1 while no backend of the track is up, which is not heeded.");
    for service in &status.services {
        for track in &service.tracks {
            let is_watched = track.backends.iter().any(|backend| backend.health.is_some());
            let labels = [("service", service.name.as_str()), ("track", track.name.as_str())];
            if is_watched {
                text.sample(name, &labels, if track.panic { "1" } else { "0" });
            }
        }
    }
}

fn checks(text: &mut Text, watched: &[(Placed<'_>, &BackendHealth)]) {
    let name = "canary_backend_checks_total";
    text.family(name, "counter", "Checks of the backend, by their result.");
    for ((service, track, backend), health) in watched {
        let checks = health.checks;
        for (result, count) in
            [("pass", checks.pass), ("fail", checks.fail), ("unreachable", checks.unreachable)]
        {
            let mut labels = of_backend(service, track, backend).to_vec();
            labels.push(("result", result));
            text.sample(name, &labels, &count.to_string());
        }
    }
    if watched.iter().all(|(_, health)| health.last.is_none()) {
        return;
    }
    let name = "canary_backend_check_seconds";
    text.family(name, "gauge", "How long the backend's last check took.");
    for ((service, track, backend), health) in watched {
        if let Some(last) = &health.last {
            text.sample(name, &of_backend(service, track, backend), &last.seconds.to_string());
        }
    }
}
