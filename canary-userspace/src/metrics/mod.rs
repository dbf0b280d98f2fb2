//! The metrics: Prometheus' text format 0.0.4, for `/metrics` and for
//! node_exporter's textfile collector.

mod health;
mod text;
mod textfile;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    api::types::{BackendStatus, Counters, ServiceStatus, Status, Times, TrackStatus},
    config::Histograms,
    rollout::Phase,
};

pub use textfile::write_textfile;

use text::Text;

/// The `Content-Type` of what [`render`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the daemon knows beyond the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DaemonGauges {
    /// When the daemon started, in seconds since 1970; 0 leaves the metric out.
    pub start_time_seconds: f64,
    /// Rollbacks by the daemon since it started, by service. Name every
    /// service, also with 0, so that the first one is seen as an increase.
    pub rollbacks: BTreeMap<String, u64>,
}

/// The states of `canary_backend_state`, as in [`BackendStatus::state`].
const BACKEND_STATES: [&str; 6] =
    ["active", "draining", "drained", "unresolved", "down", "ejected"];
/// The values of `SplitStatus::guard`.
const GUARDS: [&str; 4] = ["armed", "off", "budget-spent", "dead-man"];
/// The modes of `canary_interface_mode`, as in `Attached::mode`.
const INTERFACE_MODES: [&str; 4] = ["native", "generic", "gone", "refused"];

/// Some metric of each backend. A family has one of these, or one for each
/// value of its extra label.
struct Series {
    label: Option<(&'static str, &'static str)>,
    value: fn(&Counters) -> u64,
}

struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    series: &'static [Series],
}

const fn plain(value: fn(&Counters) -> u64) -> Series {
    Series { label: None, value }
}

const fn labelled(name: &'static str, label: &'static str, value: fn(&Counters) -> u64) -> Series {
    Series { label: Some((name, label)), value }
}

/// Every metric that each backend has.
const BACKEND_FAMILIES: &[Family] = &[
    Family {
        name: "canary_connections_total",
        kind: "counter",
        help: "Flows born: a SYN or a first datagram.",
        series: &[plain(|c| c.connections)],
    },
    Family {
        name: "canary_connections_established_total",
        kind: "counter",
        help: "Handshakes done (TCP), or first datagrams answered (UDP).",
        series: &[plain(|c| c.established)],
    },
    Family {
        name: "canary_connections_closed_total",
        kind: "counter",
        help: "Flows that ended with a FIN each way.",
        series: &[plain(|c| c.closed)],
    },
    Family {
        name: "canary_connections_midstream_total",
        kind: "counter",
        help: "Flows first seen in the middle; not in canary_connections_total.",
        series: &[plain(|c| c.midstream)],
    },
    Family {
        name: "canary_connections_evicted_total",
        kind: "counter",
        help: "Half-open flows that had to make room for a new one.",
        series: &[plain(|c| c.evicted)],
    },
    Family {
        name: "canary_connections_refused_total",
        kind: "counter",
        help: "Flows that the backend reset before the handshake was done.",
        series: &[plain(|c| c.refused)],
    },
    Family {
        name: "canary_resets_total",
        kind: "counter",
        help: "Flows reset after the handshake, by who reset them.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend),
            labelled("by", "client", |c| c.resets_client),
        ],
    },
    Family {
        name: "canary_syn_retransmits_total",
        kind: "counter",
        help: "SYNs seen again.",
        series: &[plain(|c| c.syn_retransmits)],
    },
    Family {
        name: "canary_handshake_timeouts_total",
        kind: "counter",
        help: "Flows whose handshake nobody answered in time.",
        series: &[plain(|c| c.handshake_timeouts)],
    },
    Family {
        name: "canary_resets_after_data_total",
        kind: "counter",
        help: "Those of canary_resets_total where data had been sent.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend_after_data),
            labelled("by", "client", |c| c.resets_client_after_data),
        ],
    },
    Family {
        name: "canary_resets_after_fin_total",
        kind: "counter",
        help: "Flows reset after a FIN each way: nobody's failure.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend_after_fin),
            labelled("by", "client", |c| c.resets_client_after_fin),
        ],
    },
    Family {
        name: "canary_resets_implausible_total",
        kind: "counter",
        help: "RST segments outside of any window, which were not believed.",
        series: &[
            labelled("by", "backend", |c| c.resets_backend_implausible),
            labelled("by", "client", |c| c.resets_client_implausible),
        ],
    },
    Family {
        name: "canary_retransmits_total",
        kind: "counter",
        help: "Data segments that began below the highest sequence number seen.",
        series: &[
            labelled("by", "backend", |c| c.retransmits_backend),
            labelled("by", "client", |c| c.retransmits_client),
        ],
    },
    Family {
        name: "canary_zero_windows_total",
        kind: "counter",
        help: "Segments that offered a window of 0.",
        series: &[
            labelled("by", "backend", |c| c.zero_windows_backend),
            labelled("by", "client", |c| c.zero_windows_client),
        ],
    },
    Family {
        name: "canary_http_responses_total",
        kind: "counter",
        help: "HTTP/1.x responses in the clear, by class of their status.",
        series: &[
            labelled("class", "1xx", |c| c.http_1xx),
            labelled("class", "2xx", |c| c.http_2xx),
            labelled("class", "3xx", |c| c.http_3xx),
            labelled("class", "4xx", |c| c.http_4xx),
            labelled("class", "5xx", |c| c.http_5xx),
        ],
    },
    Family {
        name: "canary_connections_5xx_total",
        kind: "counter",
        help: "Flows with at least one 5xx.",
        series: &[plain(|c| c.connections_5xx)],
    },
    Family {
        name: "canary_tls_alerts_total",
        kind: "counter",
        help: "Flows with a fatal TLS alert in the clear, by who sent it.",
        series: &[
            labelled("by", "backend", |c| c.tls_alerts_backend),
            labelled("by", "client", |c| c.tls_alerts_client),
        ],
    },
    Family {
        name: "canary_connections_cut_total",
        kind: "counter",
        help: "Established flows that went silent while the client waited for an answer.",
        series: &[plain(|c| c.idle_cuts)],
    },
    Family {
        name: "canary_steered_connections_total",
        kind: "counter",
        help: "Those of canary_connections_total whose client was steered here.",
        series: &[plain(|c| c.steered)],
    },
    Family {
        name: "canary_packets_total",
        kind: "counter",
        help: "Packets forwarded to the backend (in) and back to clients (out).",
        series: &[
            labelled("direction", "in", |c| c.packets_in),
            labelled("direction", "out", |c| c.packets_out),
        ],
    },
    Family {
        name: "canary_bytes_total",
        kind: "counter",
        help: "IP bytes forwarded to the backend (in) and back to clients (out).",
        series: &[
            labelled("direction", "in", |c| c.bytes_in),
            labelled("direction", "out", |c| c.bytes_out),
        ],
    },
    Family {
        name: "canary_active_connections",
        kind: "gauge",
        help: "Flows pinned to the backend and alive.",
        series: &[plain(|c| c.active)],
    },
];

