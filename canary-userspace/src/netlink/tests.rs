#![expect(clippy::unwrap_used, reason = "tests")]

use netlink_packet_core::{ErrorMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteLwEnCapType, RouteMessage, RouteType, RouteVia},
};

use rtnetlink::packet_utils::nla::DefaultNla;

use super::message::{self, Link, Neighbour};

const BACKEND: &str = "10.0.0.5";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];

fn route(kind: RouteType, attributes: &[RouteAttribute]) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.kind = kind;
    message.attributes = attributes.to_vec();
    message
}

fn neighbour_of(kind: RouteType, attributes: &[RouteAttribute]) -> Result<Neighbour, String> {
    message::neighbour_of(&route(kind, attributes), BACKEND.parse().unwrap())
}

fn neighbour(ifindex: u32, address: &str) -> Neighbour {
    Neighbour { ifindex, address: address.parse().unwrap() }
}

fn entry(state: NeighbourState, mac: &[u8]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = 3;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(BACKEND.parse().unwrap())),
        NeighbourAttribute::LinkLocalAddress(mac.to_vec()),
    ];
    message
}

fn link(kind: LinkLayerType, flags: LinkFlags, mac: &[u8]) -> Result<Link, String> {
    let mut message = LinkMessage::default();
    message.header.index = 3;
    message.header.link_layer_type = kind;
    message.header.flags = flags;
    message.attributes = vec![
        LinkAttribute::IfName("eth1".into()),
        LinkAttribute::Mtu(1400),
        LinkAttribute::Address(mac.to_vec()),
    ];
    message::link_of(&message)
}

#[test]
fn on_the_link_the_backend_itself_is_asked_for() {
    let found = neighbour_of(RouteType::Unicast, &[RouteAttribute::Oif(3)]);
    assert_eq!(found, Ok(neighbour(3, BACKEND)));
}

#[test]
fn behind_a_gateway_the_gateway_is_asked_for_in_its_family() {
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet("10.0.0.1".parse().unwrap()));
    let found = neighbour_of(RouteType::Unicast, &[gateway, RouteAttribute::Oif(3)]);
    assert_eq!(found, Ok(neighbour(3, "10.0.0.1")));

    let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
    let found = neighbour_of(RouteType::Unicast, &[RouteAttribute::Oif(4), via]);
    assert_eq!(found, Ok(neighbour(4, "fe80::1")));
}

#[test]
fn routes_that_lead_nowhere_say_why() {
    let out = RouteAttribute::Oif(3);
    for (kind, reason) in [
        (RouteType::Local, "10.0.0.5 is an address of this host"),
        (RouteType::BlackHole, "the route to 10.0.0.5 is a blackhole"),
        (RouteType::Unreachable, "the route to 10.0.0.5 is of type unreachable"),
        (RouteType::Prohibit, "the route to 10.0.0.5 is of type prohibit"),
        (RouteType::Broadcast, "the route to 10.0.0.5 is of type broadcast"),
    ] {
        assert_eq!(neighbour_of(kind, std::slice::from_ref(&out)), Err(reason.into()));
    }
    let none = neighbour_of(RouteType::Unicast, &[]);
    assert_eq!(none, Err("the route to 10.0.0.5 names no interface".into()));
    let mpls = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
    assert!(neighbour_of(RouteType::Unicast, &[out, mpls]).unwrap_err().contains("encapsulates"));
}

#[test]
fn error_numbers_of_routes_say_the_same_as_their_types() {
    let to = BACKEND.parse().unwrap();
    for (errno, reason) in [
        (libc::ENETUNREACH, "no route to 10.0.0.5"),
        (libc::EINVAL, "the route to 10.0.0.5 is a blackhole"),
        (libc::EHOSTUNREACH, "the route to 10.0.0.5 is of type unreachable"),
        (libc::EACCES, "the route to 10.0.0.5 is of type prohibit"),
    ] {
        assert_eq!(message::refused(errno, to), reason);
    }
    assert!(message::refused(libc::ENOBUFS, to).contains("No buffer space"));
}

#[test]
fn frames_leave_by_ethernet_that_is_up_and_has_a_carrier() {
    let ready = LinkFlags::Up | LinkFlags::LowerUp;
    let found = link(LinkLayerType::Ether, ready, &MAC);
    assert_eq!(found, Ok(Link { name: "eth1".into(), mac: MAC, mtu: 1400 }));
    let no_ethernet = "interface eth1 has no Ethernet address; only Ethernet is supported";
    for (kind, flags, mac, reason) in [
        (LinkLayerType::Ether, LinkFlags::empty(), &MAC[..], "interface eth1 is down"),
        (LinkLayerType::Ether, LinkFlags::Up, &MAC[..], "interface eth1 has no carrier"),
        (LinkLayerType::None, ready, &[][..], no_ethernet),
        (LinkLayerType::Loopback, ready, &[0; 6][..], no_ethernet),
        (LinkLayerType::Tunnel, ready, &[10, 0, 0, 1][..], no_ethernet),
    ] {
        assert_eq!(link(kind, flags, mac), Err(reason.into()), "{kind:?} {flags:?}");
    }
}

