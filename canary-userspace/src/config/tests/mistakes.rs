//! Every mistake: that it is found, where, and what the help says.

use std::fmt::Write as _;

use super::{SHORT, bad, good, one, some};
use crate::config::{MAX_CONFIGURED_BACKENDS, check_host, parse};

/// [`SHORT`] with more at its end, which is inside of `[service.web]`.
fn web(more: &str) -> String {
    format!("{SHORT}{more}")
}

/// [`SHORT`] with more at its beginning.
fn top(more: &str) -> String {
    format!("{more}\n{SHORT}")
}

#[test]
fn unknown_keys() {
    one(&web("«wieght» = 1"), "unknown key `wieght`", "did you mean `weight`?");
    one(&top("«xdp-mode» = 'auto'"), "unknown key `xdp-mode`", "did you mean `xdp_mode`?");
    one(&web("«colour» = 1"), "unknown key `colour`", "`listen`, `protocol`");
    // The classic of TOML: below a table's header everything is the table's.
    one(&web("«flows» = 4096"), "unknown key `flows`", "at the top of the file");
    one(&top("«weight» = 1"), "unknown key `weight`", "in [service.NAME]");
    one(&top("«rollout» = 'auto'"), "unknown key `rollout`", "in [service.NAME]");
    // One letter off is nearer than a key of another table.
    one(&web("«timeout» = '1s'"), "unknown key `timeout`", "did you mean `timeouts`?");
    one(&top("metrics.«lisen» = 'off'"), "unknown key `lisen`", "`listen`?");
    one(&top("log.«level» = 'debug'"), "unknown key `level`", "`target` and `data_plane`");
    one(&top("timeouts.«establish» = '1h'"), "unknown key", "`established`?");
    one(&web("rollback.«enable» = true"), "unknown key", "`enabled`?");
    one(&web("canary = [{ address = '10.0.0.21:80', «wight» = 2 }]"), "unknown", "`weight`?");
    one(&web("[«services».api]\nlisten = 1"), "unknown key `services`", "`service`?");
}

#[test]
fn wrong_types() {
    one(
        "interfaces = «\"eth0\"»\n[service.web]\nlisten='1.0.0.1:80'\nstable=['10.0.0.1:80']",
        "`interfaces` is a string, not a list",
        "write interfaces = [\"eth0\"]",
    );
    one(&top("flows = «\"4096\"»"), "`flows` is a string", "write flows = 262144");
    one(&top("flows = «4096.5»"), "a number with decimals", "write flows = 262144");
    one(&top("socket = «7»"), "`socket` is a whole number", "\"/run/canary/canary.sock\"");
    one(&top("log = «\"journald\"»"), "not a table", "write [log]");
    one(&web("protocol = «6»"), "not a string", "\"tcp\"");
    one(&web("canary = «\"10.0.0.21:80\"»"), "not a list", "canary = [\"10.0.0.21:80\"]");
    one(&web("canary = [«8080»]"), "not a backend", "{ address =");
    one(&web("weight = «true»"), "not a share", "weight = \"5%\"");
    one(&web("weight = «2026-01-01»"), "is a date", "weight = \"5%\"");
    one(&web("rollback.enabled = «\"yes\"»"), "not true or false", "enabled = true");
    one(&web("timeouts.closing = «60»"), "not a time", "write closing = \"60s\"");
    one(&web("timeouts.closing = «1.5»"), "not a time", "write closing = ");
    one(
        "interfaces = ['eth0', «1»]\n[service.web]\nlisten='1.0.0.1:80'\nstable=['10.0.0.1:80']",
        "not a name",
        "[\"eth0\"]",
    );
    one("interfaces = ['eth0']\nservice = «5»", "not a table of services", "[service.web]");
    one(
        "interfaces = ['eth0']\n[[«service.web»]]\nstable = []"
            .replace("[[«service.web»]]", "[[service.«web»]]")
            .as_str(),
        "not a service",
        "[service.web]",
    );
    one("interfaces = ['eth0']\n[service]\n«listen» = '1.0.0.1:80'", "no name", "[service.web]");
}

