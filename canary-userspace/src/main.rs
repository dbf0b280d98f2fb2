//! The `canary` binary: see [`canary::cli`].

fn main() -> std::process::ExitCode {
    canary::cli::main()
}
