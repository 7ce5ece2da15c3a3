//! One process: every operation is the identity.

use candle_core::Tensor;

use super::{Collective, Error, Pending, Result, State, World};

/// The collective of a single process.
#[derive(Debug)]
pub struct Solo {
    world: World,
}

impl Solo {
    /// The collective of `world`, which has one process.
    pub fn new(world: World) -> Self {
        Self { world }
    }
}

impl Collective for Solo {
    fn world(&self) -> &World {
        &self.world
    }

    fn start_all_reduce(&mut self, buffer: Vec<f32>) -> Result<Pending> {
        Ok(Pending(State::Done(buffer)))
    }

    fn wait(&mut self, pending: Pending) -> Result<Vec<f32>> {
        match pending.0 {
            State::Done(buffer) => Ok(buffer),
            #[cfg(any(feature = "mpi", feature = "cuda"))]
            _ => Err(Error::NotStarted),
        }
    }

    fn start_sum(&mut self, _tensor: &Tensor) -> Result<Pending> {
        Ok(Pending(State::Done(Vec::new())))
    }

    fn finish_sum(&mut self, pending: Pending, _tensor: &Tensor) -> Result<()> {
        self.wait(pending).map(|_| ())
    }

    fn progress(&mut self) -> Result<()> {
        Ok(())
    }

    fn all_reduce_f64(&mut self, _values: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn broadcast_bytes(&mut self, root: usize, _bytes: &mut Vec<u8>) -> Result<()> {
        only_root(root)
    }

    fn broadcast_f32(&mut self, root: usize, _values: &mut [f32]) -> Result<()> {
        only_root(root)
    }

    fn all_gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn abort(&mut self, code: i32) -> ! {
        std::process::exit(code)
    }
}

fn only_root(root: usize) -> Result<()> {
    if root == 0 { Ok(()) } else { Err(Error::Root { root, size: 1 }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_the_identity() {
        let mut solo = Solo::new(World::single("a"));
        let pending = solo.start_all_reduce(vec![1.0, 2.0]).unwrap();
        solo.progress().unwrap();
        assert_eq!(solo.wait(pending).unwrap(), [1.0, 2.0]);
        let tensor = Tensor::new(&[5f32, 6.0], &candle_core::Device::Cpu).unwrap();
        let pending = solo.start_sum(&tensor).unwrap();
        solo.finish_sum(pending, &tensor).unwrap();
        assert_eq!(tensor.to_vec1::<f32>().unwrap(), [5.0, 6.0]);
        let mut sums = [3.0];
        solo.all_reduce_f64(&mut sums).unwrap();
        assert_eq!(sums, [3.0]);
        let mut bytes = vec![4];
        solo.broadcast_bytes(0, &mut bytes).unwrap();
        assert_eq!(solo.all_gather_bytes(&bytes).unwrap(), [vec![4]]);
        solo.barrier().unwrap();
    }

    #[test]
    fn a_root_that_does_not_exist_is_an_error() {
        let error = Solo::new(World::single("a")).broadcast_f32(1, &mut [0.0]).unwrap_err();
        assert_eq!(error.to_string(), "rank 1 does not exist: there are 1");
    }
}