#[test]
fn a_mac_counts_only_in_a_usable_state() {
    use NeighbourState as State;
    for state in
        [State::Reachable, State::Stale, State::Delay, State::Probe, State::Permanent, State::Noarp]
    {
        assert_eq!(message::mac_of(&entry(state, &MAC)), Some(MAC), "{state}");
    }
    for state in [State::Incomplete, State::Failed, State::None, State::Other(0x300)] {
        assert_eq!(message::mac_of(&entry(state, &MAC)), None, "{state}");
    }
    assert_eq!(message::mac_of(&entry(State::Reachable, &MAC[..4])), None, "not Ethernet");
}

#[test]
fn only_what_faded_is_asked_for() {
    use NeighbourState as State;
    assert_eq!(message::flags_to_ask(None), Some(NeighbourFlags::Use), "not known yet");
    for state in [State::Stale, State::Failed, State::None] {
        let asked = message::flags_to_ask(Some(&entry(state, &MAC)));
        assert_eq!(asked, Some(NeighbourFlags::Use), "{state}");
    }
    for state in [
        State::Permanent,
        State::Noarp,
        State::Reachable,
        State::Delay,
        State::Probe,
        State::Incomplete,
    ] {
        assert_eq!(message::flags_to_ask(Some(&entry(state, &MAC))), None, "{state}");
    }
}

#[test]
fn who_set_an_entry_up_is_said_again_when_it_is_asked_for() {
    let mut learned = entry(NeighbourState::Stale, &MAC);
    // A router keeps being one without.
    learned.header.flags = NeighbourFlags::ExtLearned | NeighbourFlags::Router;
    let asked = Some(NeighbourFlags::Use | NeighbourFlags::ExtLearned);
    assert_eq!(message::flags_to_ask(Some(&learned)), asked);
}

#[test]
fn what_the_kernel_manages_is_left_to_it() {
    let with = |flags: u32| {
        let mut entry = entry(NeighbourState::Failed, &MAC);
        let value = flags.to_ne_bytes().to_vec();
        entry.attributes.push(NeighbourAttribute::Other(DefaultNla::new(15, value)));
        message::flags_to_ask(Some(&entry))
    };
    assert_eq!(with(1), None);
    assert_eq!(with(0b11), None);
    // Another flag.
    assert_eq!(with(0b10), Some(NeighbourFlags::Use));
    // Another attribute, and one cut short.
    for (kind, value) in [(14, vec![1, 0, 0, 0]), (15, vec![1])] {
        let mut entry = entry(NeighbourState::Failed, &MAC);
        entry.attributes.push(NeighbourAttribute::Other(DefaultNla::new(kind, value)));
        assert_eq!(message::flags_to_ask(Some(&entry)), Some(NeighbourFlags::Use), "{kind}");
    }
}

#[test]
fn news_matters_where_it_changes_an_answer() {
    use NeighbourState as State;
    let new = |state| RouteNetlinkMessage::NewNeighbour(entry(state, &MAC));
    let gone = || RouteNetlinkMessage::DelNeighbour(entry(State::Stale, &MAC));
    let other = Some([2; 6]);
    for (news, told, matters) in [
        (new(State::Reachable), None, false),
        (new(State::Reachable), Some(None), true),
        (new(State::Reachable), Some(Some(MAC)), false),
        (new(State::Reachable), Some(other), true),
        (new(State::Failed), Some(Some(MAC)), true),
        (new(State::Failed), Some(None), false),
        (gone(), Some(Some(MAC)), true),
        (gone(), Some(None), false),
    ] {
        let payload = NetlinkPayload::InnerMessage(news);
        let asked = |about: &Neighbour| {
            assert_eq!(*about, neighbour(3, BACKEND));
            told
        };
        assert_eq!(message::matters(&payload, asked), matters, "{payload:?} after {told:?}");
    }
}

#[test]
fn routes_links_and_lost_news_always_matter() {
    for payload in [
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(RouteMessage::default())),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage::default())),
        NetlinkPayload::Overrun(Vec::new()),
        NetlinkPayload::Error(ErrorMessage::default()),
    ] {
        assert!(message::matters(&payload, |_| None), "{payload:?}");
    }
}
