//! Weights on disk, whatever the format.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use echat_kernels::upload::{self, Conversion, Wanted};

use super::error::first_line;
use super::safetensors::Safetensors;
use super::{Error, Result};

/// The named tensors of a model's files, read when asked for.
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    index: BTreeMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    tensors: Tensors,
}

enum Tensors {
    Safetensors(Safetensors),
    Pickle(PthTensors),
}

/// Where training frameworks put the state dict inside a pickled checkpoint; fairseq: `model`.
const STATE_DICT_KEYS: [&str; 3] = ["model", "state_dict", "model_state_dict"];

impl Checkpoint {
    /// Opens `path`: a model directory (`model.safetensors`, `pytorch_model.bin`, their sharded `.index.json`, or one `.pt`),
    /// or one such file. Errors name the path and what was looked for.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::NotFound { path: path.to_owned(), what: "a model directory or file" });
        }
        let file = if path.is_dir() { weights_in(path)? } else { path.to_owned() };
        let shards = match file.extension().and_then(|e| e.to_str()) {
            Some("json") => open_sharded(&file)?,
            _ => vec![Shard::open(&file)?],
        };
        let mut index = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                index.insert(name, i);
            }
        }
        Ok(Self { path: path.to_owned(), shards, index })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Whether it holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The shape of `name`.
    ///
    /// Errors: no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let shard = self.shard(name)?;
        let shape = match &shard.tensors {
            Tensors::Safetensors(file) => file.shape(name),
            Tensors::Pickle(file) => file.tensor_infos().get(name).map(|info| info.layout.dims().to_vec()),
        };
        shape.ok_or_else(|| shard.failed(name, "not in the file".into()))
    }

    /// The tensors `wanted`, by name and dtype (f32 or bf16), in this order, on `device`: those of safetensors files all at once, by several threads, a piece at a
    /// time from where they lie in the page cache to where they belong.
    ///
    /// Errors: no such tensor, one that is not stored as f16, bf16, f32 or f64, or that cannot be read; memory that does not suffice.
    pub fn read(&self, wanted: &[(&str, DType)], device: &Device) -> Result<Vec<Tensor>> {
        let (mut mapped, mut bulk) = (Vec::new(), Vec::new());
        for &(name, dtype) in wanted {
            let shard = self.shard(name)?;
            if let Tensors::Safetensors(file) = &shard.tensors {
                mapped.push(Mapped::new(file, name, dtype).map_err(|reason| shard.failed(name, reason))?);
                bulk.push(Wanted { dtype, shape: self.shape(name)? });
            }
        }
        let fill = |i: usize, first: usize, out: &mut [u8]| mapped[i].write(first, out);
        let mut bulk = upload::tensors(device, &bulk, fill)?.into_iter();
        let read = |&(name, dtype): &(&str, DType)| {
            let shard = self.shard(name)?;
            let pickled = || shard.failed(name, "not in the file".into());
            match &shard.tensors {
                Tensors::Safetensors(_) => bulk.next().ok_or_else(pickled),
                Tensors::Pickle(file) => {
                    let t = file.get(name).and_then(|t| t.map(|t| t.to_dtype(dtype)).transpose());
                    let t = t.map_err(|e| shard.failed(name, first_line(e)))?.ok_or_else(pickled)?;
                    Ok(upload::to_device(&t, device)?)
                }
            }
        };
        wanted.iter().map(read).collect()
    }

    fn shard(&self, name: &str) -> Result<&Shard> {
        match self.index.get(name) {
            Some(&shard) => Ok(&self.shards[shard]),
            None => Err(Error::Missing { path: self.path.clone(), count: 1, first: name.to_owned() }),
        }
    }
}

/// A tensor in a mapped file, and what becomes of its numbers.
struct Mapped<'a> {
    bytes: &'a [u8],
    /// Bytes of an element in the file, and in the tensor.
    sizes: (usize, usize),
    convert: Conversion,
}

impl<'a> Mapped<'a> {
    fn new(file: &'a Safetensors, name: &str, dtype: DType) -> std::result::Result<Self, String> {
        let (stored, bytes) = file.stored(name)?;
        let convert =
            upload::conversion(stored, dtype).ok_or_else(|| format!("{stored:?} is not read as {dtype:?}"))?;
        Ok(Self { bytes, sizes: (stored.size_in_bytes(), dtype.size_in_bytes()), convert })
    }

