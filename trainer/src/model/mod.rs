//! The model: encoder, connector, emotion branch, decoder, and where their weights come from.

pub mod connector;
pub mod decoder;
pub mod echat;
pub mod emotion;
pub mod generate;
pub mod hubert;
pub mod weights;
