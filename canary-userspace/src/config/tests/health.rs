//! How backends are watched.

use std::time::Duration;

use super::{SHORT, good, one, some, with_canary};
use crate::config::{
    Health,
    health::{CheckKind, Eject, HttpCheck, Initial, StatusRange},
};

fn of(text: &str) -> [Health; 2] {
    good(text).services.remove(0).health
}

#[test]
fn nothing_is_watched_by_default() {
    for health in of(&with_canary("")) {
        assert_eq!(health, Health::default());
        assert!(!health.is_on());
    }
}

#[test]
fn the_nearer_table_wins() {
    let text = with_canary(
        "[health]\ncheck = 'http'\npath = '/a'\ninterval = '5s'\n\
         [health.eject]\nbase = '10s'\n\
         [service.web.health]\npath = '/b?c=d'\nhost = 'x.example:81'\nstatus = [200, '300-399']\n\
         body = 'ok'\ngone_after = 'never'\n\
         [service.web.health.canary]\ncheck = 'https'\nverify = false\ninitial = 'down'\nport = 9\n\
         eject = { enabled = false }\n",
    );
    let [stable, canary] = of(&text);
    let http = HttpCheck {
        path: "/b?c=d".to_owned(),
        host: Some("x.example:81".to_owned()),
        status: vec![StatusRange(200, 200), StatusRange(300, 399)],
        body: Some("ok".to_owned()),
        verify: true,
    };
    let eject = Eject { enabled: true, base: Duration::from_secs(10), ..Eject::default() };
    let expected = Health {
        check: Some(CheckKind::Http),
        http: http.clone(),
        interval: Duration::from_secs(5),
        gone_after: None,
        eject,
        ..Health::default()
    };
    assert_eq!(stable, expected);
    let expected = Health {
        check: Some(CheckKind::Https),
        http: HttpCheck { verify: false, ..http },
        initial: Initial::Down,
        port: Some(9),
        eject: Eject { enabled: false, ..eject },
        ..expected
    };
    assert_eq!(canary, expected);
}

#[test]
fn a_service_can_be_left_out() {
    let text = format!("{SHORT}[service.web.health]\ncheck = 'none'\n[health]\ncheck = 'tcp'\n");
    assert!(of(&text).iter().all(|health| !health.is_on()));
}

#[test]
fn udp_has_no_ejection() {
    let udp = SHORT.replace("stable", "protocol = 'udp'\nstable");
    let text = format!("{udp}[health]\ncheck = 'tcp'\n[health.eject]\n");
    assert!(of(&text).iter().all(|health| health.check.is_some() && !health.eject.enabled));
    one(&format!("{udp}health = {{ eject = «{{}}» }}\n"), "UDP", "a `check`");
}

#[test]
fn mistakes() {
    let service = |keys: &str| format!("{SHORT}[service.web.health]\n{keys}\n");
    for (keys, message, help) in [
        ("check = «'ping'»", "cannot be \"ping\"", "\"tcp\""),
        ("check = 'tcp'\npath = «'/x'»", "beside check = \"tcp\"", "remove it"),
        ("check = 'http'\nverify = «true»", "beside check = \"http\"", "https"),
        ("check = 'http'\ncommand = «['/x']»", "beside check = \"http\"", "command"),
        ("check = 'command'\ncommand = ['/x']\nport = «1»", "beside check", "connects"),
        ("check = «'command'»", "without a `command`", "write command"),
        ("check = 'command'\ncommand = [«'x'»]", "absolute", "from the root"),
        ("path = «'/x'»", "without a `check`", "check = \"http\""),
        ("check = 'http'\npath = «'x'»", "no path", "/healthz"),
        ("check = 'http'\npath = «'/a b'»", "no path", "percent-encoded"),
        ("check = 'http'\nhost = «'a b'»", "no host", "a name"),
        ("check = 'http'\nhost = «'me@a'»", "no host", "a name"),
        ("check = 'http'\nstatus = «[]»", "empty", "at least one"),
        ("check = 'http'\nstatus = [«99»]", "not a status", "100 to 599"),
        ("check = 'http'\nstatus = [«'300-200'»]", "not a status", "ranges"),
        ("check = 'http'\nbody = «''»", "empty", "leave it out"),
        ("check = 'tcp'\ninterval = «'500ms'»", "longer than `interval`", "no longer"),
        ("check = 'tcp'\nport = «0»", "out of range", "1 to 65535"),
        ("check = 'tcp'\nrise = «0»", "out of range", "1 to 100"),
        ("check = 'tcp'\njitter = «'60%'»", "out of range", "0% to 50%"),
        ("check = 'tcp'\ngone_after = «'soon'»", "not a time", "1s to 1day"),
        ("check = 'tcp'\ninitial = «'off'»", "cannot be", "\"up\""),
        ("eject = { base = «'10m'» }", "longer than `longest`", "no longer"),
        ("eject = { most = «'0%'» }", "out of range", "1% to 100%"),
        ("eject = { consecutive = «0» }", "out of range", "1 to 1000000"),
        ("«paths» = '/x'\ncheck = 'http'", "unknown key", "`path`"),
        ("check = 'tcp'\n«every» = '1s'", "unknown key", "`interval`"),
    ] {
        one(&service(keys), message, help);
    }
    some(&format!("{SHORT}[service.web.health.canary]\n«track» = 1\n"));
}
