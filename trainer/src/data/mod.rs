//! The data plane.

pub mod text;
