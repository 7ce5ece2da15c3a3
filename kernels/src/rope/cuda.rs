//! Rotary embedding by kernels.

use candle_core::Tensor;

use super::{OP, Table};
use crate::Result;
use crate::cuda::{Call, empty, kept, suffix, tiles, upload};

pub(super) fn turn(x: &Tensor, positions: &[u32], table: &Table, back: bool) -> Result<Tensor> {
    let (rows, half, dtype) = (positions.len(), table.half, x.dtype());
    let heads = x.dims()[1];
    let y = empty(x.shape(), dtype, x)?;
    if y.elem_count() == 0 {
        return Ok(y);
    }
    let angles = kept(&table.device, x, || [&table.cos[..], &table.sin].concat())?;
    let positions = upload(positions, x)?;
    let name = format!("rope_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(&positions).tensor(&angles).tensor(&y);
    let call = call.u32(rows).u32(heads).u32(half).u32(table.positions).f32(if back { -1.0 } else { 1.0 });
    let (grid, threads) = tiles(rows, heads * half, dtype);
    call.launch(grid, threads, 0)?;
    Ok(y)
}
