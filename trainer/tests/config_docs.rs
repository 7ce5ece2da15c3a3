//! `configs/README.md` and `configs/synth.md` are what `echat config --describe` prints.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use echat::config::{RunConfig, describe_markdown};
use echat::data::synth::config::SynthConfig;

fn is_current(name: &str, text: &str, kind: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    assert!(
        fs::read_to_string(path).unwrap() == text,
        "run: cargo run -p echat -- config --describe {kind} > configs/{name}"
    );
}

#[test]
fn configs_readme_is_current() {
    is_current("README.md", &describe_markdown::<RunConfig>(), "train");
}

#[test]
fn configs_synth_is_current() {
    is_current("synth.md", &describe_markdown::<SynthConfig>(), "synth");
}

#[test]
fn committed_configurations_of_the_builder_load() {
    for name in ["echat/synth.toml", "mini/synth.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
        SynthConfig::load(&path, &[]).unwrap();
    }
}
