//! Backends' health.

use super::{paint, table, time};
use crate::api::types::ServiceStatus;

/// How the backends' checks went, where there are any.
pub(super) fn health(service: &ServiceStatus, colours: bool) -> String {
    let head = ["track", "backend", "check", "health", "last said", "took", "passed", "failed"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut panic = String::new();
    for track in &service.tracks {
        if track.panic {
            let text = format!("  panic: no {} backend is up; new flows go to all\n", track.name);
            panic.push_str(&paint(&text, "31;1", colours));
        }
        for backend in &track.backends {
            let Some(health) = &backend.health else { continue };
            let state = match (health.up, health.ejected_for) {
                (false, _) if health.gone => "gone".to_owned(),
                (false, _) => "down".to_owned(),
                (true, Some(left)) => format!("ejected ({left:.0} s)"),
                (true, None) => "up".to_owned(),
            };
            let failed = health.checks.fail + health.checks.unreachable;
            let last = health.last.as_ref();
            rows.push(vec![
                track.name.clone(),
                backend.address.clone(),
                health.check.clone(),
                state,
                last.map_or("-".to_owned(), |last| last.detail.clone()),
                time(last.map(|last| last.seconds)),
                health.checks.pass.to_string(),
                failed.to_string(),
            ]);
        }
    }
    if rows.len() > 1 { table(&rows, 5) + &panic } else { panic }
}
