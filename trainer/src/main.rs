//! The `echat` binary: parses, calls, prints errors.

use std::{
    io,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    process::ExitCode,
};

use clap::Parser;
use echat::cli::{self, Cli};
use echat::{one_line, say};

/// Tensors come and go every step: this allocator keeps their pages instead of returning them to the system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A bug in echat itself; other errors exit with 1, wrong usage with 2.
const BUG: u8 = 101;

fn main() -> ExitCode {
    panic::set_hook(Box::new(report_bug));
    let cli = Cli::parse();
    exit_code(|| cli::run(cli))
}

/// Runs the command and prints its error; a panic was already reported by the hook.
fn exit_code(run: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    // Nothing of the command is used after a panic.
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if reader_has_gone(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&format!("error: {}", one_line(&with_causes(&error))));
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::from(BUG),
    }
}

/// The error and its causes, joined by ": "; a cause that the message before already ends with is not said twice.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        said if said.ends_with(&cause) => text,
        said => format!("{said}: {cause}"),
    })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn exit_codes() {
        assert_eq!(exit_code(|| Ok(())), ExitCode::SUCCESS);
        assert_eq!(exit_code(|| Err(anyhow::anyhow!("wrong"))), ExitCode::FAILURE);
        assert_eq!(exit_code(|| Err(io::Error::from(io::ErrorKind::BrokenPipe).into())), ExitCode::SUCCESS);
        assert_eq!(exit_code(|| panic!("a bug")), ExitCode::from(101));
    }

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::anyhow!("disk full").context("cannot write x: disk full").context("saving step 3");
        assert_eq!(with_causes(&error), "saving step 3: cannot write x: disk full");
    }
}