#[test]
fn words() {
    one(&top("xdp_mode = «\"nativ\"»"), "cannot be \"nativ\"", "\"native\"");
    one(&top("xdp_mode = «\"hw\"»"), "`xdp_mode`", "\"auto\", \"native\" or \"generic\"");
    one(&web("protocol = «'sctp'»"), "`protocol`", "\"tcp\" or \"udp\"");
    one(&web("forward = «'dsr'»"), "`forward`", "\"nat\" is the only value yet");
    one(&web("affinity = «'source'»"), "`affinity`", "\"flow\" or \"client\"");
    one(&top("log.target = «'syslog'»"), "`target`", "\"stderr\" or \"journald\"");
}

#[test]
fn interfaces() {
    let with = |line: &str| SHORT.replace("interfaces = [\"eth0\"]", line);
    one(&with("interfaces = «[]»"), "is empty", "at least one");
    one(&with("interfaces = [\"eth0\", «\"eth0\"»]"), "twice", "line 1");
    one(&with("interfaces = [«\"a/b\"»]"), "cannot be an interface's name", "ip link");
    one(&with("interfaces = [«\"sixteen-letters-\"»]"), "cannot be", "up to 15");
    let found = bad(&with(""));
    assert_eq!((found[0].line, found[0].column, found[0].length), (1, 1, 0));
    assert_eq!(found[0].message, "`interfaces` is missing");
    assert_eq!(found.len(), 1);
}

#[test]
fn interface_that_does_not_exist() {
    let text = SHORT.replace("[\"eth0\"]", "[\"eth0\", \"ens33\", \"eht1\"]");
    let config = good(&text);
    let present = ["lo", "eth0", "eth1"].map(String::from);
    let mistakes = check_host(&config, &text, "canary.toml", &present).unwrap_err();
    let [first, second] = mistakes.mistakes.as_slice() else { panic!("{mistakes}") };
    assert_eq!((first.line, first.column, first.length), (1, 23, 7));
    assert_eq!(first.message, "this host has no interface \"ens33\"");
    assert_eq!(first.help, "write \"lo\", \"eth0\" or \"eth1\"");
    assert_eq!((second.line, second.column), (1, 32));
    assert!(second.help.starts_with("did you mean \"eth1\"?"), "{second:?}");
    let many: Vec<String> = (0..200).map(|n| format!("veth{n}")).collect();
    let mistakes = check_host(&config, &text, "canary.toml", &many).unwrap_err();
    assert_eq!(mistakes.mistakes.len(), 3);
    assert!(mistakes.mistakes[1].help.starts_with("write one of the 200 that"), "{mistakes}");
    let mistakes = check_host(&config, &text, "canary.toml", &[]).unwrap_err();
    assert!(mistakes.mistakes[0].help.contains("network namespace"), "{mistakes}");
    let present = ["eth0", "ens33", "eht1"].map(String::from);
    assert_eq!(check_host(&config, &text, "canary.toml", &present), Ok(()));
}

