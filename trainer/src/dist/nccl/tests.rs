//! What needs no GPU: a library that is missing, too old or broken, the words of NCCL's errors, ranks that do not go together.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::ffi::Library;
use super::gpu::{Gpu, compare};
use crate::dist::Error;

/// A library with NCCL's names, compiled with the macros of `defines`.
fn fake(defines: &[&str]) -> (TempDir, String) {
    let dir = TempDir::new().unwrap();
    let (source, path) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dist/nccl/fake.c"), dir.path().join("libnccl.so.2"));
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-Wall", "-Werror"]).args(defines).arg("-o").arg(&path).arg(source);
    assert!(command.status().unwrap().success(), "{command:?}");
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

/// What opening it says.
fn refused(names: &[&str]) -> String {
    match Library::open(names) {
        Ok(library) => panic!("opened NCCL {}", library.version()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_library_that_is_not_there_says_where_it_comes_from() {
    let said = refused(&["libnccl-of-nobody.so.2", "libnccl-of-nobody.so"]);
    for part in [
        "NCCL is missing",
        "LD_LIBRARY_PATH",
        "nvidia-nccl-cu13",
        "libnccl-of-nobody.so.2: ",
        "dist.collective = \"mpi\"",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn an_old_library_names_its_version() {
    for (code, version) in [("-DVERSION=21705", "2.17.5"), ("-DVERSION=2708", "2.7.8")] {
        let (_dir, path) = fake(&[code]);
        let said = refused(&[&path]);
        assert!(said.contains(&format!("{path} is NCCL {version}, and 2.18 or newer is needed")), "{said}");
    }
}

#[test]
fn a_library_without_a_function_names_it() {
    let (_dir, path) = fake(&["-DWITHOUT_FINALIZE"]);
    let said = refused(&[&path]);
    assert!(said.contains(&format!("{path} has no function ncclCommFinalize")), "{said}");
}

#[test]
fn the_first_library_there_is_is_taken() {
    let (_dir, path) = fake(&[]);
    assert_eq!(Library::open(&["libnccl-of-nobody.so.2", &path]).ok().unwrap().version(), "2.28.9");
}

#[test]
fn a_communicator_is_asked_for_as_the_header_says_and_is_ready_in_its_time() {
    let (_dir, path) = fake(&[]);
    let library = Library::open(&[&path]).ok().unwrap();
    let id = library.unique_id().unwrap();
    assert_eq!(id, std::array::from_fn(|i| i as u8));
    // The library compares each argument.
    let comm = library.connect(id, 3, 5).unwrap();
    assert!(!comm.is_ready("connecting").unwrap() && !comm.is_ready("connecting").unwrap());
    assert!(comm.is_ready("connecting").unwrap());
    comm.finalize().unwrap();
    let began = std::time::Instant::now();
    comm.abort(std::time::Duration::from_millis(200));
    assert!(began.elapsed().as_secs() < 2, "an end that takes long is not waited for");
}

#[test]
fn errors_are_nccls_own_words() {
    let (_dir, path) = fake(&["-DSTATE=6"]);
    let library = Library::open(&[&path]).ok().unwrap();
    let comm = library.connect(library.unique_id().unwrap(), 3, 5).unwrap();
    let error = (0..3).find_map(|_| comm.is_ready("all-reduce").err()).unwrap().to_string();
    assert_eq!(error, "NCCL: all-reduce: remote process exited (Connection closed by node7)");
    let error = library.connect([0; 128], 3, 5).err().unwrap().to_string();
    assert_eq!(error, "NCCL: connecting: invalid argument (the id)");
}

fn gpu(host: &str, uuid: &str, name: &str) -> Gpu {
    Gpu { host: host.into(), uuid: uuid.into(), name: name.into(), nccl: "2.28.9".into() }
}

#[test]
fn a_gpu_is_told_in_a_line() {
    let gpu = gpu("node7", "00ff", "NVIDIA H100 80GB HBM3");
    assert_eq!(Gpu::from_line(&gpu.to_line()), gpu);
}

#[test]
fn two_ranks_on_one_gpu_are_named() {
    // The same number on another host is another GPU: some systems give all of a kind one.
    let ranks =
        [gpu("node1", "a", "H100"), gpu("node2", "a", "H100"), gpu("node2", "b", "H100"), gpu("node2", "a", "H100")];
    let said = compare(&ranks).unwrap_err().to_string();
    assert!(said.starts_with("rank 1 and rank 3 on node2 have the same GPU (H100)"), "{said}");
    for part in ["mpirun --npernode", "CUDA_VISIBLE_DEVICES", "dist.collective = \"mpi\""] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(compare(&ranks[..3]).unwrap(), None);
}

#[test]
fn different_models_are_a_warning_with_their_hosts() {
    let ranks = [gpu("n1", "a", "H100"), gpu("n1", "b", "H100"), gpu("n2", "c", "A100"), gpu("n3", "d", "H100")];
    let said = compare(&ranks).unwrap().unwrap();
    assert!(said.starts_with("warning: ") && said.ends_with("A100 on n2; H100 on n1, n3"), "{said}");
}

#[test]
fn different_versions_are_an_error() {
    let old = Gpu { nccl: "2.21.5".into(), ..gpu("n2", "b", "H100") };
    let error = compare(&[gpu("n1", "a", "H100"), old]).unwrap_err();
    assert!(matches!(error, Error::NcclRanks(_)));
    assert_eq!(error.to_string(), "rank 0 on n1 has NCCL 2.28.9, rank 1 on n2 has 2.21.5: all ranks need the same");
}
