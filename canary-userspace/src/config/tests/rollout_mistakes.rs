//! Every mistake of rollouts, evidence, gates and hooks.

use std::fmt::Write as _;

use super::{SHORT, bad, one, some, with_canary};

/// Under `[service.web.rollout]`.
fn rollout(more: &str) -> String {
    with_canary(&format!("[service.web.rollout]\n{more}"))
}

fn evidence(more: &str) -> String {
    with_canary(&format!("[service.web.evidence]\n{more}"))
}

fn gate(more: &str) -> String {
    with_canary(&format!("[[service.web.rollout.gates]]\nname = \"errors\"\n{more}"))
}

fn hook(more: &str) -> String {
    with_canary(&format!("[[service.web.rollout.hooks]]\nname = \"chat\"\n{more}"))
}

#[test]
fn keys() {
    one(&rollout("«stratgy» = 'ab'"), "unknown key `stratgy`", "did you mean `strategy`?");
    one(&rollout("«split_» = 'ab'"), "unknown key", "`split`?");
    one(&rollout("«alpha» = '1%'"), "unknown key `alpha`", "in [evidence] or");
    one(&rollout("«enabled» = true"), "unknown key `enabled`", "in [rollback] or");
    one(&rollout("steps = [{ split = 1, for = '1m', «weight» = 5 }]"), "unknown", "`split`?");
    one(&rollout("steps = [{ split = 1, for = '1m', «setWeight» = 5 }]"), "unknown", "`split`?");
    one(&rollout("steps = [{ split = 1, for = '1m', «duration» = 5 }]"), "unknown", "`for`?");
    one(&gate("command = ['/x']\n«interval» = '1m'"), "unknown key `interval`", "`every`");
    one(&gate("command = ['/x']\n«on» = ['start']"), "unknown key `on`", "rollout.hooks]]");
    one(&hook("command = ['/x']\non = ['start']\n«every» = '1m'"), "unknown", "rollout.gates]]");
    one(&evidence("«resests» = {}"), "unknown key `resests`", "`resets`?");
    one(&evidence("«handshake_timeouts» = {}"), "unknown key", "`handshake-timeouts`?");
    one(&evidence("resets.«slower» = 2"), "unknown key `slower`", "in [evidence] or");
    one(&evidence("handshake.«ratio» = 2"), "unknown key `ratio`", "in [evidence] or");
    one(&format!("«steps» = []\n{SHORT}"), "unknown key `steps`", "in [service.NAME.rollout]");
}

#[test]
fn types() {
    one(&with_canary("rollout = «true»"), "not a strategy or a table", "rollout = \"auto\"");
    one(&with_canary("rollout = «'fast'»"), "`rollout` cannot be \"fast\"", "\"auto\", \"canary\"");
    one(&rollout("strategy = «'argo'»"), "`strategy` cannot be", "\"rolling\" or \"ab\"");
    one(&rollout("steps = «'5%'»"), "not a list", "write steps = [");
    one(&rollout("steps = [«5»]"), "not a step", "{ split = \"5%\", for = \"5m\" }");
    one(&rollout("steps = «[]»"), "`steps` is empty", "at least one");
    one(&rollout("on_timeout = «'stay'»"), "`on_timeout`", "\"hold\", \"rollback\" or");
    one(&rollout("on_rollback = «'kill'»"), "`on_rollback`", "\"drain\" or \"reset\"");
    one(&rollout("salt = «'a b'»"), "\"a b\" cannot be a salt", "letters");
    one(&rollout("salt = «''»"), "cannot be a salt", "63 at most");
    one(&rollout("gates = «{}»"), "not a list of tables", "[[service.NAME.rollout.gates]]");
    one(&rollout("hooks = [«'x'»]"), "not a table", "[[service.NAME.rollout.hooks]]");
    one(&with_canary("evidence = «'auto'»"), "not a table", "[evidence]");
    one(&evidence("resets = «2»"), "not a table", "resets = { ratio = 1.5 }");
    one(&evidence("first-byte = «2»"), "not a table", "first-byte = { slower = 1.5 }");
}

