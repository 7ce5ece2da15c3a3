//! Reading and writing the storage of candle tensors from op code, in f32 whatever the storage dtype.

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, Tensor};
use half::bf16;

use crate::parallel::{SERIAL_BELOW, for_rows};
use crate::simd::{from_bf16, run, to_bf16};
use crate::{Error, Result};

/// A contiguous CPU tensor's elements as f32: borrowed when stored so, converted when stored as bf16.
pub struct Read<'a> {
    source: Source<'a>,
}

enum Source<'a> {
    Borrowed { guard: Box<dyn Deref<Target = Storage> + 'a>, start: usize, end: usize },
    Owned(Vec<f32>),
}

impl Deref for Read<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &self.source {
            Source::Owned(v) => v,
            Source::Borrowed { guard, start, end } => match &***guard {
                Storage::Cpu(CpuStorage::F32(v)) => &v[*start..*end],
                _ => &[],
            },
        }
    }
}

/// Reads tensor `t` (CPU, contiguous, f32 or bf16) for op `op`.
pub fn read<'a>(op: &'static str, t: &'a Tensor) -> Result<Read<'a>> {
    let (guard, layout) = t.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Value { op, message: format!("operand of shape {:?} is not contiguous", t.shape()) });
    };
    let source = match &*guard {
        Storage::Cpu(CpuStorage::F32(_)) => Source::Borrowed { guard: Box::new(guard), start, end },
        Storage::Cpu(CpuStorage::BF16(v)) => Source::Owned(widened(&v[start..end])),
        Storage::Cpu(_) => return Err(Error::DType { op, dtype: t.dtype() }),
        _ => return Err(Error::Device { op, device: format!("{:?}", t.device()) }),
    };
    Ok(Read { source })
}

/// The elements of `t` (f32 or bf16) on the host, row-major. Waits for the device.
pub fn to_host(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Makes `values` the elements of the contiguous f32 tensor `t`, wherever it is. Views of the same storage see it.
pub fn from_host(t: &Tensor, values: &[f32]) -> Result<()> {
    expect_shape("from_host", "t", &t.flatten_all()?, &[values.len()])?;
    if t.device().is_cpu() {
        return with_mut("from_host", t, |t| t.copy_from_slice(values));
    }
    Ok(t.flatten_all()?.slice_set(&Tensor::from_slice(values, values.len(), t.device())?, 0, 0)?)
}

/// A CPU tensor of `shape` stored as `dtype` (f32 or bf16, rounded to nearest even) from f32 values.
pub fn write(op: &'static str, values: Vec<f32>, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let shape = shape.into();
    match dtype {
        DType::F32 => Ok(Tensor::from_vec(values, shape, &Device::Cpu)?),
        DType::BF16 => {
            let mut narrow = vec![bf16::ZERO; values.len()];
            round_to_bf16(&values, &mut narrow);
            Ok(Tensor::from_vec(narrow, shape, &Device::Cpu)?)
        }
        dtype => Err(Error::DType { op, dtype }),
    }
}

/// Each of `values` as f32.
fn widened(values: &[bf16]) -> Vec<f32> {
    let mut wide = vec![0.0; values.len()];
    for_rows(&mut wide, 1, SERIAL_BELOW, |first, wide| {
        let values = &values[first..][..wide.len()];
        run(
            #[inline(always)]
            || wide.iter_mut().zip(values).for_each(|(w, &v)| *w = from_bf16(v)),
        );
    });
    wide
}

/// Copies `values` to `narrow`, rounded to nearest even.
pub fn round_to_bf16(values: &[f32], narrow: &mut [bf16]) {
    for_rows(narrow, 1, SERIAL_BELOW, |first, narrow| {
        let values = &values[first..][..narrow.len()];
        run(
            #[inline(always)]
            || narrow.iter_mut().zip(values).for_each(|(n, &v)| *n = to_bf16(v)),
        );
    });
}

/// Errors unless `t` has exactly the shape `dims`.
pub fn expect_shape(op: &'static str, what: &'static str, t: &Tensor, dims: &[usize]) -> Result<()> {
    if t.dims() == dims {
        return Ok(());
    }
    Err(Error::Shape { op, what, expected: format!("{dims:?}"), got: t.shape().clone() })
}

/// The two dimensions of matrix `t`, or an error naming the operand.
pub fn dims2(op: &'static str, what: &'static str, t: &Tensor) -> Result<(usize, usize)> {
    match *t.dims() {
        [rows, cols] => Ok((rows, cols)),
        _ => Err(Error::Shape { op, what, expected: "[rows, columns]".into(), got: t.shape().clone() }),
    }
}

/// The rows and the width of `t` seen as a matrix whose columns are its last dimension.
pub fn as_rows(op: &'static str, what: &'static str, t: &Tensor) -> Result<(usize, usize)> {
    match t.dims() {
        [leading @ .., width] => Ok((leading.iter().product(), *width)),
        [] => Err(Error::Shape { op, what, expected: "[…, width]".into(), got: t.shape().clone() }),
    }
}

struct Mutate<F>(&'static str, RefCell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, usize, usize) -> candle_core::Result<()>> InplaceOp1 for Mutate<F> {
    fn name(&self) -> &'static str {
        self.0
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{}: operand is not contiguous", self.0)
        };
        match self.1.borrow_mut().take() {
            Some(f) => f(storage, start, end),
            None => candle_core::bail!("{}: called twice", self.0),
        }
    }
}

/// Gives `f` the elements of the contiguous f32 CPU tensor `t` to change in place. Views of the same storage see it.
/// `f` must not touch another tensor of that storage ([`distinct`]): it is locked meanwhile.
pub fn with_mut<R>(op: &'static str, t: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    mutate(op, t, |storage, start, end| match storage {
        CpuStorage::F32(v) => Some(f(&mut v[start..end])),
        _ => None,
    })
}

/// [`with_mut`] for bf16 storage.
pub fn with_mut_bf16<R>(op: &'static str, t: &Tensor, f: impl FnOnce(&mut [bf16]) -> R) -> Result<R> {
    mutate(op, t, |storage, start, end| match storage {
        CpuStorage::BF16(v) => Some(f(&mut v[start..end])),
        _ => None,
    })
}

/// [`with_mut`] for f64 storage.
pub fn with_mut_f64<R>(op: &'static str, t: &Tensor, f: impl FnOnce(&mut [f64]) -> R) -> Result<R> {
    mutate(op, t, |storage, start, end| match storage {
        CpuStorage::F64(v) => Some(f(&mut v[start..end])),
        _ => None,
    })
}

/// Runs `f` on the locked storage of `t`; its `None` means a dtype it does not take.
fn mutate<R>(op: &'static str, t: &Tensor, f: impl FnOnce(&mut CpuStorage, usize, usize) -> Option<R>) -> Result<R> {
    let mut result = None;
    t.inplace_op1(&Mutate(
        op,
        RefCell::new(Some(|storage: &mut CpuStorage, start, end| {
            result = f(storage, start, end);
            Ok(())
        })),
    ))?;
    result.ok_or_else(|| Error::DType { op, dtype: t.dtype() })
}

/// Errors if two of `tensors` are views of the same storage: locking one to change it would wait for the other forever.
pub fn distinct(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    let address = |t: &Tensor| std::ptr::from_ref::<Storage>(&t.storage_and_layout().0).addr();
    let mut addresses: Vec<usize> = tensors.iter().map(|t| address(t)).collect();
    addresses.sort_unstable();
    if addresses.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Value { op, message: "operands changed together must not share storage".into() });
    }
    Ok(())
}
