//! Layers on the tape: the only door from models to kernels. Every function here records its backward.

mod attention;
mod conv;
mod dropout;
mod embed;
pub mod ledger;
mod linear;
mod loss;
mod norm;
mod pool;
mod shape;

pub use attention::{AttentionArgs, attention, rope};
pub use conv::{PosConv, conv1d};
pub use dropout::{Dropout, Packed};
pub use embed::{embedding, gather_rows, replace_rows, zero_columns};
pub use linear::{Linear, activate, add_bias, linear, swiglu};
pub use loss::{CrossEntropy, LinearLoss, cross_entropy, linear_cross_entropy, row_normalize};
pub use norm::{ChannelNorm, LayerNorm, RmsNorm};
pub use pool::{layer_sum, mean_sum, stack_frames};
pub use shape::{add, reshape, scale, split_rows};

pub use echat_kernels::SeqLens;
pub use echat_kernels::activation::Activation;
