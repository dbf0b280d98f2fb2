//! What the API answers. Keys of [`Status`] may be added, never renamed or
//! removed: scripts rely on them.

use canary_common::{Histogram, Ticks};
use serde::{Deserialize, Serialize};

mod trial;

pub use trial::{
    Drill, DrillReport, Explanation, Forecast, GateStatus, Guard, History, HistoryEntry,
    RolloutCommand, Steer, Steered, SteeredNetwork,
};

/// `GET /v1/status`, and `canary status --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub data_plane: DataPlane,
    pub services: Vec<ServiceStatus>,
    /// Packets by the reason they left with; their sum is the packets seen.
    pub verdicts: Vec<Verdict>,
    /// What an operator should know, newest last; empty when all is well.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataPlane {
    pub attached: Vec<Attached>,
    pub abi: u32,
    pub flows: FlowTableStatus,
    /// Events for those who follow flows that there was no room for.
    pub events_dropped: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub interface: String,
    /// `native`, `generic`, `gone` (no such interface; attached to when it
    /// comes) or `refused` (it cannot be attached to; tried again).
    pub mode: String,
    /// Why it is `gone` or `refused`, or what else there is to know; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// Flows there is room for, by the configuration.
    pub capacity: u64,
    /// Live pins in the table, all services.
    pub active: u64,
    /// Flows in the overflow map.
    pub overflow: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub reason: String,
    pub packets: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub listen: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    pub split: SplitStatus,
    #[serde(default)]
    pub guard: Guard,
    pub rollout: RolloutStatus,
    pub tracks: Vec<TrackStatus>,
}

/// Fractions of 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitStatus {
    pub configured: f64,
    /// Share of the connections born under the current split that went to the
    /// canary; `null` before the first one.
    pub actual: Option<f64>,
    /// `armed`, `off`, `budget-spent` or `dead-man`.
    pub guard: String,
}

/// Also the answer of `POST /v1/services/{service}/rollout`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// `idle`, `shifting`, `baking`, `paused`, `promoting`, `rolling-back`,
    /// `draining`, `complete` or `degraded`.
    pub phase: String,
    /// From 1; 0 outside of a rollout.
    pub step: u32,
    /// 0 where no rollout is configured.
    pub steps: u32,
    pub reason: String,
    /// Rollouts that were begun, this one included.
    #[serde(default)]
    pub id: u64,
    /// `canary`, `blue-green`, `rolling` or `ab`; empty where no rollout is
    /// configured.
    #[serde(default)]
    pub strategy: String,
    /// The configuration's canary has become stable: tracks are the other way
    /// round than it says.
    #[serde(default)]
    pub promoted: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrackStatus {
    pub name: String,
    pub backends: Vec<BackendStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    pub address: String,
    /// `active`, `draining`, `drained` (draining and no live pin left) or
    /// `unresolved` (no next hop known).
    pub state: String,
    pub weight: u32,
    #[serde(flatten)]
    pub counters: Counters,
    /// First SYN to SYN-ACK.
    #[serde(default)]
    pub handshake_seconds: Times,
    /// First byte of what a client sent to the first byte of the answer.
    #[serde(default)]
    pub first_byte_seconds: Times,
}

/// Times in seconds, since the data plane was loaded. Quantiles are upper
/// bounds of the buckets where they fall, four of which are an octave; `null`
/// without a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    pub count: u64,
    pub sum: f64,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    /// Upper bound and count of each bucket that is not empty; `null` is the
    /// bound of the last.
    pub buckets: Vec<(Option<f64>, u64)>,
}

impl Times {
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        let bound = |bucket| Histogram::upper_bound(bucket).map(Ticks::seconds);
        let buckets = histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            count: histogram.count(),
            sum: Ticks::seconds(histogram.sum),
            p50: histogram.quantile(0.5),
            p90: histogram.quantile(0.9),
            p99: histogram.quantile(0.99),
            buckets: buckets.map(|(bucket, count)| (bound(bucket), *count)).collect(),
        }
    }
}