#[test]
fn times() {
    one(&rollout("deadline = «'30s'»"), "too short", "from 1m to");
    one(&rollout("deadline = «'never'»"), "not a time", "\"5m\" or \"2h 4m\"");
    one(&rollout("keep_old = «'31days'»"), "too long", "from 0s to 30days");
    one(&rollout("dead_man = «'1s'»"), "too short", "from 2s to 1h");
    one(&rollout("dead_man = «'61m'»"), "too long", "from 2s to 1h");
    one(&rollout("max_away = «'0s'»"), "too short", "from 1s to 1day");
    one(&rollout("steps = [{ split = 1, for = «'31days'» }]"), "too long", "30days");
    one(&rollout("strategy = 'rolling'\nfor = «60»"), "not a time", "for = \"60s\"");
    one(
        &rollout("steps = [{ split = 1, for = '2h', at_most = «'1h'» }]"),
        "`at_most` is shorter than `for`",
        "no shorter",
    );
    // A deadline that cannot be kept.
    one(
        &rollout("deadline = «'30m'»"),
        "the steps take 35m at the least, and `deadline` is 30m",
        "more than 35m",
    );
    one(
        &rollout("steps = «[{ split = 1, for = '2days' }]»"),
        "the steps take 2days at the least, and `deadline` is 1day",
        "deadline = \"off\"",
    );
    one(&rollout("strategy = 'rolling'\nfor = '1h'\ndeadline = «'1h'»"), "take 2h", "more than 2h");
    // A step that cannot be read has no time to add.
    one(
        &rollout("deadline = '1m'\nsteps = [{ split = 1, for = '1h' }, { split = 2, for = «1» }]"),
        "not a time",
        "\"1s\"",
    );
}

#[test]
fn steps() {
    let steps = |list: &str| rollout(&format!("steps = [{list}]"));
    one(&steps("«{ for = '1m' }»"), "a step without `split`", "write { split =");
    one(&steps("«{ split = 1 }»"), "a step without `for`", "until = \"safe\"");
    one(&steps("{ split = «'101%'», for = '1m' }"), "over 100 %", "between 0% and 100%");
    one(&steps("{ split = «1e-10», for = '1m' }"), "one part in 2^32", "0.0000001%");
    one(&steps("{ split = 1, for = '1m', until = «'done'» }"), "`until`", "\"safe\" or \"pause\"");
    one(
        &steps("{ split = '5%', for = '1m' }, { split = «'5%'», for = '1m' }"),
        "`split` is 5%, and 5% in the step before",
        "more than 5%",
    );
    one(
        &steps(
            "{ split = 7, for = '1m' }, { split = «0.3», for = '1m' }, { split = 8, for = '1m' }",
        ),
        "`split` is 0.3%, and 7% in the step before",
        "more than 7%",
    );
    one(
        &steps(
            "{ split = 100, for = '1m' }, { split = «100», for = '1m' }, { split = 5, for = '1m' }",
        ),
        "a step after one of 100%",
        "remove the steps",
    );
    one(
        &steps("{ split = 0, until = «'safe'» }"),
        "at a split of 0% the canary has no new connections",
        "until = \"pause\"",
    );
    one(
        &steps("{ split = 100, until = «'safe'» }"),
        "at a split of 100% stable has no new connections",
        "until = \"time\"",
    );
    let many = |count: u32| {
        let mut list = String::new();
        for n in 1..=count {
            let mark = if n == 101 { ("«", "»") } else { ("", "") };
            write!(list, "{}{{ split = {}, for = '1m' }}{},", mark.0, f64::from(n) / 2.0, mark.1)
                .unwrap();
        }
        steps(&list)
    };
    super::good(&many(100));
    one(&many(103), "103 steps are more than the 100", "remove those from here");
}

#[test]
fn safe_where_nothing_can_be_found_safe() {
    let steps =
        "rollout.steps = [{ split = 1, until = «'safe'» }, { split = 2, until = «'safe'» }]";
    for more in ["protocol = 'udp'", "evidence.watch = ['handshake']"] {
        let found = some(&with_canary(&format!("{more}\n{steps}")));
        assert!(found[0].message.contains("nothing can be found safe"), "{found:#?}");
    }
}

