//! Tensors on the CPU: memory that is first touched by the threads that write it, so that they share the page faults.

use bytemuck::Pod;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use half::vec::HalfBitsVecExt;

use super::{OP, STRETCH, Wanted};
use crate::parallel::for_rows;
use crate::{Error, Result};

pub(super) fn tensor(wanted: &Wanted, fill: impl Fn(usize, &mut [u8]) + Sync) -> Result<Tensor> {
    let (count, shape) = (wanted.count(), wanted.shape.as_slice());
    match wanted.dtype {
        DType::F32 => Ok(Tensor::from_vec(filled::<f32>(count, fill), shape, &Device::Cpu)?),
        DType::BF16 => {
            let bits: Vec<u16> = filled(count, fill);
            Ok(Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, &Device::Cpu)?)
        }
        dtype => Err(Error::DType { op: OP, dtype }),
    }
}

fn filled<T: Pod>(count: usize, fill: impl Fn(usize, &mut [u8]) + Sync) -> Vec<T> {
    // Zeros that the system gives: no page of a large one is touched yet.
    let mut values = vec![T::zeroed(); count];
    for_rows(bytemuck::cast_slice_mut(&mut values), 1, STRETCH, fill);
    values
}
