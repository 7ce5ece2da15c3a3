//! Every op on a device against its f64 definition, at ragged sizes: what `echat gpu-check` runs on a GPU, and tests without one.

mod products;
mod rows;
mod sequences;
mod training;

use candle_core::{DType, Device, Tensor};

use crate::{Result, SeqLens, rng};

/// One comparison.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The op.
    pub op: &'static str,
    /// Which of its results, at which sizes.
    pub what: String,
    /// What it was computed in.
    pub dtype: DType,
    /// `|got - want| / |want|` in the 2-norm; infinite where anything is not finite.
    pub error: f64,
    /// What it may be.
    pub bound: f64,
}

impl Compared {
    /// Whether the error is within its bound.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

/// Compares every op on `device`, in f32 and bf16. One that cannot be computed is a comparison that does not hold and says why.
pub fn run(device: &Device) -> Vec<Compared> {
    let mut check = Check { device, dtype: DType::F32, compared: Vec::new() };
    for dtype in [DType::F32, DType::BF16] {
        check.dtype = dtype;
        rows::run(&mut check);
        sequences::run(&mut check);
        products::run(&mut check);
    }
    check.dtype = DType::F32;
    training::run(&mut check);
    check.compared
}

/// Compares attention by those instructions that `device` has and that are not taken there ([`crate::attention::paths`]), in bf16: an op of its own, for what fails in it
/// may end all else on a GPU.
pub fn other_paths(device: &Device) -> Vec<Compared> {
    let mut check = Check { device, dtype: DType::BF16, compared: Vec::new() };
    sequences::other_paths(&mut check);
    check.compared
}

/// What comparisons have in common.
struct Check<'a> {
    device: &'a Device,
    dtype: DType,
    compared: Vec<Compared>,
}

impl Check<'_> {
    /// What an error may be: rounding of f32 arithmetic, or of bf16 storage.
    fn bound(&self) -> f64 {
        if self.dtype == DType::BF16 { 1e-2 } else { 1e-5 }
    }

    /// A tensor of numbers in [-1, 1) in the dtype at hand, and those numbers.
    fn random(&self, seed: u64, shape: &[usize]) -> Result<(Tensor, Vec<f64>)> {
        self.random_as(seed, shape, self.dtype)
    }

    fn random_as(&self, seed: u64, shape: &[usize], dtype: DType) -> Result<(Tensor, Vec<f64>)> {
        let stream = rng::key(rng::site("check"), seed);
        let value = |i| (2.0 * rng::uniform(rng::key(stream, i)) - 1.0) as f32;
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
        let on_host = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?;
        Ok((on_host.to_device(self.device)?, host(&on_host)?))
    }

    /// Makes the comparisons of `ops`; what ends them early is one that does not hold.
    fn attempt(&mut self, ops: &'static str, compare: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = compare(self) {
            let (what, dtype) = (error.to_string(), self.dtype);
            self.compared.push(Compared { op: ops, what, dtype, error: f64::INFINITY, bound: self.bound() });
        }
    }

    fn compare(&mut self, op: &'static str, what: impl Into<String>, got: &Tensor, want: &[f64]) -> Result<()> {
        let bound = self.bound();
        self.compare_within(op, what, got, want, bound)
    }

    fn compare_within(
        &mut self,
        op: &'static str,
        what: impl Into<String>,
        got: &Tensor,
        want: &[f64],
        bound: f64,
    ) -> Result<()> {
        let error = relative_error(&host(got)?, want);
        self.compared.push(Compared { op, what: what.into(), dtype: self.dtype, error, bound });
        Ok(())
    }

    /// Of integers nothing else will do.
    fn equal(&mut self, op: &'static str, what: impl Into<String>, got: &[u64], want: &[u64]) {
        let error = if got == want { 0.0 } else { f64::INFINITY };
        self.compared.push(Compared { op, what: what.into(), dtype: self.dtype, error, bound: 0.0 });
    }
}

/// The elements of `t`.
fn host(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    if got.len() != want.len() || got.iter().chain(want).any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    let scale: f64 = want.iter().map(|w| w * w).sum();
    if scale == 0.0 { error.sqrt() } else { (error / scale).sqrt() }
}

/// Ragged lengths, some of them zero.
fn ragged() -> SeqLens {
    SeqLens::from_lens([70, 1, 0, 129, 33])
}

/// A key for each sequence of `seq`.
fn streams(seq: &SeqLens) -> Vec<u64> {
    (0..seq.count() as u64).map(|i| rng::key(rng::site("check streams"), i)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_op_that_fails_is_a_comparison_that_does_not_hold_and_the_next_follows() {
        let mut check = Check { device: &Device::Cpu, dtype: DType::BF16, compared: Vec::new() };
        check.attempt("rope", |_| Err(crate::Error::Value { op: "rope", message: "no such launch".into() }));
        check.attempt("sums", |check| check.compare("sums", "one", &Tensor::new(&[1f32], &Device::Cpu)?, &[1.0]));
        let [failed, held] = &check.compared[..] else { unreachable!() };
        assert!(!failed.holds() && failed.op == "rope" && failed.what.contains("no such launch"));
        assert!(held.holds());
    }
}
