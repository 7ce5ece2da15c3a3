//! One launch of a kernel.

use std::ffi::c_void;

use candle_core::{CpuStorage, DType, Storage, Tensor};

use super::together;
use crate::{Error, Result};

/// Which kernel: the folder of its op, and its name there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel<'a> {
    /// The op, for messages.
    pub op: &'static str,
    /// The folder whose `kernel.cu` it is in.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub module: &'static str,
    /// Its name.
    pub name: &'a str,
}

/// What an argument is. The numbers are those of `emulate.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    U32 = 1,
    F32 = 3,
    U64 = 4,
    F64 = 6,
    F32s = 11,
    Bf16s = 12,
    U32s = 13,
    I64s = 14,
    U8s = 15,
    F64s = 16,
    ManyF32s = 21,
    ManyBf16s = 22,
}

/// Tensors that one argument names at most, as in `common.cuh`.
const MAX_TENSORS: usize = 64;

/// A kernel's arguments in the making.
pub(crate) struct Call<'a> {
    kernel: Kernel<'a>,
    tensors: Vec<&'a Tensor>,
    kinds: Vec<Kind>,
    /// Each argument in the first bytes of a word, or in several words.
    words: Vec<u64>,
    /// The word each begins in.
    starts: Vec<usize>,
    error: Option<Error>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(op: &'static str, module: &'static str, name: &'a str) -> Self {
        let kernel = Kernel { op, module, name };
        let (tensors, kinds, words, starts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { kernel, tensors, kinds, words, starts, error: None }
    }

    /// The address of the elements of `t`, which is contiguous. Kernels may write to it: views of the same storage see that.
    pub(crate) fn tensor(mut self, t: &'a Tensor) -> Self {
        match address(self.kernel.op, t) {
            Ok((kind, word)) => {
                self.tensors.push(t);
                self.push(kind, word)
            }
            Err(e) => {
                self.error.get_or_insert(e);
                self
            }
        }
    }

    /// [`Call::tensor`] where a kernel takes one dtype alone.
    pub(crate) fn of(self, t: &'a Tensor, dtype: DType) -> Self {
        self.maybe(Some(t), dtype)
    }

    /// The address of the elements of `t`, or null where a kernel takes one of `dtype` or none.
    pub(crate) fn maybe(self, t: Option<&'a Tensor>, dtype: DType) -> Self {
        match (t, kind(dtype)) {
            (Some(t), _) if t.dtype() != dtype => {
                let error = Error::DType { op: self.kernel.op, dtype: t.dtype() };
                Self { error: Some(error), ..self }
            }
            (Some(t), _) => self.tensor(t),
            (None, Some(kind)) => self.push(kind, 0),
            (None, None) => {
                let error = Error::DType { op: self.kernel.op, dtype };
                Self { error: Some(error), ..self }
            }
        }
    }

    /// The addresses of the elements of several tensors of `dtype` (f32 or bf16) as one argument, `Tensors`; there may be none.
    pub(crate) fn tensors(mut self, tensors: impl IntoIterator<Item = &'a Tensor>, dtype: DType) -> Self {
        let op = self.kernel.op;
        let mut words = Vec::with_capacity(MAX_TENSORS);
        for t in tensors {
            match address(op, t) {
                Ok((kind, word)) if Some(kind) == self::kind(dtype) => words.push(word),
                Ok(_) => self.error = self.error.or(Some(Error::DType { op, dtype: t.dtype() })),
                Err(e) => self.error = self.error.or(Some(e)),
            }
            self.tensors.push(t);
        }
        if words.len() > MAX_TENSORS {
            let message = format!("{} tensors are more than {MAX_TENSORS}", words.len());
            self.error.get_or_insert(Error::Value { op, message });
        }
        words.resize(MAX_TENSORS, 0);
        self.starts.push(self.words.len());
        self.kinds.push(if dtype == DType::F32 { Kind::ManyF32s } else { Kind::ManyBf16s });
        self.words.extend(words);
        self
    }

    pub(crate) fn u32(self, x: usize) -> Self {
        match u32::try_from(x) {
            Ok(x) => self.push(Kind::U32, u64::from(x)),
            Err(_) => {
                let error = Error::Value { op: self.kernel.op, message: format!("a size of {x} is too large") };
                Self { error: Some(error), ..self }
            }
        }
    }

    pub(crate) fn u64(self, x: u64) -> Self {
        self.push(Kind::U64, x)
    }

    pub(crate) fn f64(self, x: f64) -> Self {
        self.push(Kind::F64, x.to_bits())
    }

    pub(crate) fn f32(self, x: f32) -> Self {
        self.push(Kind::F32, u64::from(x.to_bits()))
    }

    fn push(mut self, kind: Kind, word: u64) -> Self {
        self.starts.push(self.words.len());
        self.kinds.push(kind);
        self.words.push(word);
        self
    }

    /// Runs it with so many blocks of so many threads and bytes of shared memory for each block. No blocks: nothing happens.
    pub(crate) fn launch(self, grid: [usize; 3], threads: usize, shared: usize) -> Result<()> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let op = self.kernel.op;
        together(op, &self.tensors)?;
        if grid.contains(&0) {
            return Ok(());
        }
        let too_many = || Error::Value { op, message: format!("{grid:?} blocks are too many") };
        let small = |n: usize| u32::try_from(n).ok().filter(|&n| n <= i32::MAX as u32).ok_or_else(too_many);
        let grid = [small(grid[0])?, small(grid[1])?, small(grid[2])?];
        let mut pointers: Vec<*mut c_void> =
            self.starts.iter().map(|&s| self.words[s..].as_ptr().cast_mut().cast()).collect();
        let device = self.tensors.first().map(|t| t.device());
        match device {
            #[cfg(feature = "cuda")]
            Some(candle_core::Device::Cuda(device)) => {
                super::module::launch(device, self.kernel, grid, threads as u32, shared as u32, &mut pointers)
            }
            #[cfg(feature = "emulate")]
            Some(candle_core::Device::Cpu) => {
                let kinds: Vec<u32> = self.kinds.iter().map(|&kind| kind as u32).collect();
                super::emulated::run(self.kernel, grid, threads as u32, shared, &mut pointers, &kinds)
            }
            device => {
                let _ = (&mut pointers, threads, shared);
                Err(Error::Device { op, device: format!("{device:?}") })
            }
        }
    }
}