#[test]
fn numbers_and_paths_out_of_range() {
    one(&top("flows = «1023»"), "`flows` is 1023", "from 1024 to 8388608");
    one(&top("flows = «8_388_609»"), "out of range", "from 1024 to 8388608");
    one(&top("flows = «-1»"), "out of range", "from 1024");
    one(&top("flows = «99999999999999999999»"), "out of range", "from 1024");
    one(&top("bpffs = «'canary'»"), "not an absolute path", "/sys/fs/bpf/canary");
    one(&top("state_dir = «''»"), "not an absolute path", "/var/lib/canary");
    one(&top(&format!("socket = «'/{}'»", "x".repeat(107))), "longer than 107", "shorter");
    one(&top("socket_group = «''»"), "`socket_group` cannot be", "getent group");
    one(&top("read_group = «'a,b'»"), "`read_group` cannot be", "its number");
    one(&top("read_group = «998»"), "`read_group` is a whole number", "\"canary\"");
    for mode in ["660", "0o660", "0670", "1660", "66", "rw", "+660"] {
        if mode == "660" {
            good(&top(&format!("socket_mode = '{mode}'")));
        } else {
            one(&top(&format!("socket_mode = «'{mode}'»")), "`socket_mode` cannot", "\"0660\"");
        }
    }
    one(&top("socket_mode = «0o660»"), "not a string", "\"0660\"");
    let closed = top("read_group = 'watch'\nsocket_mode = «'0660'»");
    one(&closed, "\"watch\" cannot connect", "\"0666\"");
    one(&top("metrics.textfile = «'/tmp/canary.txt'»"), ".prom", "node_exporter");
    one(&top("metrics.textfile_interval = «'2h'»"), "too long", "1s to 1h");
    one(&top("metrics.histograms = «'fine'»"), "`histograms`", "\"coarse\"");
    one(&top("metrics.listen = «'127.0.0.1'»"), "has no port", "\"127.0.0.1:9871\"");
    one(&web("rollback.min_connections = «0»"), "out of range", "from 1 to 1000000");
    one(&web("rollback.max_excess = «'101%'»"), "over 100 %", "between 0% and 100%");
    one(&web("seed = «''»"), "0 bytes", "service's name");
}

#[test]
fn weights() {
    let canary = |weight: &str| web(&format!("canary = [\"10.0.0.21:80\"]\nweight = {weight}"));
    one(&canary("«\"150%\"»"), "`weight` is over 100 %", "between 0% and 100%");
    one(&canary("«100.1»"), "over 100 %", "between 0% and 100%");
    one(&canary("«-1»"), "is negative", "between 0% and 100%");
    one(&canary("«\"-0.5%\"»"), "is negative", "between 0% and 100%");
    one(&canary("«nan»"), "is not a share", "between 0% and 100%");
    one(&canary("«inf»"), "over 100 %", "between 0% and 100%");
    one(&canary("«\"5\"»"), "is not a share", "write \"5%\"");
    one(&canary("«\"five%\"»"), "is not a share", "for example \"5%\"");
    one(&canary("«\"1e1%\"»"), "is not a share", "for example \"5%\"");
    one(&canary("«0.000000001»"), "one part in 2^32", "0.0000001%");
    one(&web("weight = «\"5%\"»"), "above 0, but service `web` has no `canary`", "canary = [");
    one(&web("canary = []\nweight = «5»"), "has no `canary`", "canary = [");
    one(
        &web("canary = [{ address = \"10.0.0.21:80\", weight = 0 }]\nweight = «5»"),
        "only `canary` backends of weight 0",
        "weight = \"0%\"",
    );
    // The bad address is the mistake, not the weight.
    one(&web("canary = [«\"10.0.0.21\"»]\nweight = 5"), "has no port", ":8080");
}

#[test]
fn listeners() {
    let with = |listen: &str| SHORT.replace("\"203.0.113.10:80\"", listen);
    one(&with("«\"203.0.113.10\"»"), "has no port", "\"203.0.113.10:80\"");
    one(&with("«\"203.0.113.10:0\"»"), "port 0", "\"203.0.113.10:80\"");
    one(&with("«\"0.0.0.0:80\"»"), "unspecified", "203.0.113.10:80");
    one(&with("«\"224.0.0.9:80\"»"), "multicast", "203.0.113.10:80");
    one(&with("«\"255.255.255.255:80\"»"), "broadcast", "203.0.113.10:80");
    one(&with("«\"[::ffff:203.0.113.10]:80\"»"), "IPv4 address", "\"203.0.113.10:80\"");
    one(
        "interfaces = ['eth0']\n[service.«web»]\nstable = ['10.0.0.11:8080']",
        "service `web` has no `listen`",
        "listen = \"203.0.113.10:80\"",
    );
}

