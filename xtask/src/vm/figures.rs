//! What each kernel's verifier walked, beside what it walked before:
//! docs/kernels.json, and the table that docs/kernels.md has of it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{judge::Report, kernel::Kernel};
use crate::process::workspace;

/// Growth that is said loudly, in hundredths.
const LOUD: u64 = 10;
/// The verifier's limit: `BPF_COMPLEXITY_LIMIT_INSNS` of linux/bpf.h.
const LIMIT: u64 = 1_000_000;

const BEGIN: &str = "<!-- figures: `cargo xtask vm --kernel all --write` -->\n";
const END: &str = "<!-- end of figures -->";

/// One kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    release: String,
    /// Debian's version of the package.
    package: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    verified: BTreeMap<String, u64>,
    /// Of all programs, in QEMU; of no use but beside the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    load_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tests: Option<u64>,
}

/// By what kernels are asked for with.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<String, Row>);

impl Table {
    /// # Errors
    /// Where the file is not what [`Table::write`] writes.
    pub(super) fn read() -> Result<Self> {
        let path = json();
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let rows = serde_json::from_str(&text).with_context(|| {
            format!("{} is no table of kernels: restore it by git", path.display())
        })?;
        Ok(Self(rows))
    }

    /// What there is to say of a report beside the one before.
    pub(super) fn compare(&self, kernel: &Kernel, report: &Report) -> Vec<String> {
        let name = kernel.choice.name();
        let earlier = self.0.get(name).cloned().unwrap_or_default();
        let mut said =
            vec![format!("{name} ({}): loaded in {} ms", report.release, report.load_ms)];
        for (program, &count) in &report.verified {
            let before = earlier.verified.get(program).copied();
            said.push(format!("{name}: {program}: {}", versus(count, before)));
        }
        said
    }

    /// Takes a report in place of the one before.
    pub(super) fn take(&mut self, kernel: &Kernel, report: &Report) {
        let row = Row {
            verified: report.verified.clone(),
            load_ms: Some(report.load_ms),
            tests: Some(report.tests.passed),
            ..Row::of(kernel)
        };
        self.0.insert(kernel.choice.name().to_owned(), row);
    }

    /// The same of a kernel that does not load the program.
    pub(super) fn refused(&mut self, kernel: &Kernel, why: &str) {
        let row = Row { refused: Some(why.to_owned()), ..Row::of(kernel) };
        self.0.insert(kernel.choice.name().to_owned(), row);
    }

    /// Into both files.
    ///
    /// # Errors
    /// Where they can't be written, or docs/kernels.md has lost its marks.
    pub(super) fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0)?;
        fs::write(json(), text + "\n").context("writing docs/kernels.json")?;
        let page = workspace().join("docs/kernels.md");
        let text = fs::read_to_string(&page).context("reading docs/kernels.md")?;
        fs::write(&page, self.put_into(&text)?).context("writing docs/kernels.md")?;
        eprintln!("vm: wrote docs/kernels.json and the table of docs/kernels.md");
        Ok(())
    }

    fn put_into(&self, page: &str) -> Result<String> {
        let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
            let (_, after) = rest.split_once(END)?;
            Some((before, after))
        });
        ensure!(parts.is_some(), "docs/kernels.md has no place for the table: {BEGIN}{END}");
        let (before, after) = parts.unwrap_or_default();
        Ok(format!("{before}{BEGIN}{}{END}{after}", self.markdown()))
    }

    fn markdown(&self) -> String {
        let mut table =
            "| kernel | verified instructions | loading | tests |\n|---|---|---|---|\n".to_owned();
        for name in ["oldest", "6.1", "6.12", "newest"] {
            let Some(row) = self.0.get(name) else { continue };
            let verified: Vec<_> = row
                .verified
                .iter()
                .map(|(program, count)| format!("`{program}` {}", grouped(*count)))
                .collect();
            let verified = match &row.refused {
                // A verifier's words may hold what ends a cell.
                Some(why) => format!("does not load: {}", why.replace('|', "/")),
                None => verified.join(", "),
            };
            let loading = row.load_ms.map(|ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100));
            let tests = row.tests.map(|tests| format!("{tests} passed"));
            let [loading, tests] = [loading, tests].map(|cell| cell.unwrap_or_else(|| "–".into()));
            // Writing to a string does not fail.
            let _ =
                writeln!(table, "| {name}: {} | {verified} | {loading} | {tests} |", row.release);
        }
        table
    }
}

impl Row {
    fn of(kernel: &Kernel) -> Self {
        Self { release: kernel.release.clone(), package: kernel.version.clone(), ..Self::default() }
    }
}

/// A count beside the one before, and beside the limit.
fn versus(count: u64, before: Option<u64>) -> String {
    let share = count * 100 / LIMIT;
    let text = format!("{} instructions verified, {share} % of the limit", grouped(count));
    match before {
        None => format!("{text}; nothing to compare it with"),
        Some(before) if count * 100 > before * (100 + LOUD) => {
            format!("{text}; GROWN BY MORE THAN {LOUD} %, it was {}", grouped(before))
        }
        Some(before) => format!("{text}; it was {}", grouped(before)),
    }
}

/// 1,234,567
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn json() -> PathBuf {
    workspace().join("docs/kernels.json")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use super::{BEGIN, END, Kernel, Report, Table, grouped, versus};
    use crate::{summary::Summary, vm::kernel::Choice};

    fn kernel(choice: Choice) -> Kernel {
        let (release, version) = ("6.1.0-9".to_owned(), "6.1.27-1".to_owned());
        Kernel { choice, release, version, root: PathBuf::new() }
    }

    fn report(count: u64) -> Report {
        Report {
            release: "6.1.0-9".into(),
            load_ms: 1_950,
            verified: BTreeMap::from([("canary".to_owned(), count)]),
            tests: Summary { passed: 27, ..Summary::default() },
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (787_922, "787,922")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn growth_is_loud_from_a_tenth() {
        assert!(!versus(110_000, Some(100_000)).contains("GROWN"));
        assert!(versus(110_001, Some(100_000)).contains("GROWN"));
        assert!(!versus(90_000, Some(100_000)).contains("GROWN"));
        assert!(versus(5, None).contains("nothing to compare"));
    }

    #[test]
    fn a_report_is_compared_with_its_own_kernels() {
        let mut table = Table::default();
        table.take(&kernel(Choice::Old), &report(100_000));
        let said = table.compare(&kernel(Choice::Old), &report(120_000)).join("\n");
        assert!(said.contains("GROWN") && said.contains("1950 ms"), "{said}");
        let said = table.compare(&kernel(Choice::Middle), &report(120_000)).join("\n");
        assert!(said.contains("nothing to compare"), "{said}");
    }

    #[test]
    fn the_page_keeps_what_is_around_the_table() {
        let mut table = Table::default();
        table.take(&kernel(Choice::Old), &report(787_922));
        table.refused(&kernel(Choice::Oldest), "Arg#0 | no");
        let page = format!("before\n{BEGIN}old\n{END}\nafter\n");
        let new = table.put_into(&page).expect("it has its marks");
        assert!(new.starts_with("before\n") && new.ends_with("\nafter\n"), "{new}");
        assert!(new.contains("| 6.1: 6.1.0-9 | `canary` 787,922 | 1.9 s | 27 passed |"), "{new}");
        assert!(new.contains("does not load: Arg#0 / no | – | – |"), "{new}");
        assert!(!new.contains("old\n<!--"), "{new}");
        assert_eq!(table.put_into(&new).ok(), Some(new));
        assert!(table.put_into("nothing\n").is_err());
    }
}
