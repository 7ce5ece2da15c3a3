//! Writing parameters back as a Hugging Face directory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::error::first_line;
use super::{Error, Result};
use crate::autograd::Param;
use crate::files::{write_safetensors, write_whole};

/// How a parameter lies in the model, compared with its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in the file.
    Plain,
    /// File `[c_out, c_in, k]`, model `[c_out, k·c_in]` (tap-major): the operand of a GEMM over channels-last windows.
    Conv {
        /// Input channels.
        c_in: usize,
        /// Taps.
        k: usize,
    },
}

impl Layout {
    /// The shape in the model of a tensor of shape `file` in the file.
    pub fn model_shape(self, file: &[usize]) -> Vec<usize> {
        match self {
            Self::Plain => file.to_vec(),
            Self::Conv { c_in, k } => vec![file[0], k * c_in],
        }
    }

    /// File → model.
    pub fn to_model(self, t: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Plain => t.contiguous(),
            Self::Conv { c_in, k } => t.permute((0, 2, 1))?.contiguous()?.reshape(((), k * c_in)),
        }
    }

    /// Model → file.
    pub fn to_file(self, t: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Plain => t.contiguous(),
            Self::Conv { c_in, k } => t.reshape(((), k, c_in))?.permute((0, 2, 1))?.contiguous(),
        }
    }
}

/// What a loader built: each parameter, its name and layout in a file.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub param: Param,
    pub name: String,
    pub layout: Layout,
}

impl Manifest {
    /// The parameters, in the order they were built.
    pub fn params(&self) -> impl ExactSizeIterator<Item = &Param> {
        self.entries.iter().map(|e| &e.param)
    }

    /// Writes `dir/config.json` and `dir/model.safetensors` with the parameters' present values, in their compute dtype, under
    /// the names and in the layouts of the original files.
    pub fn export(&self, dir: &Path, config: &serde_json::Value) -> Result<()> {
        let failed = |path: &Path, reason: String| Error::Write { path: path.to_owned(), reason };
        std::fs::create_dir_all(dir).map_err(|e| failed(dir, first_line(e)))?;
        let tensors = self
            .entries
            .iter()
            .map(|entry| Ok((entry.name.as_str(), Bytes::of(&entry.layout.to_file(&entry.param.tensor())?)?)))
            .collect::<Result<Vec<_>>>()?;
        // transformers refuses a file without this line.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let path = dir.join("model.safetensors");
        write_whole(&path, |file| write_safetensors(file, tensors, metadata))
            .map_err(|e| failed(&path, first_line(e)))?;
        write_json(&dir.join("config.json"), config)
    }
}

/// Writes `value`, indented.
pub(in crate::model) fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n"))
        .map_err(|e| Error::Write { path: path.to_owned(), reason: first_line(e) })
}

/// A tensor's bytes as safetensors wants them.
struct Bytes {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Bytes {
    fn of(t: &Tensor) -> Result<Self> {
        let flat = t.flatten_all()?;
        let (dtype, data) = match t.dtype() {
            DType::BF16 => {
                (safetensors::Dtype::BF16, flat.to_vec1::<half::bf16>()?.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            _ => (
                safetensors::Dtype::F32,
                flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
        };
        Ok(Self { dtype, shape: t.dims().to_vec(), data })
    }
}

impl safetensors::View for Bytes {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}
