//! Named parameters and what group each belongs to.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use candle_core::Tensor;

use super::{Buckets, Error, Result};

/// The part of the model a parameter belongs to; what trains is a set of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The encoder's convolutions (`feature_extractor`).
    EncoderFrontend,
    /// The rest of the encoder and the speech layer weights.
    Encoder,
    /// The connection module.
    Connector,
    /// The emotion branch and its layer weights.
    Emotion,
    /// The language model.
    Decoder,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 5] = [Self::EncoderFrontend, Self::Encoder, Self::Connector, Self::Emotion, Self::Decoder];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::EncoderFrontend => "encoder_frontend",
            Self::Encoder => "encoder",
            Self::Connector => "connector",
            Self::Emotion => "emotion",
            Self::Decoder => "decoder",
        }
    }
}

/// A named tensor a model computes with. Clones share it.
#[derive(Clone, Debug)]
pub struct Param(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    group: Group,
    value: RwLock<Tensor>,
    slot: OnceLock<usize>,
}

impl Param {
    /// A parameter outside any registry: it never trains.
    pub fn constant(name: &str, group: Group, value: Tensor) -> Self {
        Self(Arc::new(Inner { name: name.to_owned(), group, value: RwLock::new(value), slot: OnceLock::new() }))
    }

    /// Its name, as in checkpoints.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its group.
    pub fn group(&self) -> Group {
        self.0.group
    }

    /// Its value in the compute dtype (a view of its bucket when it trains).
    pub fn tensor(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its index among the trainable parameters, in the order backward finishes them; `None` when frozen.
    pub fn slot(&self) -> Option<usize> {
        self.0.slot.get().copied()
    }

    /// Puts another tensor of the same shape in its place (loading a checkpoint before training starts).
    pub fn set(&self, value: Tensor) {
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    pub(super) fn train(&self, slot: usize, value: Tensor) {
        // A parameter is laid out once; a second layout keeps the first slot, which `Params::train` rules out.
        let _ = self.0.slot.set(slot);
        self.set(value);
    }
}

/// The parameters of a model, in the order it was built (the order forward uses them).
#[derive(Default, Debug)]
pub struct Params {
    list: Vec<Param>,
    names: BTreeSet<String>,
    laid_out: bool,
}

impl Params {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter; a name may be used once.
    pub fn register(&mut self, name: &str, group: Group, value: Tensor) -> Result<Param> {
        if !self.names.insert(name.to_owned()) {
            return Err(Error::Duplicate(name.to_owned()));
        }
        let param = Param::constant(name, group, value);
        self.list.push(param.clone());
        Ok(param)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Param> {
        self.list.iter()
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.list.iter().find(|p| p.name() == name)
    }

    /// The number of elements in `group`.
    pub fn elements(&self, group: Group) -> usize {
        self.list.iter().filter(|p| p.group() == group).map(|p| p.tensor().elem_count()).sum()
    }

    /// Lays the parameters of `groups` out in flat buckets of about `bucket_bytes` of f32 gradient each; the rest stay
    /// frozen. Buckets are in reverse order of registration: the order in which backward finishes them.
    pub fn train(&mut self, groups: &BTreeSet<Group>, bucket_bytes: usize) -> Result<Buckets> {
        if self.laid_out {
            return Err(Error::Model("the trainable parameters were chosen already".into()));
        }
        self.laid_out = true;
        let chosen: Vec<Param> = self.list.iter().rev().filter(|p| groups.contains(&p.group())).cloned().collect();
        Buckets::lay_out(chosen, bucket_bytes)
    }
}
