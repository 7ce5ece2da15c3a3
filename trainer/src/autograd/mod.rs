//! The tape: what a forward pass did, and how to take its gradient.
//!
//! candle's own `backward()` computes both operands' gradients of every product, so a frozen 7B decoder would pay half
//! again its arithmetic and hold a gradient per weight; and it hands gradients out only at the end, with nothing left
//! to overlap an all-reduce with. Here an op records what its backward needs, a frozen operand costs nothing, and a
//! parameter's gradient lands in its flat bucket as soon as it is known.

mod backward;
mod bucket;
mod error;
mod param;
mod tape;

pub use bucket::{ALIGNMENT, Bucket, Buckets, GradSink, Segment};
pub use error::{Error, Result};
pub use param::{Group, Param, Params};
pub use tape::{StepRng, Tape, Var};
