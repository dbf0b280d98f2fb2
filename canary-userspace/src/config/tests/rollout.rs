//! Rollouts, evidence, gates and hooks: what is written comes out, and the rest
//! is the documented default.

use std::time::Duration;

use super::{good, with_canary};
use crate::config::{
    Config, Evidence, Rollout,
    rollout::{
        Bound, Gate, GateKind, Hook, HookKind, OnFail, OnMissing, OnRollback, OnTimeout, Slowness,
        Step, Strategy, Tolerance, Transition, Until,
    },
};

fn rollout(more: &str) -> Rollout {
    let mut config = good(&with_canary(more));
    config.services.remove(0).rollout.expect("a rollout")
}

fn evidence(config: &Config, service: usize) -> Evidence {
    config.services[service].evidence
}

/// What of it is watched, in the order of the reference.
fn watched(evidence: &Evidence) -> [bool; 6] {
    let Evidence { refused, resets, handshake_timeouts, http_5xx, handshake, first_byte, .. } =
        evidence;
    let [a, b, c, d] = [refused, resets, handshake_timeouts, http_5xx].map(|of| of.watched);
    [a, b, c, d, handshake.watched, first_byte.watched]
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn step(split: f64, lasts: u64) -> Step {
    let lasts = seconds(lasts);
    Step { split, lasts, until: Until::Time, at_most: None, drained: 0 }
}

#[test]
fn auto_is_all_that_has_to_be_written() {
    let auto = Rollout {
        strategy: Strategy::Canary,
        steps: vec![
            step(0.01, 300),
            step(0.05, 600),
            Step { until: Until::Safe, ..step(0.25, 300) },
            Step { until: Until::Safe, ..step(0.5, 300) },
            step(1.0, 600),
        ],
        deadline: Some(seconds(86_400)),
        on_timeout: OnTimeout::Hold,
        on_rollback: OnRollback::Drain,
        keep_old: seconds(3600),
        dead_man: seconds(10),
        max_away: seconds(60),
        salt: None,
        gates: Vec::new(),
        hooks: Vec::new(),
    };
    for written in
        ["rollout = 'auto'", "rollout = 'canary'", "rollout = {}", "rollout.strategy = 'auto'"]
    {
        assert_eq!(rollout(written), auto, "{written}");
    }
    assert_eq!(evidence(&good(&with_canary("")), 0), Evidence::default());
}

#[test]
fn strategies() {
    let blue_green = rollout("rollout = 'blue-green'");
    assert_eq!(blue_green.strategy, Strategy::BlueGreen);
    assert_eq!(blue_green.steps, [step(0.0, 0), step(1.0, 600)]);

    let rolling = rollout("rollout = 'rolling'");
    let backend = |split, drained| Step { drained, ..step(split, 60) };
    assert_eq!(rolling.steps, [backend(0.5, 1), backend(1.0, 2)]);
    let slower = rollout("rollout = { strategy = 'rolling', for = '5m' }");
    assert!(slower.steps.iter().all(|step| step.lasts == seconds(300)), "{slower:?}");

    let ab = rollout("rollout = 'ab'");
    assert_eq!(ab.steps, [Step { until: Until::Pause, ..step(0.5, 0) }]);
    assert_eq!(ab.deadline, None);
    let tenth = rollout("rollout = { strategy = 'ab', split = '10%', deadline = '1h' }");
    assert_eq!(tenth.steps[0].split, 0.1);
    assert_eq!(tenth.deadline, Some(seconds(3600)));
}

/// A step takes as much from stable as the backend it drains had, and one that
/// takes nothing has no step.
#[test]
fn rolling_goes_by_weight() {
    let config = good(
        "\
interfaces = ['eth0']
[service.web]
listen = '203.0.113.10:80'
stable = [
    { address = '10.0.0.11:80', weight = 6 },
    { address = '10.0.0.12:80', weight = 0 },
    '10.0.0.13:80',
    { address = '10.0.0.14:80', weight = 3 },
]
canary = ['10.0.0.21:80']
rollout = 'rolling'
",
    );
    let steps = &config.services[0].rollout.as_ref().unwrap().steps;
    let told: Vec<_> = steps.iter().map(|step| (step.split, step.drained)).collect();
    assert_eq!(told, [(0.6, 1), (0.7, 3), (1.0, 4)]);
    let equal = Rollout::preset(Strategy::Rolling, 3, 0.5).steps;
    assert_eq!(equal, Rollout::rolling(&[7, 7, 7], seconds(60)));
}

#[test]
fn every_key_of_a_rollout() {
    let told = rollout(
        r#"
[service.web.rollout]
strategy = "canary"
steps = [
    { split = "0%", for = "0s" },
    { split = 1, for = "5m" },
    { split = "25%", for = "5m", until = "safe", at_most = "2h" },
    { split = "50%", until = "pause" },
    { split = "100%", for = "10m", until = "time" },
]
deadline = "off"
on_timeout = "promote"
on_rollback = "reset"
keep_old = "2h"
dead_man = "2s"
max_away = "1day"
salt = "spring"
"#,
    );
    let expected = Rollout {
        strategy: Strategy::Canary,
        steps: vec![
            step(0.0, 0),
            step(0.01, 300),
            Step { until: Until::Safe, at_most: Some(seconds(7200)), ..step(0.25, 300) },
            Step { until: Until::Pause, ..step(0.5, 0) },
            step(1.0, 600),
        ],
        deadline: None,
        on_timeout: OnTimeout::Promote,
        on_rollback: OnRollback::Reset,
        keep_old: seconds(7200),
        dead_man: seconds(2),
        max_away: seconds(86_400),
        salt: Some("spring".to_owned()),
        gates: Vec::new(),
        hooks: Vec::new(),
    };
    assert_eq!(told, expected);
    let hours = rollout("rollout = { deadline = '3h', on_timeout = 'rollback' }");
    assert_eq!(hours.deadline, Some(seconds(3 * 3600)));
    assert_eq!(hours.on_timeout, OnTimeout::Rollback);
}

#[test]
fn gates() {
    let told = rollout(
        r#"
[[service.web.rollout.gates]]
name = "errors"
prometheus = "http://[::1]:9090/prefix"
query = 'sum(rate(errors_total{track="{{track}}"}[1m]))'
max = 2
relative = true
every = "1m"
timeout = "3s"
retries = 0
on_fail = "hold"
on_missing = "pass"

[[service.web.rollout.gates]]
name = "hits"
prometheus = "https://user:word@prometheus.example.com"
query = "up"
min = -0.5

[[service.web.rollout.gates]]
name = "smoke"
command = ["/usr/local/bin/smoke", "--fast", ""]
on_missing = "fail"

[[service.web.rollout.gates]]
name = "desk"
webhook = "https://desk.example.com:8443/ask?service=web"
"#,
    );
    let gate = |name: &str, asks| Gate {
        name: name.to_owned(),
        asks,
        every: seconds(30),
        timeout: seconds(5),
        retries: 2,
        on_fail: OnFail::Rollback,
        on_missing: OnMissing::Hold,
    };
    let prometheus = |url: &str, query: &str, bound, relative| GateKind::Prometheus {
        url: url.to_owned(),
        query: query.to_owned(),
        bound,
        relative,
    };
    let query = "sum(rate(errors_total{track=\"{{track}}\"}[1m]))";
    let errors = prometheus("http://[::1]:9090/prefix", query, Bound::Max(2.0), true);
    let server = "https://user:word@prometheus.example.com";
    let argv = ["/usr/local/bin/smoke", "--fast", ""].map(String::from).to_vec();
    let expected = [
        Gate {
            every: seconds(60),
            timeout: seconds(3),
            retries: 0,
            on_fail: OnFail::Hold,
            on_missing: OnMissing::Pass,
            ..gate("errors", errors)
        },
        gate("hits", prometheus(server, "up", Bound::Min(-0.5), false)),
        Gate { on_missing: OnMissing::Fail, ..gate("smoke", GateKind::Command { argv }) },
        gate(
            "desk",
            GateKind::Webhook { url: "https://desk.example.com:8443/ask?service=web".to_owned() },
        ),
    ];
    assert_eq!(told.gates, expected);
}

#[test]
fn hooks() {
    let told = rollout(
        r#"
[[service.web.rollout.hooks]]
name = "chat"
on = ["start", "rollback", "completion", "start"]
webhook = "https://hooks.example.com/x"
slack = true
timeout = "1h"
retries = 10

[[service.web.rollout.hooks]]
name = "scale"
on = ["before-start"]
command = ["/usr/local/bin/scale"]

[[service.web.rollout.hooks]]
name = "log"
on = ["undo"]
webhook = "http://10.0.0.5/"
"#,
    );
    let hook = |name: &str, on: &[Transition], tells| Hook {
        name: name.to_owned(),
        on: on.to_vec(),
        tells,
        timeout: seconds(10),
        retries: 2,
    };
    let webhook = |url: &str, slack| HookKind::Webhook { url: url.to_owned(), slack };
    let chat = [Transition::Start, Transition::Rollback, Transition::Completion];
    let expected = [
        Hook {
            timeout: seconds(3600),
            retries: 10,
            ..hook("chat", &chat, webhook("https://hooks.example.com/x", true))
        },
        hook(
            "scale",
            &[Transition::BeforeStart],
            HookKind::Command { argv: vec!["/usr/local/bin/scale".to_owned()] },
        ),
        hook("log", &[Transition::Undo], webhook("http://10.0.0.5/", false)),
    ];
    assert_eq!(told.hooks, expected);
    let all: Vec<&str> = Transition::NAMES.iter().map(|(name, _)| *name).collect();
    let hook = format!("rollout.hooks = [{{ name = 'a', on = {all:?}, command = ['/x'] }}]");
    assert_eq!(rollout(&hook).hooks[0].on.len(), 9);
}

#[test]
fn every_key_of_the_evidence() {
    let config = good(&with_canary(
        r#"
[service.web.evidence]
alpha = "0.0001%"
beta = 20
watch = ["resets", "5xx", "first-byte"]
ratio = 2
margin = "1%"
safe_ratio = 3.5
safe_margin = "2%"
slower = 1
floor = "500us"
last_margin = 5
resets = { ratio = 100, margin = 0, safe_ratio = 1, safe_margin = "0.5%" }
handshake = { slower = 100.0, floor = '2ms' }
[service.web.evidence.handshake-timeouts]
ratio = 1.5
[service.web.evidence.5xx]
margin = "0.1%"
[service.web.evidence.refused]
safe_margin = "3%"
[service.web.evidence.first-byte]
slower = 1.25
"#,
    ));
    let all =
        Tolerance { watched: false, ratio: 2.0, margin: 0.01, safe_ratio: 3.5, safe_margin: 0.02 };
    let expected = Evidence {
        alpha: 0.000_001,
        beta: 0.2,
        refused: Tolerance { safe_margin: 0.03, ..all },
        resets: Tolerance {
            watched: true,
            ratio: 100.0,
            margin: 0.0,
            safe_ratio: 1.0,
            safe_margin: 0.005,
        },
        handshake_timeouts: Tolerance { ratio: 1.5, ..all },
        http_5xx: Tolerance { watched: true, margin: 0.001, ..all },
        handshake: Slowness { watched: false, ratio: 100.0, floor: Duration::from_millis(2) },
        first_byte: Slowness { watched: true, ratio: 1.25, floor: Duration::from_micros(500) },
        last_margin: 0.05,
    };
    assert_eq!(evidence(&config, 0), expected);
}

/// The service over the top of the file, and in each a kind over all kinds.
#[test]
fn evidence_for_all_services() {
    let config = good(&format!(
        "\
evidence.alpha = '2%'
evidence.ratio = 2
evidence.refused.ratio = 3
evidence.resets.safe_ratio = 4
{}evidence.ratio = 5
evidence.resets.ratio = 6
[service.other]
listen = '203.0.113.10:81'
stable = ['10.0.0.11:8080']
",
        with_canary("")
    ));
    let (other, web) = (evidence(&config, 0), evidence(&config, 1));
    assert_eq!((other.alpha, other.beta), (0.02, 0.05));
    assert_eq!([other.refused.ratio, other.resets.ratio, other.http_5xx.ratio], [3.0, 2.0, 2.0]);
    assert_eq!((web.alpha, web.resets.safe_ratio), (0.02, 4.0));
    assert_eq!([web.refused.ratio, web.resets.ratio, web.http_5xx.ratio], [5.0, 6.0, 5.0]);
}

/// What is watched by default, or because the top of the file says so, is left
/// out where a service cannot have it.
#[test]
fn what_is_not_seen_is_not_watched() {
    let service = |more: &str| evidence(&good(&with_canary(more)), 0);
    let all = [true; 6];
    assert_eq!(watched(&service("")), all);
    assert_eq!(watched(&service("signals = ['latency']")), [true, true, true, false, true, true]);
    assert_eq!(watched(&service("signals = ['http']")), [true, true, true, true, false, false]);
    assert_eq!(watched(&service("evidence.watch = []")), [false; 6]);
    let udp = [false, false, false, false, false, true];
    assert_eq!(watched(&service("protocol = 'udp'")), udp);
    assert_eq!(watched(&service("protocol = 'udp'\nsignals = []")), [false; 6]);

    let top = "evidence.watch = ['resets', '5xx', 'first-byte']\n".to_owned();
    let said = |more: &str| evidence(&good(&(top.clone() + &with_canary(more))), 0);
    assert_eq!(watched(&said("")), [false, true, false, true, false, true]);
    assert_eq!(watched(&said("signals = []")), [false, true, false, false, false, false]);
    assert_eq!(watched(&said("protocol = 'udp'")), udp);
    assert_eq!(
        watched(&said("evidence.watch = ['refused']")),
        [true, false, false, false, false, false]
    );
}

/// The strategies' own steps then end by their time alone.
#[test]
fn without_failures_to_watch_no_step_waits_for_safe() {
    for more in ["protocol = 'udp'", "evidence.watch = ['first-byte']"] {
        let steps = rollout(&format!("{more}\nrollout = 'auto'")).steps;
        assert!(steps.iter().all(|step| step.until == Until::Time), "{steps:?}");
        assert_eq!(steps.len(), 5);
    }
}