#[test]
fn strategies() {
    one(
        &rollout("strategy = 'rolling'\nsteps = «[{ split = 1, for = '1m' }]»"),
        "`steps` stands beside strategy = \"rolling\"",
        "the backends of `stable`",
    );
    one(&rollout("for = «'1m'»"), "`for` stands beside", "in each of the `steps`");
    one(&rollout("split = «'50%'»"), "`split` stands beside", "strategy = \"ab\"");
    one(
        &rollout("strategy = 'ab'\nsplit = «50»\nsteps = [{ split = 1, for = '1m' }]"),
        "`split` stands beside `steps`",
        "one of them",
    );
    for all in ["0%", "100%"] {
        one(
            &rollout(&format!("strategy = 'ab'\nsplit = «'{all}'»")),
            "one of the two versions without connections",
            "\"50%\"",
        );
    }
    // Which keys fit is not known while the strategy is not.
    one(&rollout("strategy = «'rollin'»\nfor = '1m'"), "`strategy`", "\"rolling\"");
    let stable: Vec<String> = (0..101).map(|n| format!("'10.1.0.{n}:80'")).collect();
    let many = |rollout: &str| {
        format!(
            "interfaces = ['eth0']\n[service.web]\nlisten = '203.0.113.10:80'\n\
             canary = ['10.0.0.21:80']\nstable = [{}]\n{rollout}",
            stable.join(",")
        )
    };
    let message = "each of the 101 backends of `stable`, more than the 100";
    one(&many("rollout = «'rolling'»"), message, "\"canary\"");
    one(&many("rollout = { strategy = «'rolling'» }"), message, "\"canary\"");
}

#[test]
fn between_rollout_and_service() {
    let web = |more: &str| format!("{SHORT}{more}");
    one(&web("rollout = «'auto'»"), "service `web` has no `canary`", "canary = [");
    one(
        &web("canary = [{ address = '10.0.0.21:80', weight = 0 }]\nrollout = «'auto'»"),
        "only `canary` backends of weight 0",
        "1 or more",
    );
    // The bad address is the mistake.
    one(&web("canary = [«'10.0.0.21'»]\nrollout = 'auto'"), "has no port", ":8080");
    one(
        &with_canary("weight = «'5%'»\nrollout = 'auto'"),
        "`weight` is above 0 beside a `rollout`",
        "`canary rollout start`",
    );
    super::good(&with_canary("weight = 0\nrollout = 'auto'"));
    some(&web("weight = «5»\nrollout = «'auto'»"));
    // The long form is pointed at as a whole.
    let found = bad(&web("[service.web.rollout]\nkeep_old = '2h'"));
    assert_eq!((found.len(), found[0].line), (1, 5), "{found:#?}");
}

#[test]
fn gates() {
    let ask = "prometheus = 'http://127.0.0.1:9090'";
    let found = bad(&gate(""));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].message, "a gate without `prometheus`, `webhook` or `command`");
    assert_eq!(found[0].line, 6);
    one(
        &gate("command = ['/x']\nwebhook = «'http://a/'»"),
        "`webhook` stands beside `command`",
        "two gates",
    );
    let found = bad(&gate(&format!("{ask}\nmax = 1")));
    assert_eq!(found[0].message, "a gate with `prometheus` and without `query`");
    let found = bad(&gate(&format!("{ask}\nquery = 'up'")));
    assert_eq!(found[0].message, "a gate without `max` or `min`");
    one(
        &gate(&format!("{ask}\nquery = 'up'\nmin = 1\nmax = «2»")),
        "`max` stands beside `min`",
        "two gates",
    );
    for key in ["query = «'up'»", "max = «1»", "min = «1»", "relative = «true»"] {
        one(&gate(&format!("{key}\ncommand = ['/x']")), "beside `command`", "only `prometheus`");
    }
    for number in ["nan", "-inf", "1e999"] {
        one(
            &gate(&format!("{ask}\nquery = 'up'\nmax = «{number}»")),
            "`max` is",
            "write a number, for example 0.01",
        );
    }
    one(&gate(&format!("{ask}\nquery = 'up'\nmax = «'1%'»")), "not a number", "max = 0.01");
    one(&gate(&format!("{ask}\nmax = 1\nquery = «' '»")), "`query` is empty", "one number");
    one(
        &gate(&format!("{ask}\nmax = 1\nquery = «'up{{v=\"{{{{ track }}}}\"}}'»")),
        "something else than track",
        "only {{track}}",
    );
    one(
        &gate(&format!("{ask}\nmax = 1\nrelative = true\nquery = «'up'»")),
        "the same for both versions",
        "write {{track}}",
    );
    one(
        &gate(&format!("{ask}\nmax = «0»\nrelative = true\nquery = 'up{{v=\"{{{{track}}}}\"}}'")),
        "0 times stable's value",
        "above 0",
    );
    one(&gate("command = ['/x']\nevery = «'0s'»"), "too short", "from 1s to 1h");
    one(&gate("command = ['/x']\ntimeout = «'2h'»"), "too long", "from 1s to 1h");
    one(&gate("command = ['/x']\nretries = «11»"), "out of range", "from 0 to 10");
    one(&gate("command = ['/x']\non_fail = «'stop'»"), "`on_fail`", "\"rollback\" or \"hold\"");
    one(&gate("command = ['/x']\non_missing = «'ok'»"), "`on_missing`", "\"pass\" or \"fail\"");
}