/// Some histogram of each backend: name, help, and where it is.
type TimesFamily = (&'static str, &'static str, fn(&BackendStatus) -> &Times);

/// Every histogram that each backend has.
const TIMES: [TimesFamily; 2] = [
    ("canary_handshake_seconds", "First SYN to SYN-ACK.", |b| &b.handshake_seconds),
    (
        "canary_first_byte_seconds",
        "First byte of what the client sent to the first byte of the answer: a connection's \
         first, and one in eight of its later ones.",
        |b| &b.first_byte_seconds,
    ),
];

/// All metrics, with so many of the histograms' buckets. Ends in a line feed;
/// families without a series are left out.
#[must_use]
pub fn render(status: &Status, up: &DaemonGauges, histograms: Histograms) -> String {
    let mut text = Text::new(histograms);
    daemon(&mut text, status, up);
    data_plane(&mut text, status);
    services(&mut text, status, up);
    backends(&mut text, status);
    text.finish()
}

fn daemon(text: &mut Text, status: &Status, up: &DaemonGauges) {
    text.family("canary_build_info", "gauge", "Always 1; the label tells the version.");
    text.sample("canary_build_info", &[("version", &status.version)], "1");
    if up.start_time_seconds > 0.0 {
        let name = "canary_start_time_seconds";
        text.family(name, "gauge", "When the daemon started, in seconds since 1970.");
        text.sample(name, &[], &up.start_time_seconds.to_string());
    }
}

