//! Weights on disk, whatever the format.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{Device, Tensor};

use super::error::first_line;
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
    Safetensors(MmapedSafetensors),
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

    /// Reads a tensor, in the dtype it is stored in.
    pub fn get(&self, name: &str, device: &Device) -> Result<Tensor> {
        let Some(&shard) = self.index.get(name) else {
            return Err(Error::Missing { path: self.path.clone(), count: 1, first: name.to_owned() });
        };
        self.shards[shard].get(name, device)
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
            // SAFETY: the map is read-only and the file is a model that nothing rewrites in place while it is used.
            #[allow(unsafe_code)]
            let map = unsafe { MmapedSafetensors::new(path) };
            Tensors::Safetensors(
                map.map_err(|e| malformed(format!("not a whole safetensors file: {}", first_line(e))))?,
            )
        };
        Ok(Self { path: path.to_owned(), tensors })
    }

    fn names(&self) -> Vec<String> {
        match &self.tensors {
            Tensors::Safetensors(map) => map.tensors().into_iter().map(|(name, _)| name).collect(),
            Tensors::Pickle(file) => file.tensor_infos().keys().cloned().collect(),
        }
    }

    fn get(&self, name: &str, device: &Device) -> Result<Tensor> {
        let tensor = match &self.tensors {
            Tensors::Safetensors(map) => map.get(name).and_then(|view| view.load(device)).map(Some),
            Tensors::Pickle(file) => file.get(name).and_then(|t| t.map(|t| t.to_device(device)).transpose()),
        };
        let failed = |reason| Error::Tensor { path: self.path.clone(), name: name.to_owned(), reason };
        tensor.map_err(|e| failed(first_line(e)))?.ok_or_else(|| failed("not in the file".into()))
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