#[test]
fn urls() {
    let url = |url: &str| gate(&format!("webhook = «'{url}'»"));
    for (text, message) in [
        ("ftp://a/", "does not begin with http:// or https://"),
        ("127.0.0.1:9090", "does not begin with"),
        ("/x", "does not begin with"),
        ("prometheus", "does not begin with"),
        ("http://", "is not a URL"),
        ("http://:80/", "has no host"),
        ("http://a b/", "is not a URL"),
        ("", "is not a URL"),
        ("http://é/", "is not a URL"),
        ("http://a:0/", "has a port that does not exist"),
        ("http://a:70000/", "has a port that does not exist"),
        ("https://u:p@[::1]:x/", "has a port that does not exist"),
    ] {
        one(&url(text), message, "write for example \"http://127.0.0.1:9090\"");
    }
    for server in ["http://a/api/v1/query", "http://a/?query=up"] {
        one(
            &gate(&format!("prometheus = «'{server}'»\nquery = 'up'\nmax = 1")),
            "more than the address of a server",
            "the query in `query`",
        );
    }
}

#[test]
fn commands() {
    let command = |command: &str| gate(&format!("command = {command}"));
    one(&command("«'/x --fast'»"), "not a list", "command = [\"/x --fast\"]");
    one(&command("«[]»"), "`command` is empty", "the program's path");
    one(&command("[«'smoke'»]"), "\"smoke\" is not an absolute path", "from the root");
    one(&command("['/x', «5»]"), "not a string", "\"--fast\"");
    one(&command("['/x', «\"a\\u0000\"»]"), "a NUL", "no program");
}

#[test]
fn hooks() {
    let found = bad(&hook("command = ['/x']"));
    assert_eq!((found.len(), found[0].line), (1, 6), "{found:#?}");
    assert_eq!(found[0].message, "a hook without `on`");
    let found = bad(&hook("on = ['start']"));
    assert_eq!(found[0].message, "a hook without `webhook` or `command`");
    one(&hook("command = ['/x']\non = «[]»"), "`on` is empty", "\"before-start\"");
    one(&hook("command = ['/x']\non = «'start'»"), "not a list", "on = [\"start\"]");
    one(
        &hook("command = ['/x']\non = [«'before-rollback'»]"),
        "`on` cannot be \"before-rollback\"",
        "\"before-promotion\"",
    );
    one(
        &hook("on = ['start']\ncommand = ['/x']\nslack = «true»"),
        "`slack` stands beside `command`",
        "only `webhook`",
    );
    one(
        &hook("on = ['start']\nwebhook = 'http://a/'\nslack = «1»"),
        "not true or false",
        "slack = true",
    );
}

#[test]
fn names() {
    let found = bad(&with_canary("[[service.web.rollout.gates]]\ncommand = ['/x']"));
    assert_eq!(found[0].message, "a gate without `name`");
    let named = |name: &str| {
        with_canary(&format!("rollout.gates = [{{ name = {name}, command = ['/x'] }}]"))
    };
    one(&named("«'a b'»"), "cannot be a gate's name", "letters");
    one(&named(&format!("«'{}'»", "x".repeat(64))), "cannot be a gate's name", "63 at most");
    one(&named("«5»"), "not a string", "name = \"errors\"");
    one(
        &gate(
            "command = ['/x']\n[[service.web.rollout.hooks]]\non = ['start']\ncommand = ['/x']\nname = «'errors'»",
        ),
        "\"errors\" is the name of another gate or hook, on line 7",
        "another name",
    );
}

