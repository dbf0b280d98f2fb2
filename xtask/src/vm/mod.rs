//! `cargo xtask vm`: the program in other kernels, each in a virtual machine.
//!
//! Debian's kernels are fetched and unpacked into `target/vm`, booted with an
//! initramfs that holds the tests, and judged by what their guest reports.

mod boot;
mod debian;
mod figures;
mod initramfs;
mod judge;
mod kernel;

use std::{fs, path::PathBuf, sync::Mutex, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{cargo, run, workspace},
    setup,
    summary::Summary,
};
use boot::{Accelerator, Machine};
use judge::{Report, Verdict};
pub(crate) use kernel::Choice;
use kernel::Kernel;

/// How the virtual machines are run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which kernels: 6.1, 6.12, oldest, newest, or all
    #[arg(long = "kernel", value_enum, default_values = ["6.1", "6.12"])]
    kernels: Vec<Choice>,
    /// Leave the initramfs in target/vm, to boot it by hand
    #[arg(long)]
    keep: bool,
    /// Write the figures into docs/kernels.json and docs/kernels.md
    #[arg(long)]
    write: bool,
    /// Seconds until a guest that has not reported counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs())]
    timeout: u64,
}

/// Some five times what a guest takes without KVM on an idle machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// What CI runs.
const OF_CI: [Choice; 2] = [Choice::Old, Choice::Middle];

/// Of a guest that is to do nothing, or to panic.
const SHORT: Duration = Duration::from_secs(60);

/// Builds what the guests run, boots them, and prints how many of their tests
/// passed.
///
/// # Errors
/// Where a kernel can't be had, or its guest does not report success.
pub(crate) fn vm(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    // As the tests do it: what they built is not built again.
    run(cargo().args(["build", "--workspace"]))?;
    let sum = all(arguments)?;
    println_now(&format!("\n{sum}"));
    ensure!(sum.failed == 0, "a kernel failed");
    Ok(())
}

/// The kernels that are part of CI, once everything is built. One that can't be
/// had is a failure like any other.
pub(crate) fn of_ci() -> Summary {
    let arguments = Arguments {
        kernels: OF_CI.to_vec(),
        keep: false,
        write: false,
        timeout: PATIENCE.as_secs(),
    };
    all(&arguments).unwrap_or_else(|error| {
        eprintln!("vm: {error:#}");
        Summary { failed: 1, ..Summary::default() }
    })
}

fn all(arguments: &Arguments) -> Result<Summary> {
    setup::for_vm()?;
    fs::create_dir_all(directory()).context("making target/vm")?;
    let choices = Choice::each(&arguments.kernels);
    let kernels = debian::fetch(&choices)?;
    let files = initramfs::Files::build()?;
    let patience = Duration::from_secs(arguments.timeout);
    let first = kernels.first().context("no kernel was asked for")?;
    let machine = Machine { accelerator: Accelerator::Emulated, files: &files, patience };
    let accelerator = machine.accelerator(first)?;
    let machine = Machine { accelerator, ..machine };
    drill(&machine, first)?;

    let verdicts = boot_each(&machine, &kernels);
    let mut sum = Summary::default();
    let mut measured = figures::Table::read()?;
    for (kernel, verdict) in kernels.iter().zip(verdicts) {
        sum += judged(kernel, verdict, &mut measured);
    }
    if arguments.write && sum.failed == 0 {
        measured.write()?;
    }
    if !arguments.keep {
        initramfs::remove(&kernels)?;
    }
    Ok(sum)
}

/// That a guest that panics fails: else none of what follows would mean a thing.
fn drill(machine: &Machine<'_>, kernel: &Kernel) -> Result<()> {
    let (text, end) = machine.boot(kernel, "panic", SHORT, &|_| ())?;
    let said = "VM panics now";
    ensure!(text.contains(said), "the guest that was to panic did not come so far: {end}\n{text}");
    let verdict = judge::judge(&text, &end);
    ensure!(
        matches!(verdict, Verdict::Failed(_)),
        "a guest that panicked was not taken for failed: {verdict:?}\n{text}"
    );
    eprintln!("vm: {}: a guest that panics fails, as it must", kernel.release);
    Ok(())
}

/// As many at once as there are processors: without KVM each takes one.
fn boot_each(machine: &Machine<'_>, kernels: &[Kernel]) -> Vec<Verdict> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(kernels.len());
    let left = Mutex::new(kernels.iter().enumerate());
    let verdicts = Mutex::new(vec![Verdict::Failed("it was not booted".into()); kernels.len()]);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    // In a statement of its own, so that the lock is given back.
                    let next = left.lock().ok().and_then(|mut left| left.next());
                    let Some((number, kernel)) = next else { return };
                    let verdict = boot_one(machine, kernel);
                    if let Ok(mut verdicts) = verdicts.lock() {
                        verdicts[number] = verdict;
                    }
                }
            });
        }
    });
    verdicts.into_inner().unwrap_or_default()
}

fn boot_one(machine: &Machine<'_>, kernel: &Kernel) -> Verdict {
    let name = kernel.choice.name();
    let show = |line: &str| {
        if judge::is_told(line) {
            println_now(&format!("{name}: {line}"));
        }
    };
    match machine.boot(kernel, "run", machine.patience, &show) {
        Ok((text, end)) => judge::judge(&text, &end),
        Err(error) => Verdict::Failed(format!("{error:#}")),
    }
}

/// What a guest's verdict adds to the sum, said and compared.
fn judged(kernel: &Kernel, verdict: Verdict, table: &mut figures::Table) -> Summary {
    let name = kernel.choice.name();
    let failed = |why: String| {
        eprintln!("vm: {name} ({}): FAILED: {why}", kernel.release);
        show_end(kernel);
        Summary { failed: 1, ..Summary::default() }
    };
    let report: Report = match verdict {
        Verdict::Failed(why) => return failed(why),
        Verdict::Refused(why) if kernel.choice.is_refused() => {
            eprintln!("vm: {name} ({}) does not load it, as expected: {why}", kernel.release);
            table.refused(kernel, &why);
            return Summary::default();
        }
        Verdict::Refused(why) => return failed(format!("the program does not load: {why}")),
        Verdict::Passed(report) => report,
    };
    for line in table.compare(kernel, &report) {
        eprintln!("vm: {line}");
    }
    table.take(kernel, &report);
    eprintln!("vm: {name} ({}): {}", kernel.release, report.tests);
    report.tests
}

/// The last lines of what a guest said: where CI runs, nobody can look into the
/// log.
fn show_end(kernel: &Kernel) {
    const LINES: usize = 40;
    let log = kernel.log();
    let text = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        eprintln!("{}| {line}", kernel.choice.name());
    }
    eprintln!("vm: {}: the whole of it is in {}", kernel.choice.name(), log.display());
}

/// Where kernels, initramfs and logs are.
fn directory() -> PathBuf {
    workspace().join("target/vm")
}

fn println_now(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // Whoever closed our output does not want to hear of it.
    writeln!(out, "{text}").and_then(|()| out.flush()).ok();
}
