//! Numbers of a device, read later.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{DType, Device, Tensor};
use echat_kernels::readback::Readback;

#[test]
fn numbers_come_in_the_order_of_their_tensors_as_they_were_when_sent_for() {
    let numbers = |from: f64| Tensor::new(&[from, from + 1.0, f64::NEG_INFINITY], &Device::Cpu).unwrap();
    let (first, second) = (numbers(1.0).narrow(0, 1, 2).unwrap(), numbers(5.0));
    let coming = Readback::start(&[&first, &second]).unwrap();
    first.slice_set(&Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap(), 0, 0).unwrap();
    assert!(coming.is_there().unwrap());
    assert_eq!(coming.numbers().unwrap(), [2.0, f64::NEG_INFINITY, 5.0, 6.0, f64::NEG_INFINITY]);
    assert!(Readback::start(&[]).unwrap().numbers().unwrap().is_empty());
}

#[test]
fn other_numbers_are_refused() {
    let single = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    assert!(Readback::start(&[&single]).unwrap_err().to_string().contains("F32"));
}
