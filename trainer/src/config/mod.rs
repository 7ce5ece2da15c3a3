//! Configuration: a TOML file and `--set` arguments become one typed value.
//!
//! Every component owns its section beside its code, declared with [`section!`], which gives the struct, its defaults, strict
//! parsing and the documentation printed by `echat config --describe`. The root is a section of sections.
//!
//! Precedence: defaults < `base` files < the file < `--set section.key=value`; merged as TOML tables, parsed once.
//! `base = "other.toml"` (top level) names a file whose keys this one overrides, relative to the file that says it.
//! All other relative paths in a configuration are relative to the current working directory.

mod check;
mod describe;
mod error;
mod load;
mod markdown;
mod run;
mod section;
mod source;
#[cfg(test)]
mod tests;

pub use describe::{Describe, Field, Section, Shape};
pub use error::{ConfigError, Origin};
pub use load::{Loaded, load, load_text};
pub use markdown::describe_markdown;
pub use run::RunConfig;
pub(crate) use section::{choice, section};
