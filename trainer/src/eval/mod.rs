//! Measures of quality: character error rate, BLEU, emotion accuracy; and the decoding they need.

mod bleu;
mod cer;
mod decode;
mod emotion;
mod report;

pub use bleu::Bleu;
pub use cer::{EditCounts, Normalize, edits};
pub use decode::{Answer, Prompted, answer, prompt};
pub use emotion::Confusion;
pub use report::{Counts, Pairs, Report};
