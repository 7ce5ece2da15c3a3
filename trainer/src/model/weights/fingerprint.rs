//! One short text that says which weights these are.

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Result;
use crate::autograd::Param;

/// Elements a thread hashes at a time.
const CHUNK: usize = 1 << 20;

/// A hash over names, shapes and values, 16 hexadecimal digits. Values count as f32, so the same weights held as bf16 and
/// as f32 have one fingerprint. The order of `params` does not matter.
pub fn fingerprint<'a>(params: impl IntoIterator<Item = &'a Param>) -> Result<String> {
    let mut params: Vec<&Param> = params.into_iter().collect();
    params.sort_by_key(|p| p.name());
    let mut hash = Sha256::new();
    for param in params {
        let tensor = param.tensor();
        hash.update(format!("{} {:?} {:08x}\n", param.name(), tensor.dims(), crc(&tensor)?));
    }
    Ok(hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// CRC-32 of the values as little-endian f32.
fn crc(tensor: &Tensor) -> Result<u32> {
    let flat = tensor.flatten_all()?;
    let parts: Vec<crc32fast::Hasher> = (0..flat.elem_count().div_ceil(CHUNK))
        .into_par_iter()
        .map(|i| {
            let start = i * CHUNK;
            let part = flat.narrow(0, start, CHUNK.min(flat.elem_count() - start))?;
            let values = part.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes);
            Ok(hasher)
        })
        .collect::<Result<_>>()?;
    let mut whole = crc32fast::Hasher::new();
    parts.iter().for_each(|part| whole.combine(part));
    Ok(whole.finalize())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{DType, Device, Tensor};

    use super::fingerprint;
    use crate::autograd::{Group, Param};

    #[test]
    fn names_shapes_and_values_count_dtype_and_order_do_not() {
        let values = |last: f32| {
            let mut v: Vec<f32> = (0..super::CHUNK + 3).map(|i| (i % 251) as f32).collect();
            *v.last_mut().unwrap() = last;
            Tensor::new(v, &Device::Cpu).unwrap()
        };
        let param = |name: &str, t: Tensor| Param::constant(name, Group::Encoder, t);
        let (a, b) = (param("a", values(1.0)), param("b", Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap()));
        let one = fingerprint([&a, &b]).unwrap();
        assert_eq!(one.len(), 16);
        assert_eq!(one, fingerprint([&b, &a]).unwrap());
        assert_eq!(one, fingerprint([&param("a", values(1.0).to_dtype(DType::BF16).unwrap()), &b]).unwrap());
        assert_ne!(one, fingerprint([&param("a", values(2.0)), &b]).unwrap());
        assert_ne!(one, fingerprint([&param("c", values(1.0)), &b]).unwrap());
        let wide = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        assert_ne!(one, fingerprint([&a, &param("b", wide)]).unwrap());
    }
}