#[test]
fn same_listener_twice() {
    let api = |protocol: &str, listen: &str| {
        format!(
            "[service.api]\nprotocol = '{protocol}'\nlisten = {listen}\nstable = ['10.0.0.11:80']"
        )
    };
    one(
        &web(&api("tcp", "«\"203.0.113.10:80\"»")),
        "service `web` listens on 203.0.113.10:80 (tcp) already, on line 3",
        "another address",
    );
    good(&web(&api("udp", "\"203.0.113.10:80\"")));
    good(&web(&api("tcp", "\"203.0.113.10:81\"")));
    one(&format!("metrics.listen = «'203.0.113.10:80'»\n{SHORT}"), "`web` takes", "\"off\"");
}

#[test]
fn backends() {
    let with = |stable: &str| SHORT.replace("[\"10.0.0.11:8080\", \"10.0.0.12:8080\"]", stable);
    one(&with("«[]»"), "no backends", "stable = [\"10.0.0.11:8080\"]");
    one(
        "interfaces = ['eth0']\n[service.«web»]\nlisten = '203.0.113.10:80'",
        "service `web` has no `stable`",
        "stable = [\"10.0.0.11:8080\"]",
    );
    one(&with("[«\"10.0.0.11\"»]"), "has no port", "\"10.0.0.11:8080\"");
    one(&with("[\"10.0.0.11:8080\", «\"[2001:db8::1]:8080\"»]"), "is IPv6", "IPv4 address");
    one(&with("[«\"[::ffff:10.0.0.11]:8080\"»]"), "IPv4 address", "\"10.0.0.11:8080\"");
    one(&with("[«\"255.255.255.255:80\"»]"), "broadcast", "one host");
    one(&with("[«{ weight = 3 }»]"), "without `address`", "address = ");
    one(&with("[{ address = \"10.0.0.11:80\", weight = «1001» }]"), "1001", "from 0 to 1000");
    one(&with("[{ address = \"10.0.0.11:80\", weight = «-1» }]"), "-1", "from 0 to 1000");
    one(&with("«[{ address = \"10.0.0.11:80\", weight = 0 }]»"), "weight 0", "at least one");
    let v6 = SHORT.replace("\"203.0.113.10:80\"", "\"[2001:db8::10]:80\"");
    let v6 = v6.replace("\"10.0.0.11:8080\"", "«\"10.0.0.11:8080\"»");
    some(&v6.replace("\"10.0.0.12:8080\"", "«\"10.0.0.12:8080\"»"));
}

#[test]
fn duplicate_backends() {
    one(
        &web("").replace("\"10.0.0.12:8080\"", "«\"10.0.0.11:8080\"»"),
        "10.0.0.11:8080 stands twice in service `web`",
        "line 4",
    );
    one(&web("canary = [{ weight = 2, address = «\"10.0.0.12:8080\"» }]"), "twice", "line 4");
    // Behind two services is fine.
    good(&web("[service.api]\nlisten = '203.0.113.10:81'\nstable = ['10.0.0.11:8080']"));
}

#[test]
fn backend_that_is_a_listener() {
    one(&web("canary = [«\"203.0.113.10:80\"»]"), "where service `web` listens", "itself");
    one(
        &web("[service.api]\nlisten = '203.0.113.11:80'\nstable = [«'203.0.113.10:80'»]"),
        "where service `web` listens",
        "itself",
    );
    good(&web(
        "[service.api]\nprotocol='udp'\nlisten = '203.0.113.11:80'\nstable = ['203.0.113.10:80']",
    ));
}

