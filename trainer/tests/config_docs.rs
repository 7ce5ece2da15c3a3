//! `configs/README.md` is what `echat config --describe` prints.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use echat::config::{RunConfig, describe_markdown};

#[test]
fn configs_readme_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/README.md");
    assert!(
        fs::read_to_string(path).unwrap() == describe_markdown::<RunConfig>(),
        "run: cargo run -p echat -- config --describe > configs/README.md"
    );
}