fn data_plane(text: &mut Text, status: &Status) {
    let flows = &status.data_plane.flows;
    for (name, help, value) in [
        ("canary_flow_table_capacity", "Flows that there is room for.", flows.capacity),
        ("canary_flow_table_active", "Live flows in the table, all services.", flows.active),
        ("canary_flow_table_overflow", "Flows in the overflow map.", flows.overflow),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[], &value.to_string());
    }
    let name = "canary_flow_events_dropped_total";
    text.family(name, "counter", "Events for those who follow flows that had no room.");
    text.sample(name, &[], &status.data_plane.events_dropped.to_string());
    if !status.data_plane.attached.is_empty() {
        let name = "canary_interface_mode";
        text.family(name, "gauge", "How the program is attached: 1 for the mode it has, else 0.");
        for attached in &status.data_plane.attached {
            let labels = [("interface", attached.interface.as_str())];
            text.state_set(name, &labels, "mode", &INTERFACE_MODES, &attached.mode);
        }
    }
    if !status.verdicts.is_empty() {
        let name = "canary_packet_verdicts_total";
        text.family(name, "counter", "Packets seen, by the reason they left the program with.");
        for verdict in &status.verdicts {
            text.sample(name, &[("reason", &verdict.reason)], &verdict.packets.to_string());
        }
    }
}

fn services(text: &mut Text, status: &Status, up: &DaemonGauges) {
    if !status.services.is_empty() {
        let name = "canary_split_ratio";
        text.family(
            name,
            "gauge",
            "The canary's share of new flows: as configured, and as achieved since then.",
        );
        for ServiceStatus { name: service, split, .. } in &status.services {
            let labels = |kind| [("service", service.as_str()), ("kind", kind)];
            text.sample(name, &labels("configured"), &split.configured.to_string());
            if let Some(actual) = split.actual {
                text.sample(name, &labels("actual"), &actual.to_string());
            }
        }
    }
    trials(text, status);
    if !up.rollbacks.is_empty() {
        let name = "canary_rollbacks_total";
        text.family(name, "counter", "Times the daemon took the canary out by itself.");
        for (service, count) in &up.rollbacks {
            text.sample(name, &[("service", service)], &count.to_string());
        }
    }
}

/// Rollouts, and the guard behind them.
fn trials(text: &mut Text, status: &Status) {
    if status.services.is_empty() {
        return;
    }
    let phases = Phase::NAMES.map(|(name, _)| name);
    let name = "canary_rollout_phase";
    text.family(name, "gauge", "The rollout's phase: 1 for the one it is in, else 0.");
    for service in &status.services {
        let labels = [("service", service.name.as_str())];
        text.state_set(name, &labels, "phase", &phases, &service.rollout.phase);
    }
    let name = "canary_rollout_step";
    text.family(name, "gauge", "The rollout's step, from 1; 0 outside of one.");
    for service in &status.services {
        text.sample(name, &[("service", &service.name)], &service.rollout.step.to_string());
    }
    let name = "canary_guard_state";
    text.family(name, "gauge", "The kernel's guard: 1 for the state it is in, else 0.");
    for service in &status.services {
        let labels = [("service", service.name.as_str())];
        text.state_set(name, &labels, "state", &GUARDS, &service.split.guard);
    }
    let name = "canary_guard_diverted_total";
    text.family(name, "counter", "New flows that the guard sent to stable, not the canary.");
    for service in &status.services {
        text.sample(name, &[("service", &service.name)], &service.guard.diverted.to_string());
    }
}

fn backends(text: &mut Text, status: &Status) {
    let all: Vec<(&ServiceStatus, &TrackStatus, &BackendStatus)> = status
        .services
        .iter()
        .flat_map(|service| service.tracks.iter().map(move |track| (service, track)))
        .flat_map(|(service, track)| track.backends.iter().map(move |b| (service, track, b)))
        .collect();
    if all.is_empty() {
        return;
    }
    for Family { name, kind, help, series } in BACKEND_FAMILIES {
        text.family(name, kind, help);
        for (service, track, backend) in &all {
            for Series { label, value } in *series {
                let mut labels = of_backend(service, track, backend).to_vec();
                labels.extend(*label);
                text.sample(name, &labels, &value(&backend.counters).to_string());
            }
        }
    }
    for (name, help, times) in TIMES {
        text.family(name, "histogram", help);
        for (service, track, backend) in &all {
            text.histogram(name, &of_backend(service, track, backend), times(backend));
        }
    }
    let name = "canary_backend_state";
    text.family(name, "gauge", "The backend's state: 1 for the one it is in, else 0.");
    for (service, track, backend) in &all {
        let labels = of_backend(service, track, backend);
        text.state_set(name, &labels, "state", &BACKEND_STATES, &backend.state);
    }
    health::render(text, status, &all);
}

fn of_backend<'a>(
    service: &'a ServiceStatus,
    track: &'a TrackStatus,
    backend: &'a BackendStatus,
) -> [(&'a str, &'a str); 3] {
    [("service", &service.name), ("track", &track.name), ("backend", &backend.address)]
}
