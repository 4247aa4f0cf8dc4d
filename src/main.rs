//! The `pinfold` command.

fn main() -> std::process::ExitCode {
    pinfold::cli::main()
}
