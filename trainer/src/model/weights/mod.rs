//! Weights: names ↔ files.
//!
//! A [`Checkpoint`] is what a Hugging Face or fairseq model leaves on disk; a [`Loader`] hands its tensors to a model builder
//! (or draws random ones), registers them as [`Param`](crate::autograd::Param)s, and knows at the end what was missing or
//! unused. The [`Manifest`] it leaves behind writes the parameters back under their files' names and layouts.
//! No pickle is ever executed: tensors are read from it, nothing else.

mod checkpoint;
mod error;
mod export;
mod fingerprint;
mod init;
mod layers;
mod loader;
mod names;
mod safetensors;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub(in crate::model) use export::write_json;
pub use export::{Layout, Manifest};
pub use fingerprint::{fingerprint, is_comparable};
pub use init::Init;
pub use loader::{Destination, Loaded, Loader, Report, load_by_name};
pub use names::{DECODER, HUBERT, Naming, VERBATIM};
