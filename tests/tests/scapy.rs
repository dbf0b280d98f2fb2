//! An independent packet library as the witness: Scapy builds frames, and from
//! nothing the frames that must come out of them; the real program is run on
//! the former. The cases are in `tests/scapy/`, a file for each subject.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use canary_common::Track;
use canary_tests::{
    netns::{ifindex, in_new_namespace},
    plane::{BACKEND_MAC, INGRESS, NewBackend, OWN_MAC, PASS, Plane, REDIRECT, TX},
};
use serde_json::{Value, json};

/// Files of `tests/scapy/`.
const SUBJECTS: &[&str] =
    &["plain", "checksums", "foreign", "vlan", "headers", "fragments", "icmp_errors"];

/// The MAC that clients send to.
const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Nothing must expire between two steps of a case, however busy the machine.
const PATIENCE: u32 = 1_000_000;

/// VIP, backend, UDP, and whether the backend is behind another interface.
const SERVICES: [(&str, &str, bool, bool); 6] = [
    ("203.0.113.10:80", "10.0.0.11:8080", false, false),
    ("203.0.113.10:53", "10.0.0.12:5353", true, false),
    ("[2001:db8::10]:80", "[fd00::11]:8080", false, false),
    ("[2001:db8::10]:53", "[fd00:0:0:1::12]:5353", true, false),
    ("203.0.113.20:443", "192.168.255.254:65535", false, true),
    ("[2001:db8::20]:443", "[fd00:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:1", true, true),
];

struct Step {
    frame: Vec<u8>,
    action: String,
    /// `None`: as it went in.
    expected: Option<Vec<u8>>,
    reason: String,
}

struct Case {
    name: String,
    steps: Vec<Step>,
}

/// Python with the cases in it, at the other end of two pipes.
struct Scapy {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Scapy {
    fn start() -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/main.py");
        let mut child = Command::new(python()?)
            // -B: no compiled files among the sources.
            .arg("-B")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting Python")?;
        let to = child.stdin.take().context("Python's input")?;
        let from = BufReader::new(child.stdout.take().context("Python's output")?);
        Ok(Self { child, to, from })
    }

    fn tell(&mut self, what: &Value) -> Result<()> {
        writeln!(self.to, "{what}").context("Python went away; its words are above")
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line)?;
        ensure!(read > 0, "Python ended early; its words are above");
        serde_json::from_str(&line).with_context(|| format!("from Python: {line}"))
    }

    fn cases(&mut self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        loop {
            let line = self.hear()?;
            if let Some(done) = line["done"].as_u64() {
                ensure!(done == cases.len() as u64, "{} of {done} cases came", cases.len());
                return Ok(cases);
            }
            cases.push(Case::read(&line).with_context(|| format!("in {line}"))?);
        }
    }

    /// Where two frames differ, in Scapy's words.
    fn difference(&mut self, expected: &[u8], found: &[u8]) -> Result<String> {
        self.tell(&json!({"expected": hex(expected), "found": hex(found)}))?;
        let answer = self.hear()?;
        let lines = answer["difference"].as_array().context("no difference")?;
        Ok(lines.iter().map(|line| format!("    {}\n", line.as_str().unwrap_or("?"))).collect())
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Case {
    fn read(line: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
        let steps = line["steps"].as_array().context("no steps")?;
        ensure!(!steps.is_empty(), "a case without steps proves nothing");
        let steps = steps.iter().map(|step| {
            let expected = text(&step["expected"])?;
            Ok(Step {
                frame: unhex(&text(&step["frame"])?)?,
                action: text(&step["action"])?,
                expected: (expected != "untouched").then(|| unhex(&expected)).transpose()?,
                reason: text(&step["reason"])?,
            })
        });
        let name = format!("{}: {}", text(&line["subject"])?, text(&line["name"])?);
        Ok(Self { name, steps: steps.collect::<Result<_>>()? })
    }

    /// `None` where all is well. A failing step ends its case: the next ones
    /// build on it.
    fn run(&self, plane: &mut Plane, scapy: &mut Scapy) -> Result<Option<String>> {
        for (number, step) in self.steps.iter().enumerate() {
            let ran = plane.run(&step.frame).with_context(|| self.name.clone())?;
            let expected = step.expected.as_ref().unwrap_or(&step.frame);
            let (action, reason) = (action_name(ran.action), ran.reason.name());
            if action == step.action && reason == step.reason && ran.bytes == *expected {
                continue;
            }
            let mut text = format!(
                "{}, step {} of {}\n  expected {} ({}), found {action} ({reason})\n  in:\n{}",
                self.name,
                number + 1,
                self.steps.len(),
                step.action,
                step.reason,
                dump(&step.frame),
            );
            if ran.bytes == step.frame && step.expected.is_some() {
                write!(text, "  expected:\n{}  found: untouched\n", dump(expected))?;
            } else if ran.bytes != *expected {
                let words = scapy.difference(expected, &ran.bytes)?;
                write!(
                    text,
                    "  expected:\n{}  found:\n{}  difference:\n{words}",
                    dump(expected),
                    dump(&ran.bytes),
                )?;
            }
            return Ok(Some(text));
        }
        Ok(None)
    }
}

/// A Python that has Scapy: Debian's is for Debian's Python, which need not be
/// the first on the path.
fn python() -> Result<PathBuf> {
    for candidate in ["python3", "/usr/bin/python3"] {
        let mut probe = Command::new(candidate);
        probe.args(["-c", "import scapy.layers.inet6"]).stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            return Ok(candidate.into());
        }
    }
    bail!("no Python with Scapy (Debian: python3-scapy): run `cargo xtask setup`")
}

