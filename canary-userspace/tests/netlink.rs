//! Next hops in real network namespaces: two hosts on a veth pair.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd as _,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use canary::netlink::{NextHop, Resolution, Resolver};
use tokio::time::{Instant, timeout, timeout_at};

const US_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PATIENCE: Duration = Duration::from_secs(3);
/// Longer than a burst and the way of a message, by far.
const QUIET: Duration = Duration::from_millis(300);

/// Two namespaces, `us` and `peer`, with `eth1` of the one on `eth1` of the
/// other. They go with it, also when the test panics.
struct Hosts {
    us: String,
    peer: String,
}

impl Hosts {
    fn new() -> Self {
        // SAFETY: reads a number.
        let user = unsafe { libc::geteuid() };
        assert_eq!(user, 0, "network namespaces need root: run `sudo cargo xtask test`");
        // Tests run side by side, and so may test programs.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = |host| {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            format!("cny-nl-{}-{count}-{host}", std::process::id())
        };
        let hosts = Self { us: name("us"), peer: name("peer") };
        for namespace in [&hosts.us, &hosts.peer] {
            ip(&format!("netns add {namespace}"));
            // Else IPv6 addresses wait a second for others to claim them.
            for key in ["all", "default"] {
                let file = format!("/proc/sys/net/ipv6/conf/{key}/accept_dad");
                in_namespace(namespace, || std::fs::write(file, "0").unwrap());
            }
        }
        let Self { us, peer } = &hosts;
        ip(&format!(
            "-n {us} link add eth1 address 02:00:00:00:00:01 mtu 1400 type veth \
             peer name eth1 address 02:00:00:00:00:02 netns {peer}"
        ));
        hosts.us("link set eth1 up");
        hosts.peer("link set eth1 up");
        hosts.us("addr add 10.9.0.1/24 dev eth1");
        hosts.us("addr add fd09::1/64 dev eth1 nodad");
        hosts.peer("addr add 10.9.0.2/24 dev eth1");
        hosts.peer("addr add fd09::2/64 dev eth1 nodad");
        hosts
    }

    fn us(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.us));
    }

    fn peer(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.peer));
    }

    fn ifindex(&self) -> u32 {
        in_namespace(&self.us, || {
            // SAFETY: a terminated string.
            unsafe { libc::if_nametoindex(c"eth1".as_ptr()) }
        })
    }

    /// Runs the test where `us` is. A netlink socket is of the namespace of
    /// the thread that opens it.
    fn run(&self, test: impl AsyncFnOnce(Resolver) + Send) {
        in_namespace(&self.us, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async { test(Resolver::new().unwrap()).await });
        });
    }

    /// What the kernel says of a neighbour of ours.
    fn shown(&self, neighbour: &str) -> String {
        ip(&format!("-n {} neigh show {neighbour} dev eth1", self.us))
    }

    fn next_hop(&self, next_hop_mac: [u8; 6]) -> Resolution {
        let ifindex = self.ifindex();
        Resolution::Resolved(NextHop { ifindex, own_mac: US_MAC, next_hop_mac, mtu: 1400 })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in [&self.us, &self.peer] {
            // What was not made cannot be deleted; that must not hide why.
            Command::new("ip").args(["netns", "del", namespace]).output().ok();
        }
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.expect("running `ip` (Debian: apt-get install iproute2)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// On a thread of its own, which ends there.
fn in_namespace<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: an open descriptor; changes this thread's namespace only.
            let failed = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0;
            assert!(!failed, "entering {name}: {}", std::io::Error::last_os_error());
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn unresolved(reason: &str) -> Resolution {
    Resolution::Unresolved { reason: reason.into() }
}

/// Follows the changes, as the daemon does, until the answer is the wanted one.
async fn becomes(resolver: &mut Resolver, backend: &str, wanted: &Resolution) {
    let deadline = Instant::now() + PATIENCE;
    let mut last = resolver.resolve(address(backend)).await.unwrap();
    while last != *wanted {
        let heard = timeout_at(deadline, resolver.changed()).await;
        assert!(heard.is_ok(), "{backend} stays {last:?}, not {wanted:?}");
        last = resolver.resolve(address(backend)).await.unwrap();
    }
}

/// Until nothing is heard of any more, so that what comes next is heard alone.
async fn settle(resolver: &mut Resolver) {
    let deadline = Instant::now() + PATIENCE;
    while timeout(QUIET, resolver.changed()).await.is_ok() {
        assert!(Instant::now() < deadline, "changes never end");
    }
}

#[test]
fn neighbours_are_asked_for_and_found() {
    let hosts = Hosts::new();
    let found = hosts.next_hop(PEER_MAC);
    hosts.run(async |mut resolver| {
        for backend in ["10.9.0.2", "fd09::2"] {
            let first = resolver.resolve(address(backend)).await.unwrap();
            assert_eq!(first, unresolved(&format!("{backend} does not answer on eth1")));
            becomes(&mut resolver, backend, &found).await;
        }
        // Nobody is there: stays so.
        let nobody = unresolved("10.9.0.77 does not answer on eth1");
        assert_eq!(resolver.resolve(address("10.9.0.77")).await.unwrap(), nobody);
        settle(&mut resolver).await;
        assert_eq!(resolver.resolve(address("10.9.0.77")).await.unwrap(), nobody);
    });
}

#[test]
fn behind_a_gateway_it_is_the_gateways_address() {
    let hosts = Hosts::new();
    let found = hosts.next_hop(PEER_MAC);
    hosts.us("route add 192.0.2.0/24 via 10.9.0.2");
    hosts.us("route add 198.51.100.0/24 via inet6 fd09::2 dev eth1");
    hosts.us("route add 2001:db8::/32 via fd09::2");
    hosts.run(async |mut resolver| {
        let first = resolver.resolve(address("192.0.2.7")).await.unwrap();
        assert_eq!(first, unresolved("10.9.0.2 does not answer on eth1"));
        becomes(&mut resolver, "192.0.2.7", &found).await;
        let first = resolver.resolve(address("198.51.100.7")).await.unwrap();
        assert_eq!(first, unresolved("fd09::2 does not answer on eth1"));
        becomes(&mut resolver, "198.51.100.7", &found).await;
        becomes(&mut resolver, "2001:db8::7", &found).await;
    });
}

#[test]
fn a_new_address_of_the_peer_is_heard_of() {
    let hosts = Hosts::new();
    let (old, new) = (hosts.next_hop(PEER_MAC), hosts.next_hop([2, 0, 0, 0, 0, 9]));
    // Else the kernel believes in no new address within a second of the last.
    let locktime = "/proc/sys/net/ipv4/neigh/eth1/locktime";
    in_namespace(&hosts.us, || std::fs::write(locktime, "0").unwrap());
    hosts.run(async |mut resolver| {
        becomes(&mut resolver, "10.9.0.2", &old).await;
        settle(&mut resolver).await;
        hosts.peer("link set eth1 address 02:00:00:00:00:09");
        // The peer speaks from its new address, as a host does that took over.
        hosts.peer("neigh flush dev eth1");
        hosts.peer("neigh replace 10.9.0.1 dev eth1 use");
        timeout(PATIENCE, resolver.changed()).await.expect("the change is told");
        assert_eq!(resolver.resolve(address("10.9.0.2")).await.unwrap(), new);
    });
}

#[test]
fn links_and_routes_that_go_are_heard_of() {
    let hosts = Hosts::new();
    let found = hosts.next_hop(PEER_MAC);
    hosts.run(async |mut resolver| {
        becomes(&mut resolver, "10.9.0.2", &found).await;
        hosts.peer("link set eth1 down");
        becomes(&mut resolver, "10.9.0.2", &unresolved("interface eth1 has no carrier")).await;
        hosts.peer("link set eth1 up");
        becomes(&mut resolver, "10.9.0.2", &found).await;
        hosts.us("link set eth1 down");
        becomes(&mut resolver, "10.9.0.2", &unresolved("no route to 10.9.0.2")).await;
        hosts.us("link set eth1 up");
        becomes(&mut resolver, "10.9.0.2", &found).await;
    });
}

#[test]
fn routes_that_lead_nowhere_say_why() {
    let hosts = Hosts::new();
    hosts.us("link set lo up");
    for (route, v4, v6) in [
        ("blackhole", "192.0.2.1", "2001:db8:1::1"),
        ("unreachable", "192.0.2.2", "2001:db8:2::1"),
        ("prohibit", "192.0.2.3", "2001:db8:3::1"),
    ] {
        hosts.us(&format!("route add {route} {v4}"));
        hosts.us(&format!("route add {route} {v6}"));
    }
    hosts.run(async |mut resolver| {
        for (backend, reason) in [
            ("192.0.2.1", "the route to 192.0.2.1 is a blackhole"),
            ("2001:db8:1::1", "the route to 2001:db8:1::1 is a blackhole"),
            ("192.0.2.2", "the route to 192.0.2.2 is of type unreachable"),
            ("2001:db8:2::1", "the route to 2001:db8:2::1 is of type unreachable"),
            ("192.0.2.3", "the route to 192.0.2.3 is of type prohibit"),
            ("2001:db8:3::1", "the route to 2001:db8:3::1 is of type prohibit"),
            ("203.0.113.1", "no route to 203.0.113.1"),
            ("2001:db8:9::1", "no route to 2001:db8:9::1"),
            ("10.9.0.1", "10.9.0.1 is an address of this host"),
            ("fd09::1", "fd09::1 is an address of this host"),
        ] {
            let found = resolver.resolve(address(backend)).await.unwrap();
            assert_eq!(found, unresolved(reason), "{backend}");
        }
    });
}

#[test]
fn an_interface_without_ethernet_is_named() {
    let hosts = Hosts::new();
    hosts.us("tuntap add tun1 mode tun");
    hosts.us("link set tun1 up");
    hosts.us("route add 192.0.2.0/24 dev tun1");
    hosts.run(async |mut resolver| {
        let found = resolver.resolve(address("192.0.2.1")).await.unwrap();
        let reason = "interface tun1 has no Ethernet address; only Ethernet is supported";
        assert_eq!(found, unresolved(reason));
    });
}

#[test]
fn refreshing_asks_again_and_confirms_without_news() {
    let hosts = Hosts::new();
    let found = hosts.next_hop(PEER_MAC);
    hosts.run(async |mut resolver| {
        becomes(&mut resolver, "10.9.0.2", &found).await;
        // Forgotten behind our back: asked for again, and heard of.
        hosts.us("neigh flush dev eth1");
        resolver.refresh(&[address("10.9.0.2"), address("203.0.113.1")]).await.unwrap();
        becomes(&mut resolver, "10.9.0.2", &found).await;
        settle(&mut resolver).await;
        // A confirmation of what was answered, and somebody nobody asked for,
        // are no news.
        hosts.us("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev eth1 nud stale");
        hosts.us("neigh replace 10.9.0.99 lladdr 02:00:00:00:00:63 dev eth1 nud reachable");
        assert!(timeout(QUIET, resolver.changed()).await.is_err(), "told of what did not change");
        // Losing the future, as `select!` does, loses no change.
        hosts.us("neigh del 10.9.0.2 dev eth1");
        timeout(Duration::from_millis(5), resolver.changed()).await.ok();
        timeout(PATIENCE, resolver.changed()).await.expect("the change is told");
    });
}

#[test]
fn refreshing_keeps_what_others_set_up() {
    let hosts = Hosts::new();
    let found = hosts.next_hop(PEER_MAC);
    // Nobody answers for these: who asks for a static one loses it.
    let fixed = ["10.9.0.50", "fd09::50"];
    for neighbour in fixed {
        hosts.us(&format!("neigh add {neighbour} lladdr 02:00:00:00:00:02 dev eth1 nud permanent"));
    }
    // A routing daemon's entry that nobody has used for long.
    let learned = "10.9.0.51";
    hosts.us(&format!(
        "neigh add {learned} lladdr 02:00:00:00:00:02 dev eth1 nud stale extern_learn"
    ));
    // One that the kernel keeps fresh by itself, here in vain.
    let managed = "10.9.0.52";
    in_namespace(&hosts.us, || {
        let setting = |name| format!("/proc/sys/net/ipv4/neigh/eth1/{name}");
        std::fs::write(setting("mcast_solicit"), "1").unwrap();
        std::fs::write(setting("retrans_time_ms"), "20").unwrap();
    });
    hosts.us(&format!("neigh add {managed} managed dev eth1"));
    let deadline = std::time::Instant::now() + PATIENCE;
    while !hosts.shown(managed).contains("FAILED") {
        assert!(std::time::Instant::now() < deadline, "{}", hosts.shown(managed));
        std::thread::sleep(Duration::from_millis(20));
    }
    hosts.run(async |mut resolver| {
        let backends = [fixed[0], fixed[1], learned, managed].map(address);
        resolver.refresh(&backends).await.unwrap();
        for neighbour in fixed {
            assert!(hosts.shown(neighbour).contains("PERMANENT"), "{}", hosts.shown(neighbour));
            assert_eq!(resolver.resolve(address(neighbour)).await.unwrap(), found);
        }
        // Asked for, and still the routing daemon's.
        let shown = hosts.shown(learned);
        assert!(shown.contains("extern_learn"), "{shown}");
        assert!(!shown.contains("STALE"), "not asked for: {shown}");
        resolver.resolve(address(managed)).await.unwrap();
        assert!(hosts.shown(managed).contains("managed"), "{}", hosts.shown(managed));
    });
}

#[test]
fn news_lost_in_a_flood_is_news() {
    let hosts = Hosts::new();
    let (old, new) = (hosts.next_hop(PEER_MAC), hosts.next_hop([2, 0, 0, 0, 0, 9]));
    let flood = std::env::temp_dir().join(format!("{}.flood", hosts.us));
    // Neighbours of others, more than a socket holds, and ours as the last.
    let lines: String = (0x1000..0x2000)
        .map(|host| format!("neigh add fd09::{host:x} lladdr 02:00:00:00:00:63 dev eth1\n"))
        .chain(["neigh replace 10.9.0.2 lladdr 02:00:00:00:00:09 dev eth1\n".into()])
        .collect();
    std::fs::write(&flood, lines).unwrap();
    hosts.run(async |mut resolver| {
        becomes(&mut resolver, "10.9.0.2", &old).await;
        settle(&mut resolver).await;
        // This thread is the one that would read the sockets.
        hosts.us(&format!("-batch {}", flood.display()));
        std::fs::remove_file(&flood).unwrap();
        timeout(PATIENCE, resolver.changed()).await.expect("the change is told");
        assert_eq!(resolver.resolve(address("10.9.0.2")).await.unwrap(), new);
    });
}