    /// Writes the tensor's bytes from `first` on.
    fn write(&self, first: usize, out: &mut [u8]) {
        let (stored, made) = self.sizes;
        (self.convert)(&self.bytes[first / made * stored..][..out.len() / made * stored], out);
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
        let magic = read_magic(path).map_err(|e| malformed(first_line(e)))?;
        let pickled = matches!(path.extension().and_then(|e| e.to_str()), Some("bin" | "pt" | "pth" | "ckpt"));
        let tensors = if pickled || magic.starts_with(b"PK") {
            if !magic.starts_with(b"PK") {
                return Err(malformed(
                    "not a zip archive, as torch.save has written since 1.6; save it again with a newer torch or as safetensors".into(),
                ));
            }
            Tensors::Pickle(open_pickle(path)?)
        } else {
            Tensors::Safetensors(Safetensors::open(path).map_err(malformed)?)
        };
        Ok(Self { path: path.to_owned(), tensors })
    }

    fn names(&self) -> Vec<String> {
        match &self.tensors {
            Tensors::Safetensors(file) => file.names(),
            Tensors::Pickle(file) => file.tensor_infos().keys().cloned().collect(),
        }
    }

    fn failed(&self, name: &str, reason: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), reason }
    }
}

fn read_magic(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut magic = Vec::new();
    std::fs::File::open(path)?.take(8).read_to_end(&mut magic)?;
    Ok(magic)
}

/// The file of a model directory that lists or holds its weights.
fn weights_in(dir: &Path) -> Result<PathBuf> {
    for name in
        ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    {
        let file = dir.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    let entries = std::fs::read_dir(dir)
        .map_err(|e| Error::Malformed { path: dir.to_owned(), reason: first_line(e) })?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "pt"));
    let mut candidates: Vec<PathBuf> = entries.collect();
    match (candidates.pop(), candidates.is_empty()) {
        (Some(file), true) => Ok(file),
        (None, _) => Err(Error::NoWeights { path: dir.to_owned() }),
        (Some(_), false) => Err(Error::Ambiguous { path: dir.to_owned() }),
    }
}

/// Opens the shards an index names and checks that they hold what it promises.
fn open_sharded(index: &Path) -> Result<Vec<Shard>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let malformed = |reason: String| Error::Malformed { path: index.to_owned(), reason };
    let text = std::fs::read_to_string(index).map_err(|e| malformed(first_line(e)))?;
    let Index { weight_map } = serde_json::from_str(&text).map_err(|e| malformed(first_line(e)))?;
    let dir = index.parent().unwrap_or(Path::new("."));
    let files: BTreeSet<&String> = weight_map.values().collect();
    let mut shards = Vec::with_capacity(files.len());
    for file in files {
        if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) {
            return Err(malformed(format!("`{file}` is not a file name")));
        }
        let path = dir.join(file);
        if !path.is_file() {
            return Err(Error::NotFound { path, what: "a shard its index names" });
        }
        let shard = Shard::open(&path)?;
        let held: BTreeSet<String> = shard.names().into_iter().collect();
        if let Some((name, _)) = weight_map.iter().find(|(name, f)| *f == file && !held.contains(*name)) {
            return Err(malformed(format!("`{name}` is not in {file}")));
        }
        shards.push(shard);
    }
    if shards.is_empty() {
        return Err(malformed("names no shard".into()));
    }
    Ok(shards)
}

/// Finds the state dict: at the top of the pickle, or under one of the usual keys.
fn open_pickle(path: &Path) -> Result<PthTensors> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let top = PthTensors::new(path, None).map_err(|e| malformed(first_line(e)))?;
    if !top.tensor_infos().is_empty() {
        return Ok(top);
    }
    let nested = STATE_DICT_KEYS.iter().filter_map(|key| PthTensors::new(path, Some(key)).ok());
    nested.into_iter().find(|file| !file.tensor_infos().is_empty()).ok_or_else(|| {
        malformed(format!("no tensors at the top of the pickle, nor under {}", STATE_DICT_KEYS.join(", ")))
    })
}
