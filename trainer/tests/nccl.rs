//! A real communicator of one rank: needs a GPU and NCCL.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, missing_docs)]

use echat::dist::{self, Collective, CollectiveKind, DistConfig, World, nccl};

#[test]
fn one_rank_sums_on_its_gpu() {
    let device = dist::device(&DistConfig::default(), &World::single("here")).unwrap();
    if !device.is_cuda() {
        println!("not run: no GPU");
        return;
    }
    let checked = nccl::check(&device).unwrap();
    println!("NCCL {}: waited {:?}", checked.version, checked.waited);
}

#[test]
fn one_rank_has_nccl_if_it_is_asked_for() {
    let config = DistConfig { collective: CollectiveKind::Nccl, ..DistConfig::default() };
    let job = |collective: &mut dyn Collective| {
        let device = dist::device(&config, collective.world())?;
        dist::attach(collective, &device, &config)
    };
    let notes = dist::run(World::single("here"), &config, job);
    if dist::device(&config, &World::single("here")).unwrap().is_cuda() {
        assert!(notes.unwrap()[0].starts_with("gradients of 1 rank are summed by NCCL 2."));
    } else {
        let said = notes.unwrap_err().to_string();
        assert!(said.contains("the ranks compute on the CPU"), "{said}");
        println!("not run: no GPU");
    }
}
