//! What a model builder asks for its parameters.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};

use super::export::Entry;
use super::{Checkpoint, Error, Init, Layout, Manifest, Naming, Result};
use crate::autograd::{Group, Param, Params};

/// Where the parameters of one component go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// In front of every name: `encoder`, `decoder`, …
    pub prefix: &'static str,
    /// The group they belong to, unless [`Loader::group`] says otherwise.
    pub group: Group,
    /// What the model computes with.
    pub dtype: DType,
    /// Where.
    pub device: Device,
}

/// The source of a model builder's parameters: a checkpoint, or random numbers. Cheap to clone; [`Loader::pp`] goes into a scope.
///
/// A parameter's name in the registry and in our checkpoints is `{prefix}.{its name in the file}`, after [`Naming`].
#[derive(Clone)]
pub struct Loader<'p> {
    shared: Rc<Shared<'p>>,
    path: String,
    group: Group,
}

struct Shared<'p> {
    params: RefCell<&'p mut Params>,
    to: Destination,
    source: Source,
    ignorable: fn(&str) -> bool,
    log: RefCell<Log>,
}

enum Source {
    Checkpoint {
        file: Checkpoint,
        /// The model's name → the file's.
        keys: BTreeMap<String, String>,
    },
    Random {
        seed: u64,
    },
    Shapes,
}

#[derive(Default)]
struct Log {
    used: BTreeSet<String>,
    missing: Vec<String>,
    initialised: Vec<String>,
    /// What [`Loader::finish`] reads.
    pending: Vec<Pending>,
    manifest: Manifest,
}

/// A parameter that has its shape, and gets its values from tensor `key` of the file.
struct Pending {
    param: Param,
    key: String,
    layout: Layout,
}

/// What did not match between model and checkpoint, without being an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors of the file that the model does not have.
    pub unused: Vec<String>,
    /// The same, of kinds known not to matter (pre-training heads, rotary tables).
    pub ignored: Vec<String>,
    /// Optional parameters that the file does not hold and that began at random.
    pub initialised: Vec<String>,
}

impl Report {
    /// One line about tensors that were left unused; `None` if none was.
    pub fn warning(&self, path: &Path) -> Option<String> {
        let count = self.unused.len();
        (count > 0)
            .then(|| format!("{}: {count} tensors the model does not use: {}", path.display(), few(&self.unused)))
    }
}

/// A built model's parameters and the loading's report.
pub struct Loaded {
    /// What was left over.
    pub report: Report,
    /// What was built, for exporting.
    pub manifest: Manifest,
}

impl<'p> Loader<'p> {
    /// Parameters from `file`, whose names `naming` translates.
    pub fn from_checkpoint(file: Checkpoint, naming: &Naming, params: &'p mut Params, to: Destination) -> Self {
        let mut keys = BTreeMap::new();
        for key in file.names() {
            keys.entry((naming.rename)(key)).or_insert_with(|| key.to_owned());
        }
        Self::new(Source::Checkpoint { file, keys }, naming.ignorable, params, to)
    }

    /// Parameters drawn at random: a function of `seed` and their names.
    pub fn random(seed: u64, params: &'p mut Params, to: Destination) -> Self {
        Self::new(Source::Random { seed }, |_| false, params, to)
    }

    /// Parameters that have shapes and take no memory (one zero each, read many times): for counting and planning.
    pub fn shapes(params: &'p mut Params, to: Destination) -> Self {
        Self::new(Source::Shapes, |_| false, params, to)
    }

    fn new(source: Source, ignorable: fn(&str) -> bool, params: &'p mut Params, to: Destination) -> Self {
        let group = to.group;
        let shared = Shared { params: RefCell::new(params), to, source, ignorable, log: RefCell::default() };
        Self { shared: Rc::new(shared), path: String::new(), group }
    }

