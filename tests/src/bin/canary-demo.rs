//! A canary release on one machine, in two minutes: see `cargo xtask demo`.
#![allow(clippy::print_stdout, reason = "it is a show")]

use std::process::ExitCode;

fn main() -> ExitCode {
    match canary_tests::demo::main(std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
