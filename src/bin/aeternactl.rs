//! The client: see aeternactl(1).
fn main() -> std::process::ExitCode {
    aeterna::ctl::main()
}
