//! Clients with a track of their own.

use canary_common::Track;

use super::{good, one, some, with_canary};

fn steer(more: &str) -> String {
    with_canary(&format!("[service.web.steer]\n{more}"))
}

#[test]
fn networks_and_addresses() {
    let config = good(&steer(
        "canary = ['192.0.2.0/24']\nalways = ['198.51.100.7']\nstable = ['192.0.2.128/25']\n",
    ));
    let shown: Vec<_> = config.services[0]
        .steer
        .iter()
        .map(|steer| (steer.clients.to_string(), steer.track, steer.always))
        .collect();
    assert_eq!(
        shown,
        [
            ("192.0.2.0/24".to_owned(), Track::Canary, false),
            ("198.51.100.7".to_owned(), Track::Canary, true),
            ("192.0.2.128/25".to_owned(), Track::Stable, false),
        ]
    );
    assert!(good(&steer("canary = []")).services[0].steer.is_empty());
}

#[test]
fn mistakes() {
    one(&steer("canary = [«'192.0.2.1/24'»]"), "the network is 192.0.2.0/24", "write a network");
    one(&steer("canary = [«'192.0.2.0/33'»]"), "at most 32", "write a network");
    one(&steer("canary = [«'localhost'»]"), "is no network", "192.0.2.0/24");
    one(&steer("canary = [«7»]"), "not a string", "192.0.2.0/24");
    one(&steer("canary = «'192.0.2.0/24'»"), "not a list", "[\"192.0.2.0/24\"]");
    one(&steer("stable = [«'2001:db8::/32'»]"), "other address family", "its own family");
    one(&steer("«cannary» = []"), "unknown key `cannary`", "`canary`?");
    let twice = some(&steer("canary = ['192.0.2.0/24']\nstable = [«'192.0.2.0/24'»]"));
    assert!(twice[0].help.contains("on line 7"), "{twice:?}");
    one(&with_canary("steer = «'192.0.2.0/24'»"), "not a table", "[steer]");
}
