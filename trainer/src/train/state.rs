//! What a run is besides its tensors, and how it goes into a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use echat_kernels::upload;
use serde::{Deserialize, Serialize};

use super::{Error, ProcessorKinds, Result};
use crate::autograd::{Buckets, Segment};
use crate::checkpoint::{self, Checkpoint};
use crate::model::weights;
use crate::optim::Optimizer;

/// Counters of a run. The data order and all randomness are functions of the seed and the step, so nothing else is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps taken or skipped.
    pub step: u64,
    /// Steps of them skipped for a loss or gradient that was not finite.
    pub skipped_steps: u64,
    /// Seconds of speech trained on.
    pub audio_seconds: f64,
    /// Updates the optimizer has made.
    pub updates: u64,
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    /// Counters.
    pub progress: Progress,
    /// Seed of the data order.
    pub seed: u64,
    /// Ranks that saved it.
    pub ranks: usize,
    /// Processors of these ranks; empty in checkpoints that do not record them.
    #[serde(default)]
    pub processors: ProcessorKinds,
    /// Of the frozen weights, by component.
    pub frozen: BTreeMap<String, String>,
    /// Of what the order of the data follows from besides the seed.
    pub data_order: String,
    /// The resolved configuration.
    pub config: String,
}

impl SavedState {
    /// Of the checkpoint `path`, without its tensors.
    pub fn read(path: &Path) -> Result<Self> {
        let state = checkpoint::load_state(path)?;
        serde_json::from_value(state)
            .map_err(|e| Error::Setting(format!("{}: not a state this echat wrote: {e}", path.display())))
    }
}

/// Everything of a run at the end of a step.
pub fn snapshot(
    buckets: &Buckets,
    optimizer: &Optimizer,
    state: &SavedState,
    metrics: BTreeMap<String, f64>,
) -> Result<Checkpoint> {
    let mut tensors = Vec::new();
    for bucket in buckets.iter() {
        for segment in &bucket.segments {
            let value = view(&bucket.master, segment)?.reshape(segment.shape.as_slice()).map_err(tensor_error)?;
            tensors.push((segment.param.name().to_owned(), value));
        }
    }
    Ok(Checkpoint {
        step: state.progress.step,
        tensors,
        optimizer: optimizer.state(buckets)?,
        state: serde_json::to_value(state).map_err(|e| Error::Setting(format!("cannot write the state: {e}")))?,
        metrics,
    })
}

/// Puts the tensors of the checkpoint `path` back and returns its state, without fingerprints that an earlier version made in another way.
pub fn restore(path: &Path, buckets: &Buckets, optimizer: &mut Optimizer) -> Result<SavedState> {
    let saved = checkpoint::load(path)?;
    let mut state: SavedState = serde_json::from_value(saved.state)
        .map_err(|e| Error::Setting(format!("{}: not a state this echat wrote: {e}", path.display())))?;
    let segments = || buckets.iter().flat_map(|b| &b.segments);
    let expected = segments().map(|s| (s.param.name(), s.shape.as_slice()));
    checkpoint::expect_tensors(path, expected, &saved.tensors)?;
    let by_name: BTreeMap<&str, &Tensor> = saved.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    for bucket in buckets.iter() {
        for segment in &bucket.segments {
            let Some(value) = by_name.get(segment.param.name()) else { continue };
            let to = bucket.master.device();
            let value = value.flatten_all().and_then(|t| t.to_dtype(DType::F32)).map_err(tensor_error)?;
            let value = upload::to_device(&value, to).map_err(crate::autograd::Error::from)?;
            view(&bucket.master, segment)?.slice_set(&value, 0, 0).map_err(tensor_error)?;
        }
        bucket.refresh_compute()?;
    }
    optimizer.load_state(buckets, state.progress.updates, &saved.optimizer)?;
    state.frozen.retain(|_, print| weights::is_comparable(print));
    Ok(state)
}

fn view(flat: &Tensor, segment: &Segment) -> Result<Tensor> {
    flat.narrow(0, segment.range.start, segment.range.len()).map_err(tensor_error)
}

fn tensor_error(error: candle_core::Error) -> Error {
    crate::autograd::Error::from(error).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::optim::OptimizerConfig;

    /// A checkpoint of before goes on, with what is still known of it.
    #[test]
    fn fingerprints_of_an_earlier_form_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let buckets = Buckets::default();
        let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &buckets).unwrap();
        let frozen = [("decoder", "0123456789abcdef"), ("encoder", "sum64:0123456789abcdef")];
        let state = SavedState {
            progress: Progress { step: 3, ..Progress::default() },
            seed: 1,
            ranks: 2,
            processors: ProcessorKinds::default(),
            frozen: frozen.map(|(part, print)| (part.to_owned(), print.to_owned())).into(),
            data_order: String::new(),
            config: String::new(),
        };
        let made = snapshot(&buckets, &optimizer, &state, BTreeMap::new()).unwrap();
        let path = checkpoint::save(dir.path(), &made, &Default::default()).unwrap().path;
        let restored = restore(&path, &buckets, &mut optimizer).unwrap();
        assert_eq!(restored.frozen.into_keys().collect::<Vec<_>>(), ["encoder"]);
        assert_eq!(SavedState::read(&path).unwrap(), state);
    }
}
