//! The model: encoder, connector, emotion branch, decoder, and where their weights come from.

pub mod weights;
