//! One short text that says which weights these are.

use candle_core::Tensor;
use echat_kernels::checksum::checksums;
use sha2::{Digest, Sha256};

use super::Result;
use crate::autograd::Param;

/// What a fingerprint begins with: how it was made.
const FORM: &str = "sum64:";

/// A hash over names, shapes and values: `sum64:` and 16 hexadecimal digits. Values count by their bits as f32, so the same weights held as bf16 and
/// as f32 have one fingerprint. The order of `params` does not matter. All are hashed where they lie, and a GPU is waited for once.
pub fn fingerprint<'a>(params: impl IntoIterator<Item = &'a Param>) -> Result<String> {
    let mut params: Vec<&Param> = params.into_iter().collect();
    params.sort_by_key(|p| p.name());
    let tensors: Vec<Tensor> = params.iter().map(|p| p.tensor().contiguous()).collect::<candle_core::Result<_>>()?;
    let sums = checksums(&tensors.iter().collect::<Vec<_>>())?;
    let mut hash = Sha256::new();
    for ((param, tensor), sum) in params.iter().zip(&tensors).zip(sums) {
        hash.update(format!("{} {:?} {sum:016x}\n", param.name(), tensor.dims()));
    }
    let digits: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{FORM}{digits}"))
}

/// Whether `print` was made as [`fingerprint`] makes them. One of an earlier version says nothing about weights that are here now.
pub fn is_comparable(print: &str) -> bool {
    print.starts_with(FORM)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{DType, Device, Tensor};

    use super::{fingerprint, is_comparable};
    use crate::autograd::{Group, Param};

    fn param(name: &str, t: Tensor) -> Param {
        Param::constant(name, Group::Encoder, t)
    }

    #[test]
    fn names_shapes_and_values_count_dtype_and_order_do_not() {
        let values = |last: f32| {
            let mut v: Vec<f32> = (0..(1 << 20) + 3).map(|i| (i % 251) as f32).collect();
            *v.last_mut().unwrap() = last;
            Tensor::new(v, &Device::Cpu).unwrap()
        };
        let (a, b) = (param("a", values(1.0)), param("b", Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap()));
        let one = fingerprint([&a, &b]).unwrap();
        assert_eq!(one.len(), "sum64:".len() + 16);
        assert_eq!(one, fingerprint([&b, &a]).unwrap());
        assert_eq!(one, fingerprint([&param("a", values(1.0).to_dtype(DType::BF16).unwrap()), &b]).unwrap());
        assert_ne!(one, fingerprint([&param("a", values(2.0)), &b]).unwrap());
        assert_ne!(one, fingerprint([&param("c", values(1.0)), &b]).unwrap());
        let wide = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        assert_ne!(one, fingerprint([&a, &param("b", wide)]).unwrap());
    }

    #[test]
    fn a_fingerprint_says_how_it_was_made() {
        let t = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap().t().unwrap();
        assert!(is_comparable(&fingerprint([&param("transposed", t)]).unwrap()));
        assert!(!is_comparable("0123456789abcdef"), "as versions before had it");
    }
}
