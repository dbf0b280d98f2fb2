//! User space alone, until the benchmark has it.

use anyhow::Result;

#[expect(clippy::print_stdout, reason = "its output is for people")]
fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    for section in canary_tests::bench::userspace::sections(quick)? {
        print!("{section}");
    }
    Ok(())
}
