//! The `echat` binary.
fn main() {}