fn kind(dtype: DType) -> Option<Kind> {
    match dtype {
        DType::F32 => Some(Kind::F32s),
        DType::BF16 => Some(Kind::Bf16s),
        DType::U32 => Some(Kind::U32s),
        DType::I64 => Some(Kind::I64s),
        DType::U8 => Some(Kind::U8s),
        DType::F64 => Some(Kind::F64s),
        _ => None,
    }
}

pub(super) fn address(op: &'static str, t: &Tensor) -> Result<(Kind, u64)> {
    let (storage, layout) = t.storage_and_layout();
    let kind = kind(t.dtype()).ok_or(Error::DType { op, dtype: t.dtype() })?;
    let Some((start, _)) = layout.contiguous_offsets() else {
        return Err(Error::Value { op, message: format!("operand of shape {:?} is not contiguous", t.shape()) });
    };
    let base = match &*storage {
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => super::module::address(storage)?,
        Storage::Cpu(storage) => host_address(storage).ok_or(Error::DType { op, dtype: t.dtype() })?,
        _ => return Err(Error::Device { op, device: format!("{:?}", t.device()) }),
    };
    Ok((kind, base + (start * t.dtype().size_in_bytes()) as u64))
}

fn host_address(storage: &CpuStorage) -> Option<u64> {
    Some(match storage {
        CpuStorage::F32(v) => v.as_ptr().addr(),
        CpuStorage::BF16(v) => v.as_ptr().addr(),
        CpuStorage::U32(v) => v.as_ptr().addr(),
        CpuStorage::I64(v) => v.as_ptr().addr(),
        CpuStorage::U8(v) => v.as_ptr().addr(),
        CpuStorage::F64(v) => v.as_ptr().addr(),
        _ => return None,
    } as u64)
}
