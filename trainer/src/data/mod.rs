//! The data plane: from recordings and text to packed batches.

pub mod audio;
pub mod emotion;
pub mod manifest;
pub mod text;