    /// The scope `name` below this one.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self { path: self.full(&name.to_string()), ..self.clone() }
    }

    /// The same scope, for parameters of `group`.
    pub fn group(&self, group: Group) -> Self {
        Self { group, ..self.clone() }
    }

    /// Whether the checkpoint holds `name` in this scope (any other source holds everything).
    pub fn contains(&self, name: &str) -> bool {
        match &self.shared.source {
            Source::Checkpoint { keys, .. } => keys.contains_key(&self.full(name)),
            Source::Random { .. } | Source::Shapes => true,
        }
    }

    /// The name in the registry of `name` in this scope: also what dropout sites here are keyed by.
    pub fn registered(&self, name: &str) -> String {
        format!("{}.{}", self.shared.to.prefix, self.full(name))
    }

    /// What parameters compute in.
    pub fn dtype(&self) -> DType {
        self.shared.to.dtype
    }

    /// The parameter `name` of `shape`; `init` applies where nothing is loaded. What a checkpoint holds is there after [`Loader::finish`]: all is read at once.
    pub fn param(&self, name: &str, shape: &[usize], init: Init) -> Result<Param> {
        self.build(name, shape, Layout::Plain, init, false)
    }

    /// Like [`Loader::param`], but a checkpoint may lack it: then it begins as `init` (seed 0) and the report says so.
    pub fn optional(&self, name: &str, shape: &[usize], init: Init) -> Result<Param> {
        self.build(name, shape, Layout::Plain, init, true)
    }

    /// A convolution's weight: `[c_out, c_in, k]` in the file, `[c_out, k·c_in]` (tap-major) in the model.
    pub fn conv(&self, name: &str, c_out: usize, c_in: usize, k: usize, init: Init) -> Result<Param> {
        self.build(name, &[c_out, c_in, k], Layout::Conv { c_in, k }, init, false)
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn build(&self, name: &str, shape: &[usize], layout: Layout, init: Init, optional: bool) -> Result<Param> {
        let shared = &*self.shared;
        let (full, registered) = (self.full(name), self.registered(name));
        let mut log = shared.log.borrow_mut();
        let model_shape = layout.model_shape(shape);
        let made_in = shared.params.borrow().made_in(self.group, shared.to.dtype);
        let to = Destination { dtype: made_in, ..shared.to.clone() };
        let drawn = |init, seed| draw(init, seed, &registered, &model_shape, &to);
        let (tensor, key) = match &shared.source {
            Source::Shapes => (shape_alone(&model_shape, &to)?, None),
            Source::Random { seed } => (drawn(init, *seed)?, None),
            Source::Checkpoint { file, keys } => match keys.get(&full) {
                Some(key) => {
                    expect_shape(file, key, &full, shape)?;
                    log.used.insert(key.clone());
                    (shape_alone(&model_shape, &to)?, Some(key.clone()))
                }
                None if optional => {
                    log.initialised.push(full.clone());
                    (drawn(init, 0)?, None)
                }
                None => {
                    log.missing.push(full.clone());
                    (shape_alone(&model_shape, &to)?, None)
                }
            },
        };
        let param = shared.params.borrow_mut().register(&registered, self.group, tensor, shared.to.dtype)?;
        log.pending.extend(key.map(|key| Pending { param: param.clone(), key, layout }));
        log.manifest.entries.push(Entry { param: param.clone(), name: full, layout });
        Ok(param)
    }

    /// Ends loading: an error if the checkpoint lacks parameters of the model; else reads those it holds, and tells what it holds beyond them.
    pub fn finish(self) -> Result<Loaded> {
        let mut log = self.shared.log.borrow_mut();
        let mut report = Report { initialised: std::mem::take(&mut log.initialised), ..Report::default() };
        if let Source::Checkpoint { file, keys } = &self.shared.source {
            if !log.missing.is_empty() {
                let (count, first) = (log.missing.len(), few(&log.missing));
                return Err(Error::Missing { path: file.path().to_owned(), count, first });
            }
            let (pending, device) = (std::mem::take(&mut log.pending), &self.shared.to.device);
            let wanted: Vec<_> = pending.iter().map(|p| (p.key.as_str(), p.param.tensor().dtype())).collect();
            for (Pending { param, layout, .. }, read) in pending.iter().zip(file.read(&wanted, device)?) {
                param.set(layout.to_model(&read)?);
            }
            for (name, key) in keys.iter().filter(|(_, key)| !log.used.contains(*key)) {
                let list = if (self.shared.ignorable)(name) { &mut report.ignored } else { &mut report.unused };
                list.push(key.clone());
            }
        }
        Ok(Loaded { report, manifest: std::mem::take(&mut log.manifest) })
    }
}

fn draw(init: Init, seed: u64, name: &str, shape: &[usize], to: &Destination) -> Result<Tensor> {
    let values = init.draw(seed, name, shape.iter().product());
    Ok(Tensor::from_vec(values, shape, &to.device)?.to_dtype(to.dtype)?)
}

/// A tensor of `shape` that takes no memory: one zero, read many times.
fn shape_alone(shape: &[usize], to: &Destination) -> Result<Tensor> {
    Ok(Tensor::zeros((), to.dtype, &to.device)?.broadcast_as(shape)?)
}

/// Errors unless tensor `key` of `file`, which is the model's `name`, has `expected` as its shape.
fn expect_shape(file: &Checkpoint, key: &str, name: &str, expected: &[usize]) -> Result<()> {
    let got = file.shape(key)?;
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { path: file.path().to_owned(), name: name.to_owned(), got, expected: expected.to_vec() })
}

/// The first few of a list of names.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown}, …") } else { shown }
}

/// Gives the parameters that `file` holds by their registered names its values (`model.init`), in the model's layouts.
/// Returns how many; what else is in the file is reported as unused.
pub fn load_by_name(params: &Params, file: &Checkpoint) -> Result<(usize, Report)> {
    let (mut found, mut report) = (Vec::new(), Report::default());
    for name in file.names() {
        match params.get(name) {
            Some(param) => {
                expect_shape(file, name, name, param.tensor().dims())?;
                found.push((name, param));
            }
            None => report.unused.push(name.to_owned()),
        }
    }
    let Some((_, first)) = found.first() else {
        let first = report.unused.first().cloned().unwrap_or_default();
        return Err(Error::NothingMatches { path: file.path().to_owned(), first });
    };
    let wanted: Vec<_> = found.iter().map(|(name, param)| (*name, param.tensor().dtype())).collect();
    for ((_, param), read) in found.iter().zip(file.read(&wanted, first.tensor().device())?) {
        param.set(read);
    }
    Ok((found.len(), report))
}
