//! NVIDIA's libraries, which the program is linked to or opens when it needs them (docs/cuda.md).

/// Whether library `name` is here, under one of the names by which cudarc opens it: without, cudarc panics.
pub(super) fn present(name: &str) -> bool {
    ["", ".13", ".12", ".11", ".10", ".1"].iter().any(|version| {
        // SAFETY: loading NVIDIA's libraries does nothing but set them up.
        #[allow(unsafe_code)]
        let library = unsafe { libloading::Library::new(format!("lib{name}.so{version}")) };
        library.is_ok()
    })
}
