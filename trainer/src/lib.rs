//! echat: trains speech LLMs data-parallel.

pub mod autograd;