/// Since the data plane was loaded. Bytes are IP bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub connections: u64,
    /// A gauge: live pins.
    pub active: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub refused: u64,
    pub resets_backend: u64,
    pub resets_client: u64,
    pub syn_retransmits: u64,
    pub handshake_timeouts: u64,
    pub established: u64,
    pub closed: u64,
    pub midstream: u64,
    pub evicted: u64,
    pub resets_backend_after_data: u64,
    pub resets_client_after_data: u64,
    pub resets_backend_after_fin: u64,
    pub resets_client_after_fin: u64,
    pub resets_backend_implausible: u64,
    pub resets_client_implausible: u64,
    pub retransmits_backend: u64,
    pub retransmits_client: u64,
    pub zero_windows_backend: u64,
    pub zero_windows_client: u64,
    pub http_1xx: u64,
    pub http_2xx: u64,
    pub http_3xx: u64,
    pub http_4xx: u64,
    pub http_5xx: u64,
    /// Connections with at least one 5xx.
    pub connections_5xx: u64,
    pub tls_alerts_backend: u64,
    pub tls_alerts_client: u64,
    /// Established connections that went silent while the client waited.
    pub idle_cuts: u64,
    /// Those of `connections` whose client was steered here; no evidence.
    pub steered: u64,
}

/// `GET` and `PUT /v1/services/{service}/weight`; the answer of both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    pub service: String,
    /// Fraction of 1.
    pub split: f64,
}

/// Body of `PUT /v1/services/{service}/weight`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetWeight {
    /// Fraction of 1.
    pub split: f64,
}

/// Body of `PUT /v1/services/{service}/drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDrain {
    /// `stable`, `canary`, or a backend's address and port.
    pub target: String,
    /// `false` puts it back into use.
    pub drain: bool,
}

/// Answer to a drain: poll `GET /v1/services/{service}/drain?target=…` for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    pub service: String,
    pub target: String,
    pub backends: Vec<String>,
    /// Live pins left.
    pub active: u64,
}

/// `PUT /v1/detach/drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetDetachDrain {
    pub drain: bool,
}

/// `GET` and `PUT /v1/detach/drain`. Who waits for it has to ask again within
/// ten seconds, else new connections are taken again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachDrain {
    /// New connections go to the kernel.
    pub draining: bool,
    /// Live pins left, of all services.
    pub active: u64,
}

/// `GET /v1/services/{service}/where?client=ADDRESS[:PORT]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Where {
    pub service: String,
    pub client: String,
    /// `None`: no backend could be had; `why` says the reason.
    pub track: Option<String>,
    pub backend: Option<String>,
    /// Whether a live pin decided.
    pub pinned: bool,
    /// The flow's hash as a fraction of 1, to be compared with the split.
    pub hash: f64,
    pub split: f64,
    /// In words.
    pub why: String,
}

/// `GET /v1/services/{service}/flows?track=…&backend=…&limit=…`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    pub flows: Vec<FlowInfo>,
    /// How many matched, of which `flows` lists the first.
    pub total: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowInfo {
    pub client: String,
    pub track: String,
    pub backend: String,
    pub state: String,
    /// Seconds until its time is over without another packet.
    pub expires_in: f64,
    pub midstream: bool,
}

/// A line of `GET /v1/services/{service}/flows/follow`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FollowedFlow {
    /// Seconds since 1970.
    pub at: f64,
    /// `new`, `midstream` (first seen in the middle), `refused`, `reset`,
    /// `closed`, `unanswered` (no SYN-ACK in time) or `idle`.
    pub event: String,
    /// Who reset it: `client` or `backend`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// A reset after data had been sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_data: Option<bool>,
    pub client: String,
    pub track: String,
    pub backend: String,
    /// Seconds, each where it was seen: from the SYN to the SYN-ACK, from the
    /// first request's first byte to the answer's, from birth to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lived: Option<f64>,
    /// Events before this one that the listener was too slow for.
    pub lost: u64,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, a line each; empty where nothing did.
    pub changes: Vec<String>,
}

/// Every error, with a 4xx or 5xx status. `error` says what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    pub error: String,
}
