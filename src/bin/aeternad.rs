//! The supervisor: see aeternad(8).
fn main() -> std::process::ExitCode {
    aeterna::daemon::main()
}
