//! Safetensors files, streamed: a tensor's bytes are converted a piece at a time, never held twice.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::bf16;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::digest::{Hashed, close, open};
use super::manifest::FileRecord;
use super::{Error, Result};

/// Elements converted at a time.
const PIECE: usize = 1 << 16;
/// As in the safetensors library.
const MAX_HEADER: u64 = 100_000_000;

/// Writes `tensors` to `out` in the safetensors format, f32 before bf16 so that all are aligned.
pub(super) fn write(path: &Path, out: &mut impl Write, tensors: &[(String, Tensor)]) -> Result<()> {
    let failed = |source| Error::Write { path: path.into(), source };
    let mut order: Vec<&(String, Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| t.dtype() != DType::F32);
    let mut header = header(&order)?;
    while header.len() % 8 != 0 {
        header.push(b' ');
    }
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    out.write_all(&header).map_err(failed)?;
    let mut buffer = Vec::new();
    for (name, tensor) in order {
        let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let range = layout.contiguous_offsets();
        match (&*storage, range) {
            (Storage::Cpu(CpuStorage::F32(v)), Some((a, b))) => {
                stream(&v[a..b], |x| x.to_le_bytes(), &mut buffer, out).map_err(failed)?;
            }
            (Storage::Cpu(CpuStorage::BF16(v)), Some((a, b))) => {
                stream(&v[a..b], |x| x.to_le_bytes(), &mut buffer, out).map_err(failed)?;
            }
            _ => return Err(unsupported(name, tensor.dtype())),
        }
    }
    Ok(())
}

fn header(tensors: &[&(String, Tensor)]) -> Result<Vec<u8>> {
    let mut names = BTreeSet::new();
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for (name, tensor) in tensors {
        let problem = |problem: &str| Error::Tensor { name: name.clone(), problem: problem.into() };
        if !names.insert(name) {
            return Err(problem("there are two of that name"));
        }
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::BF16 => Dtype::BF16,
            dtype => return Err(unsupported(name, dtype)),
        };
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        infos.push((name.clone(), TensorInfo { dtype, shape: tensor.dims().to_vec(), data_offsets: (start, end) }));
    }
    let failed = |e: &dyn std::fmt::Display| Error::Tensor { name: "header".into(), problem: e.to_string() };
    let metadata = Metadata::new(None, infos).map_err(|e| failed(&e))?;
    serde_json::to_vec(&metadata).map_err(|e| failed(&e))
}

fn unsupported(name: &str, dtype: DType) -> Error {
    Error::Tensor { name: name.into(), problem: format!("dtype {dtype:?} is not one of f32 and bf16") }
}

fn stream<T: Copy, const N: usize>(
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
    buffer: &mut Vec<u8>,
    out: &mut impl Write,
) -> io::Result<()> {
    for piece in values.chunks(PIECE) {
        buffer.clear();
        for &value in piece {
            buffer.extend_from_slice(&bytes(value));
        }
        out.write_all(buffer)?;
    }
    Ok(())
}

/// The tensors of the file at `path`, on the CPU, in its order; errors unless it is, byte by byte, what `saved` says.
pub(super) fn read(path: &Path, saved: &FileRecord) -> Result<Vec<(String, Tensor)>> {
    let mut file = open(path, saved)?;
    let tensors = parse(&mut file, saved.size);
    // A checksum that does not match explains whatever went wrong above.
    close(path, file, saved)?;
    tensors.map_err(|problem| match problem {
        Problem::Bytes(problem) => Error::Damaged { path: path.into(), problem },
        Problem::Io(source) => Error::Read { path: path.into(), source },
        Problem::Candle(error) => Error::Candle(error),
    })
}

enum Problem {
    Bytes(String),
    Io(io::Error),
    Candle(candle_core::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn parse(file: &mut Hashed<File>, size: u64) -> std::result::Result<Vec<(String, Tensor)>, Problem> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER.min(size.saturating_sub(8)) {
        return Err(Problem::Bytes(format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| Problem::Bytes(format!("its header: {e}")))?;
    if metadata.data_len() as u64 != size - 8 - length {
        return Err(Problem::Bytes("its header does not describe its length".into()));
    }
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let (count, shape) = (info.shape.iter().product(), info.shape.as_slice());
        let tensor = match info.dtype {
            Dtype::F32 => Tensor::from_vec(values(file, count, f32::from_le_bytes)?, shape, &Device::Cpu),
            Dtype::BF16 => Tensor::from_vec(values(file, count, bf16::from_le_bytes)?, shape, &Device::Cpu),
            dtype => return Err(Problem::Bytes(format!("tensor {name} has dtype {dtype:?}"))),
        };
        tensors.push((name, tensor.map_err(Problem::Candle)?));
    }
    Ok(tensors)
}

fn values<T, const N: usize>(file: &mut impl Read, count: usize, value: impl Fn([u8; N]) -> T) -> io::Result<Vec<T>> {
    let mut values = Vec::with_capacity(count);
    let mut buffer = vec![0; N * PIECE.min(count)];
    while values.len() < count {
        let piece = &mut buffer[..N * PIECE.min(count - values.len())];
        file.read_exact(piece)?;
        values.extend(piece.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)));
    }
    Ok(values)
}
