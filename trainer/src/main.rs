//! The `echat` binary: parses, calls, prints errors.

use std::{
    io::{self, Write},
    panic::{self, PanicHookInfo},
    process::ExitCode,
};

use clap::Parser;
use echat::cli::{self, Cli};

/// A bug in echat itself; other errors exit with 1, wrong usage with 2.
const BUG: u8 = 101;

fn main() -> ExitCode {
    panic::set_hook(Box::new(report_bug));
    let cli = Cli::parse();
    match panic::catch_unwind(|| cli::run(cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if reader_has_gone(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&format!("error: {}", one_line(&format!("{error:#}"))));
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::from(BUG),
    }
}

/// `echat config --describe | head` is no error.
fn reader_has_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe))
}

fn report_bug(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = one_line(message);
    say(&format!("error: a bug in echat at {place}: {message}; please report it with the command and this line"));
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// `eprintln!` would panic if standard error is closed.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