fn action_name(action: u32) -> &'static str {
    match action {
        PASS => "PASS",
        TX => "TX",
        REDIRECT => "REDIRECT",
        _ => "another action",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// Sixteen bytes a line, with their offset; the middle of a long frame is
/// left out.
fn dump(bytes: &[u8]) -> String {
    const LINES: usize = 16;
    let mut text = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate().take(LINES) {
        let words: Vec<_> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "    {:04x}  {}", line * 16, words.join(" "));
    }
    if bytes.len() > LINES * 16 {
        let _ = writeln!(text, "    …     {} bytes in all", bytes.len());
    }
    text
}

/// One stable backend for each service, so that the pick is certain.
fn configured(away: u32) -> Result<Plane> {
    let mut plane = Plane::new(65_536)?;
    plane.get().apply(&[canary::plan::Write::AllowInterface { ifindex: away }])?;
    for (number, (vip, address, udp, elsewhere)) in (1..).zip(SERVICES) {
        let (vip, address): (SocketAddr, SocketAddr) = (vip.parse()?, address.parse()?);
        plane.service(number, vip, udp, 0)?;
        plane.timeouts(number, PATIENCE)?;
        plane.backend(&NewBackend {
            number,
            service: number,
            track: Track::Stable,
            vip,
            address,
            udp,
            ifindex: if elsewhere { away } else { INGRESS },
            resolved: true,
            shares_with: None,
        })?;
        plane.weights(number, 0.0, &[number], &[])?;
    }
    Ok(plane)
}

/// What Python is told of that.
fn told() -> Result<Value> {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut services = Vec::new();
    for (vip, backend, udp, elsewhere) in SERVICES {
        let (vip, backend): (SocketAddr, SocketAddr) = (vip.parse()?, backend.parse()?);
        services.push(json!({
            "family": if vip.is_ipv4() { 4 } else { 6 },
            "protocol": if udp { "udp" } else { "tcp" },
            "vip": vip.ip().to_string(),
            "vip_port": vip.port(),
            "backend": backend.ip().to_string(),
            "backend_port": backend.port(),
            "action": if elsewhere { "REDIRECT" } else { "TX" },
        }));
    }
    Ok(json!({
        "subjects": SUBJECTS,
        "services": services,
        "ingress_mac": mac(INGRESS_MAC),
        "backend_mac": mac(BACKEND_MAC),
        "own_mac": mac(OWN_MAC),
    }))
}

/// Every case; the text of those that failed.
fn run() -> Result<String> {
    let mut scapy = Scapy::start()?;
    scapy.tell(&told()?)?;
    let cases = scapy.cases()?;
    ensure!(cases.len() >= 100, "only {} cases", cases.len());
    let mut plane = configured(ifindex("cny-a")?)?;
    let mut failures = Vec::new();
    for case in &cases {
        failures.extend(case.run(&mut plane, &mut scapy)?);
    }
    let steps: usize = cases.iter().map(|case| case.steps.len()).sum();
    let (failed, total) = (failures.len(), cases.len());
    eprintln!("{total} cases with {steps} frames, {failed} failed");
    Ok(failures.join("\n"))
}

#[test]
fn scapy_agrees() {
    let failures = in_new_namespace(["cny-a", "cny-b"], run).unwrap();
    assert!(failures.is_empty(), "Scapy expects something else:\n{failures}");
}
