//! Named parameters and what group each belongs to.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use candle_core::{DType, Tensor};

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
    dtype: DType,
    value: RwLock<Tensor>,
    slot: OnceLock<usize>,
}

impl Param {
    /// A parameter outside any registry: it never trains.
    pub fn constant(name: &str, group: Group, value: Tensor) -> Self {
        let dtype = value.dtype();
        Self::new(name, group, value, dtype)
    }

    fn new(name: &str, group: Group, value: Tensor, dtype: DType) -> Self {
        Self(Arc::new(Inner { name: name.to_owned(), group, dtype, value: RwLock::new(value), slot: OnceLock::new() }))
    }

    /// Its name, as in checkpoints.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its group.
    pub fn group(&self) -> Group {
        self.0.group
    }

    /// What it computes in.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Its value in the compute dtype (a view of its bucket when it trains). Of one that is to train and is not laid out yet: in f32.
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
        // A parameter is laid out once; a second layout keeps the first slot, which `Params::lay_out` rules out.
        let _ = self.0.slot.set(slot);
        self.set(value);
    }
}

/// The parameters of a model, in the order it was built (the order forward uses them).
#[derive(Default, Debug)]
pub struct Params {
    list: Vec<Param>,
    names: BTreeSet<String>,
    training: BTreeSet<Group>,
    laid_out: bool,
}

impl Params {
    /// None yet, and none of them will train.
    pub fn frozen() -> Self {
        Self::default()
    }

    /// None yet; those of `groups` will train.
    pub fn training(groups: &BTreeSet<Group>) -> Self {
        Self { training: groups.clone(), ..Self::default() }
    }

    /// What a parameter of `group` that computes in `dtype` is to be made in: in f32 if it will train, for its master begins with every bit that is known of it.
    pub fn made_in(&self, group: Group, dtype: DType) -> DType {
        if self.training.contains(&group) { DType::F32 } else { dtype }
    }

    /// Adds a parameter that computes in `dtype`, its value as [`Params::made_in`] says; a name may be used once.
    pub fn register(&mut self, name: &str, group: Group, value: Tensor, dtype: DType) -> Result<Param> {
        if !self.names.insert(name.to_owned()) {
            return Err(Error::Duplicate(name.to_owned()));
        }
        let param = Param::new(name, group, value, dtype);
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

    /// Lays the parameters that train out in flat buckets of about `bucket_bytes` of f32 gradient each. Buckets are in reverse order of registration: the order
    /// in which backward finishes them.
    pub fn lay_out(&mut self, bucket_bytes: usize) -> Result<Buckets> {
        if self.laid_out {
            return Err(Error::Model("the parameters were laid out already".into()));
        }
        self.laid_out = true;
        let chosen: Vec<Param> =
            self.list.iter().rev().filter(|p| self.training.contains(&p.group())).cloned().collect();
        Buckets::new(chosen, bucket_bytes)
    }
}
