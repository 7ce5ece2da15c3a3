//! Forward and backward of every operation echat trains with.
//!
//! An op is one folder: `mod.rs` checks shapes and dispatches on the device, `cpu.rs` computes, `reference.rs` is the
//! plain f64 definition of correct; `tests/<op>.rs` and `benches/<op>.rs` share the stem. Ops know tensors, not models
//! and not the tape. Accumulation is f32, storage f32 or bf16, and no result depends on the number of threads.
//!
//! Shapes are written as suffixes: `t` packed rows (frames or tokens), `d` width, `n` sequences, `h` heads, `v` vocabulary.

pub mod accumulate;
pub mod activation;
pub mod adamw;
pub mod attention;
pub mod channel_norm;
pub mod check;
pub mod conv1d;
pub mod cross_entropy;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub mod cuda;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod error;
pub mod gemm;
pub mod grad_norm;
pub mod layer_norm;
pub mod layer_sum;
pub mod linear;
pub mod linear_cross_entropy;
pub mod mean_pool;
pub mod parallel;
pub mod pos_conv;
pub mod readback;
pub mod rms_norm;
pub mod rng;
pub mod rope;
pub mod row_normalize;
pub mod rows;
pub mod seqlens;
pub mod sgd;
pub mod simd;
pub mod stack;
pub mod step_control;
pub mod swiglu;
pub mod tensor;
pub mod wave_norm;
pub mod weight_norm;

pub use error::{Error, MEMORY_ADVICE, MEMORY_FULL, Result};
pub use seqlens::SeqLens;