#[test]
fn timeouts() {
    one(&web("timeouts.half_open = «\"500ms\"»"), "too short", "from 1s to 7days");
    one(&web("timeouts.established = «\"8days\"»"), "too long", "from 1s to 7days");
    one(&web("timeouts.closing = «\"0s\"»"), "too short", "1s");
    one(&web("timeouts.unanswered = «\"soon\"»"), "not a time", "\"30s\"");
    one(&web("timeouts.answered = «\"-5s\"»"), "not a time", "\"30s\"");
    one(&top("timeouts.closing = «\"8d\"»"), "too long", "7days");
    one(
        &web("timeouts.half_open = «\"3h\"»"),
        "`half_open` is longer than `established`",
        "no longer",
    );
    one(&web("timeouts.established = «\"5s\"»"), "`half_open` is longer", "no longer");
    one(
        &web("timeouts.answered = «\"5s\"»"),
        "`unanswered` is longer than `answered`",
        "no longer",
    );
    // A time that cannot be read is not compared.
    one(
        &web("timeouts.half_open = \"3h\"\ntimeouts.established = «\"99days\"»"),
        "too long",
        "7days",
    );
    // Said once, where it is written, not in every service that inherits it.
    one(&top("timeouts.half_open = «\"3h\"»"), "`half_open` is longer", "no longer");
}

#[test]
fn table_sizes() {
    one(&web("table_size = «16384»"), "16384, not a prime", "write 16411");
    one(&web("table_size = «131072»"), "over the limit of 131071", "write 131071");
    one(&web("table_size = «7»"), "below the least of 251", "write 251");
    one(&web("table_size = «-7»"), "out of range", "16381");
    let many: Vec<String> =
        (0..300).map(|n| format!("'10.1.{}.{}:80'", n / 200, n % 200)).collect();
    one(
        &web(&format!("table_size = «251»\ncanary = [{}]", many.join(","))),
        "less than the 300 backends",
        "write 30011",
    );
}

#[test]
fn service_names() {
    let named = |name: &str| SHORT.replace("service.web", &format!("service.{name}"));
    one(&named("«\"my web\"»"), "\"my web\" cannot be", "letters");
    one(&named("«\"-web\"»"), "cannot be", "beginning with");
    one(&named("«\"\"»"), "cannot be", "letters");
    one(&named("«\"wéb\"»"), "cannot be", "a to z");
    one(&named(&format!("«{}»", "x".repeat(64))), "cannot be", "63");
    good(&named(&"x".repeat(63)));
    good(&named("web-2_b"));
    // A dot makes a table in the service `web`.
    let found = bad(&named("web.v2"));
    assert!(found.iter().any(|m| m.message == "unknown key `v2`"), "{found:#?}");
}

#[test]
fn no_service() {
    let found = bad("interfaces = ['eth0']");
    assert_eq!(found[0].message, "no service is configured");
    one(
        "interfaces = ['eth0']\n[service]".replace("[service]", "«[service]»").as_str(),
        "no service",
        "[service.web]",
    );
}

#[test]
fn too_many_services() {
    let services = |count: usize, mark: Option<usize>| {
        let mut text = "interfaces = ['eth0']\n".to_owned();
        for n in 0..count {
            let name = if mark == Some(n) { format!("«s{n}»") } else { format!("s{n}") };
            let port = 1000 + n;
            writeln!(
                text,
                "[service.{name}]\nlisten = '203.0.113.10:{port}'\nstable = ['10.0.0.1:{port}']"
            )
            .unwrap();
        }
        text
    };
    good(&services(512, None));
    one(&services(514, Some(512)), "514 services are more than the 512", "remove");
}

#[test]
fn too_many_backends() {
    let backends = |count: usize, mark: Option<usize>| {
        let list: Vec<String> = (0..count)
            .map(|n| {
                let address = format!("'10.1.{}.{}:80'", n / 250, n % 250);
                if mark == Some(n) { format!("«{address}»") } else { address }
            })
            .collect();
        format!(
            "interfaces = ['eth0']\n[service.web]\nlisten = '203.0.113.10:80'\nstable = [{}]",
            list.join(",")
        )
    };
    good(&backends(MAX_CONFIGURED_BACKENDS, None));
    one(&backends(4099, Some(4096)), "4099 backends are more than the 4096", "remove");
}