#[test]
fn too_many_gates_and_hooks() {
    let list = |kind: &str, more: &str, count: u32| {
        let mut list = format!("rollout.{kind} = [");
        for n in 0..count {
            let (open, close) = if n == 20 { ("«", "»") } else { ("", "") };
            write!(list, "{open}{{ name = 'n{n}', command = ['/x']{more} }}{close},").unwrap();
        }
        with_canary(&(list + "]"))
    };
    super::good(&list("gates", "", 20));
    one(&list("gates", "", 22), "22 gates are more than the 20", "remove");
    super::good(&list("hooks", ", on = ['start']", 20));
    one(&list("hooks", ", on = ['start']", 21), "21 hooks are more than the 20", "remove");
}

#[test]
fn levels_and_tolerances() {
    one(&evidence("alpha = «'0.00001%'»"), "`alpha` is out of range", "from 0.0001% to 20%");
    one(&evidence("beta = «'21%'»"), "`beta` is out of range", "for example \"5%\"");
    one(&evidence("alpha = «0.01»"), "`alpha` is 0.01 without a unit", "\"1%\"");
    one(&evidence("beta = «'x'»"), "is not a share", "between 0% and 100%");
    one(&evidence("ratio = «0.5»"), "`ratio` is 0.5, out of range", "from 1 to 100");
    one(&evidence("ratio = «'2'»"), "not a number", "ratio = 1.0");
    one(&evidence("safe_ratio = «101»"), "`safe_ratio` is 101", "from 1 to 100");
    one(&evidence("slower = «0»"), "`slower` is 0", "example 1.5");
    one(&evidence("margin = «'-1%'»"), "is negative", "between 0% and 100%");
    one(&evidence("resets.ratio = «1000»"), "`ratio` is 1000", "from 1 to 100");
    one(&evidence("first-byte.slower = «nan»"), "`slower` is nan", "from 1 to 100");
    one(
        &evidence("safe_margin = 0\nsafe_ratio = «1.0»"),
        "as good as stable is never found safe",
        "safe_ratio = 2.0",
    );
    one(
        &evidence("safe_ratio = 1\n5xx.safe_margin = «0»"),
        "never found safe",
        "safe_margin = \"0.1%\"",
    );
    one(&format!("evidence.alpha = «'50%'»\n{SHORT}"), "out of range", "20%");
}

#[test]
fn what_cannot_be_watched() {
    one(&evidence("watch = [«'404'»]"), "`watch` cannot be \"404\"", "\"5xx\"");
    one(&evidence("watch = «'resets'»"), "not a list", "watch = [\"resets\"]");
    let with =
        |more: &str, watch: &str| with_canary(&format!("{more}\nevidence.watch = [{watch}]"));
    one(
        &with("signals = ['latency']", "'resets', «'5xx'»"),
        "\"5xx\" is read from the signal \"http\", which is off here",
        "write \"http\" in `signals`",
    );
    let found = some(&with("signals = ['http']", "«'handshake'», «'first-byte'»"));
    assert!(found.iter().all(|mistake| mistake.message.contains("\"latency\"")), "{found:#?}");
    let tcp = "«'refused'», «'resets'», «'handshake-timeouts'», «'5xx'», «'handshake'»";
    let found = some(&with("protocol = 'udp'", &format!("{tcp}, 'first-byte'")));
    assert!(found.iter().all(|mistake| mistake.message.contains("UDP")), "{found:#?}");
    one(
        &with_canary("protocol = 'udp'\nevidence.resets = «{ ratio = 2 }»"),
        "cannot be seen of a UDP service",
        "\"first-byte\" only",
    );
    // At the top it is held against the signals of the top.
    one(
        &format!("signals = []\nevidence.watch = ['resets', «'5xx'»]\n{SHORT}"),
        "which is off here",
        "`signals`",
    );
}

#[test]
fn all_at_once() {
    let found = some(&rollout(
        "\
strategy = \"canary\"
split = «\"50%\"»
steps = [
    { split = \"5%\", for = \"5m\", «untill» = \"safe\" },
    { split = «\"4%\"», for = \"5m\" },
    { split = \"100%\", until = «\"safe\"» },
]
on_timeout = «\"wait\"»

[[service.web.rollout.gates]]
name = «\"errors!\"»
prometheus = «\"127.0.0.1:9090\"»
query = «\"\"»
max = «\"1%\"»

[service.web.evidence]
alpha = «0.05»
watch = [«\"latency\"»]
",
    ));
    assert_eq!(found.len(), 11);
}
