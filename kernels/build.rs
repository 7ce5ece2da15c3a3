//! stand-in
use std::{env, fs, path::Path};
fn main() {
    let out = env::var("OUT_DIR").unwrap();
    let mut list = String::new();
    let root = env::var("CARGO_MANIFEST_DIR").unwrap();
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(1).define("ECHAT_EMULATE", None).flag("-fno-strict-aliasing").flag("-x").flag("c++").include("src/cuda").warnings(false).link_lib_modifier("+whole-archive");
    build.file("src/cuda/emulate.cpp");
    let mut names: Vec<_> = fs::read_dir("src").unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("kernel.cu").exists()).collect();
    names.sort();
    for p in names {
        let name = p.file_name().unwrap().to_str().unwrap().to_string();
        let cu = p.join("kernel.cu");
        build.file(&cu);
        list += &format!("Source {{ name: {name:?}, text: include_str!({:?}), image: None }},\n", Path::new(&root).join(&cu));
        println!("cargo:rerun-if-changed={}", cu.display());
    }
    println!("cargo:rerun-if-changed=src/cuda");
    fs::write(Path::new(&out).join("kernels.rs"), format!("pub(crate) static HEADER: &str = include_str!({:?});\npub(crate) static KERNELS: &[Source] = &[{list}];", Path::new(&root).join("src/cuda/common.cuh"))).unwrap();
    if env::var_os("CARGO_FEATURE_EMULATE").is_some() { build.compile("echat_emulated"); }
}
