//! The command line from outside: output, one-line errors, exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

fn echat(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_echat")).args(args).current_dir(dir).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn no_command_is_wrong_usage() {
    let (code, out, err) = echat(Path::new("."), &[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("Usage: echat <COMMAND>"), "{err}");
}

#[test]
fn unknown_option_is_wrong_usage() {
    let (code, out, err) = echat(Path::new("."), &["config", "--desribe"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("--describe"), "{err}");
}

#[test]
fn config_describes_every_section() {
    let (code, out, err) = echat(Path::new("."), &["config", "--describe"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("## `[prompt]`") && out.contains("| `template` | string | "), "{out}");
}

#[test]
fn a_closed_reader_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_echat"))
        .args(["config", "--describe"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_wrong_key_is_one_line_and_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.toml"), "[prompt]\n\ntemplat = \"\"\n").unwrap();
    let (code, out, err) = echat(dir.path(), &["config", "x.toml"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "error: x.toml:3: unknown key `prompt.templat`; did you mean `prompt.template`?\n");
}

#[test]
fn a_missing_file_is_named_once() {
    let (code, _, err) = echat(Path::new("."), &["config", "none.toml"]);
    assert_eq!(code, 1);
    assert_eq!(err, "error: cannot read the configuration none.toml: No such file or directory (os error 2)\n");
}