#[test]
fn backend_behind_too_many_services() {
    let services = |count: usize, mark: Option<usize>| {
        let mut text = "interfaces = ['eth0']\n".to_owned();
        for n in 0..count {
            let shared = if mark == Some(n) { "«'10.0.0.1:80'»" } else { "'10.0.0.1:80'" };
            writeln!(
                text,
                "[service.s{n}]\nlisten = '203.0.113.10:{}'\nstable = [{shared}]",
                80 + n
            )
            .unwrap();
        }
        // The same place by another protocol is another backend.
        writeln!(
            text,
            "[service.u]\nprotocol = 'udp'\nlisten = '203.0.113.10:80'\nstable = ['10.0.0.1:80']"
        )
        .unwrap();
        text
    };
    good(&services(8, None));
    one(&services(10, Some(8)), "behind more than 8 services", "another port");
}

#[test]
fn not_toml() {
    one("interfaces = [\"eth0\"]\nflows = «auto»\nweight = 1\n[service.web]\n", "not TOML", "mend");
    let found = bad("interfaces = [\"eth0\"\n\n[service.web]\nlisten = 1\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].line <= 3, "{found:#?}");
    one(&web("listen = 1").replace("listen = 1", "«listen» = 1"), "duplicate key", "once");
    assert!(!bad("").is_empty());
}

#[test]
fn all_at_once_and_in_order() {
    let found = some(
        "\
flows = «10»
«interface» = [\"eth0\"]
interfaces = [«\"a b\"»]
metrics.listen = «\"9871\"»

[service.web]
listen = «\"203.0.113.10\"»
stable = «[]»
weight = «\"150%\"»
«colour» = \"blue\"

[service.«api»]
listen = \"[2001:db8::1]:443\"
canary = [«\"10.0.0.1:80\"», {address=\"[2001:db8::2]:80\"}, {address=«\"[2001:db8::2]:80\"»}]
table_size = «100»
timeouts.closing = «\"8 weeks\"»
",
    );
    assert_eq!(found.len(), 13);
}

#[test]
fn signals() {
    let found = some(
        "\
interfaces = [\"eth0\"]
signals = [\"latency\", «\"https\"»]

[service.web]
listen = \"203.0.113.10:80\"
stable = [\"10.0.0.11:80\"]
signals = [\"latency\", «\"http\"»]
",
    );
    assert_eq!(found.len(), 2);
}

#[test]
fn rendering() {
    let text = web("canary = [\"10.0.0.21:80\"]\n\tweight = \"150%\"\ncolour = 80\n");
    let mistakes = parse(&text, "/etc/canary/canary.toml").unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "\
/etc/canary/canary.toml:6:11: `weight` is over 100 %
    weight = \"150%\"
             ^^^^^^
  write a share between 0% and 100%, for example \"5%\"

/etc/canary/canary.toml:7:1: unknown key `colour`
    colour = 80
    ^^^^^^
  the keys in [service.NAME] are `listen`, `protocol`, `forward`, `stable`, `canary`, `weight`, \
`affinity`, `seed`, `table_size`, `timeouts`, `rollback`, `rollout`, `evidence`, `health`, `steer` and `signals`

2 mistakes; nothing was changed"
    );
    let json = serde_json::to_value(&mistakes).unwrap();
    assert_eq!(json["path"], "/etc/canary/canary.toml");
    assert_eq!(json["mistakes"][0]["line"], 6);
    assert_eq!(json["mistakes"][0]["column"], 11);
    let one = parse("«", "x").unwrap_err().to_string();
    assert!(one.ends_with("\n1 mistake; nothing was changed"), "{one}");
}

#[test]
fn rendering_of_a_long_line() {
    let many: Vec<String> = (1..200).map(|n| format!("\"10.0.1.{n}:80\"")).collect();
    let text = web(&format!("canary = [{}, \"10.0.2.1\"]", many.join(", ")));
    let rendered = parse(&text, "x").unwrap_err().to_string();
    let lines: Vec<&str> = rendered.lines().collect();
    assert!(lines[1].chars().count() < 110, "{rendered}");
    let start = lines[2].find('^').unwrap();
    let under: String = lines[1].chars().skip(start).take(10).collect();
    assert_eq!(under, "\"10.0.2.1\"", "{rendered}");
    assert_eq!(lines[2].matches('^').count(), 10);
}
