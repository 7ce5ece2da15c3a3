//! Lines on standard error.

use std::io::{self, Write};

/// Prints a line in one write, so that no line of another process comes between its parts (mpirun hands on what it finds, and has lines of its own). A closed standard
/// error is no error.
pub fn say(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Lines of a message joined by "; ".
pub fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        assert_eq!(one_line("a\n  b\n\nc\n"), "a; b; c");
    }
}
