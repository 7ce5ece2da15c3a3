//! Trainable parameters in flat buckets: values, gradients, and who is ready.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use echat_kernels::accumulate;

use super::{Param, Result};

/// Parameters begin in their bucket at multiples of so many elements, 256 bytes of bf16: what the fastest products want of their operands. Between them are zeros,
/// whose gradients are zeros.
pub const ALIGNMENT: usize = 128;

/// Where backward delivers the gradients of parameters.
pub trait GradSink {
    /// Adds `grad` to the gradient of the parameter in `slot`.
    fn add(&mut self, slot: usize, grad: &Tensor) -> Result<()>;
    /// Every use of the parameter in `slot` in this micro-batch has been differentiated.
    fn done(&mut self, slot: usize) -> Result<()>;
}

/// A parameter's place in its bucket.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The parameter.
    pub param: Param,
    /// Its elements within the bucket.
    pub range: Range<usize>,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Parameters whose gradients travel together.
#[derive(Debug)]
pub struct Bucket {
    /// Master values, f32 `[n]`.
    pub master: Tensor,
    /// Gradient, f32 `[n]`.
    pub grad: Tensor,
    /// The values as what computes in less than f32 has them, `[n]`; none if nothing here does.
    pub compute: Option<Tensor>,
    /// The parameters, in slot order.
    pub segments: Vec<Segment>,
    /// The slot of the first one.
    pub first_slot: usize,
}

impl Bucket {
    /// The number of elements, those between the parameters among them.
    pub fn len(&self) -> usize {
        self.master.elem_count()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the compute copy equal to the masters again (after loading a checkpoint).
    pub fn refresh_compute(&self) -> Result<()> {
        if let Some(compute) = &self.compute {
            compute.slice_set(&self.master.to_dtype(compute.dtype())?, 0, 0)?;
        }
        Ok(())
    }
}

/// All buckets of a model, in the order backward finishes them.
#[derive(Debug, Default)]
pub struct Buckets {
    list: Vec<Bucket>,
    /// The bucket of each slot.
    of_slot: Vec<usize>,
}

impl Buckets {
    pub(super) fn new(params: Vec<Param>, bucket_bytes: usize) -> Result<Self> {
        let mut buckets = Self::default();
        let mut pending: Vec<Param> = Vec::new();
        let mut bytes = 0;
        for param in params {
            bytes += 4 * param.tensor().elem_count();
            pending.push(param);
            if bytes >= bucket_bytes {
                buckets.push(std::mem::take(&mut pending))?;
                bytes = 0;
            }
        }
        if !pending.is_empty() {
            buckets.push(pending)?;
        }
        Ok(buckets)
    }

    fn push(&mut self, params: Vec<Param>) -> Result<()> {
        let first_slot = self.of_slot.len();
        let reduced = params.iter().map(Param::dtype).find(|&dtype| dtype != DType::F32);
        let mut end = 0usize;
        let place = |param: &Param| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + param.tensor().elem_count();
            start..end
        };
        let ranges: Vec<Range<usize>> = params.iter().map(place).collect();
        let master = Tensor::zeros(end, DType::F32, params[0].tensor().device())?;
        for (param, range) in params.iter().zip(&ranges) {
            let value = param.tensor().flatten_all()?.to_dtype(DType::F32)?.contiguous()?;
            master.slice_set(&value, 0, range.start)?;
        }
        let compute = reduced.map(|dtype| master.to_dtype(dtype)).transpose()?;
        let grad = Tensor::zeros(end, DType::F32, master.device())?;
        let mut segments = Vec::with_capacity(params.len());
        for (param, range) in params.into_iter().zip(ranges) {
            let shape = param.tensor().dims().to_vec();
            let values = compute.as_ref().filter(|_| param.dtype() != DType::F32).unwrap_or(&master);
            let view = values.narrow(0, range.start, range.len())?.reshape(shape.as_slice())?;
            param.train(self.of_slot.len(), view);
            segments.push(Segment { param, range, shape });
            self.of_slot.push(self.list.len());
        }
        self.list.push(Bucket { master, grad, compute, segments, first_slot });
        Ok(())
    }

    /// The buckets, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Bucket> {
        self.list.iter()
    }

    /// Bucket `i`.
    pub fn get(&self, i: usize) -> &Bucket {
        &self.list[i]
    }

    /// How many buckets.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing trains.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of trainable elements.
    pub fn elements(&self) -> usize {
        self.list.iter().flat_map(|bucket| &bucket.segments).map(|segment| segment.range.len()).sum()
    }

    /// The device they live on.
    pub fn device(&self) -> Device {
        self.list.first().map_or(Device::Cpu, |b| b.master.device().clone())
    }

    /// Sets every gradient to zero.
    pub fn zero_grad(&self) -> Result<()> {
        for bucket in &self.list {
            accumulate::zero(&bucket.grad)?;
        }
        Ok(())
    }

    /// A sink that adds into the gradients and, if `hook` is given, calls it with each bucket's index as soon as that bucket
    /// and all before it are complete (so that every rank sees the same order). Give a hook in a step's last micro-batch.
    pub fn sink<'a>(&'a self, hook: Option<Hook<'a>>) -> BucketSink<'a> {
        let left = self.list.iter().map(|b| b.segments.len()).collect();
        BucketSink { buckets: self, left, done: vec![false; self.of_slot.len()], next: 0, hook }
    }
}

/// Called with a bucket's index when its gradient is complete.
pub type Hook<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// Adds gradients into buckets and watches for complete ones.
pub struct BucketSink<'a> {
    buckets: &'a Buckets,
    left: Vec<usize>,
    done: Vec<bool>,
    next: usize,
    hook: Option<Hook<'a>>,
}

impl BucketSink<'_> {
    /// After backward: buckets whose parameters were not all used (a dropped layer) are complete too.
    pub fn finish(mut self) -> Result<()> {
        self.left.fill(0);
        self.fire()
    }

    fn fire(&mut self) -> Result<()> {
        while self.next < self.left.len() && self.left[self.next] == 0 {
            if let Some(hook) = &mut self.hook {
                hook(self.next)?;
            }
            self.next += 1;
        }
        Ok(())
    }
}

impl GradSink for BucketSink<'_> {
    fn add(&mut self, slot: usize, grad: &Tensor) -> Result<()> {
        let bucket = &self.buckets.list[self.buckets.of_slot[slot]];
        let range = bucket.segments[slot - bucket.first_slot].range.clone();
        let view = bucket.grad.narrow(0, range.start, range.len())?;
        Ok(accumulate::add(&view, &grad.contiguous()?.flatten_all()?)?)
    }

    fn done(&mut self, slot: usize) -> Result<()> {
        if !std::mem::replace(&mut self.done[slot], true) {
            self.left[self.buckets.of_slot[slot]] -= 1;
            self.fire()?;
        }
        Ok(())
    }
}
