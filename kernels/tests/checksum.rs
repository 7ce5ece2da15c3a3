//! Checksums against their definition, and what they must tell apart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{DType, Device, Tensor};
use common::*;
use echat_kernels::checksum::{checksums, reference};

fn checksum(t: &Tensor) -> u64 {
    checksums(&[t]).unwrap()[0]
}

fn of(values: &[f32]) -> u64 {
    checksum(&Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap())
}

/// Numbers that all differ.
fn values(n: usize) -> Vec<f32> {
    random(7, &[n]).to_vec1().unwrap()
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for count in [0, 1, 2, 3, 4, 5, 7, 8, 9, 1023, 1025, 65_535, 65_537, 200_003] {
        let x = random(1, &[count]);
        for x in [bf16(&x), x] {
            assert_eq!(checksum(&x), reference::checksum(&bits(&x)), "{count} of {:?}", x.dtype());
        }
    }
}

#[test]
fn a_view_that_begins_anywhere_counts_from_its_own_beginning() {
    let x = random(1, &[5_003]);
    for x in [bf16(&x), x] {
        for first in [1, 2, 3, 5, 8] {
            let view = x.narrow(0, first, 4_990).unwrap();
            assert_eq!(checksum(&view), reference::checksum(&bits(&view)), "from {first} of {:?}", x.dtype());
            assert_eq!(checksum(&view), checksum(&view.copy().unwrap()));
        }
    }
}

#[test]
fn many_tensors_come_back_at_once_and_do_not_mix() {
    let list: Vec<Tensor> = (0..300).map(|i| random(i, &[1 + 37 * i as usize % 4_000])).collect();
    let list: Vec<Tensor> =
        list.iter().enumerate().map(|(i, t)| if i % 3 == 0 { bf16(t) } else { t.clone() }).collect();
    let want: Vec<u64> = list.iter().map(|t| reference::checksum(&bits(t))).collect();
    assert_eq!(checksums(&list.iter().collect::<Vec<_>>()).unwrap(), want);
    assert_eq!(checksums(&[]).unwrap(), [0; 0]);
}

#[test]
fn bf16_and_the_same_values_as_f32_have_one_checksum_and_the_shape_does_not_count() {
    let narrow = bf16(&random(3, &[12, 35]));
    let one = checksum(&narrow);
    assert_eq!(one, checksum(&narrow.to_dtype(DType::F32).unwrap()));
    assert_eq!(one, checksum(&narrow.reshape((35, 12)).unwrap()));
}

#[test]
fn swapped_elements_and_moved_blocks_show() {
    let whole = values(40_000);
    let one = of(&whole);
    for (i, j) in [(0, 1), (0, 2), (1, 2), (3, 4), (17, 39_999), (16_384, 32_768)] {
        let mut swapped = whole.clone();
        swapped.swap(i, j);
        assert_ne!(one, of(&swapped), "{i} and {j} swapped");
    }
    for by in [1, 2, 256, 1024, 16_384] {
        let mut moved = whole.clone();
        moved.rotate_left(by);
        assert_ne!(one, of(&moved), "moved by {by}");
    }
    let mut halves = whole.clone();
    let (a, b) = halves.split_at_mut(20_000);
    a.swap_with_slice(b);
    assert_ne!(one, of(&halves));
}

#[test]
fn every_bit_counts() {
    let whole = values(5_000);
    let one = of(&whole);
    for at in [0, 1, 2_499, 4_998, 4_999] {
        for bit in 0..32 {
            let mut flipped = whole.clone();
            flipped[at] = f32::from_bits(flipped[at].to_bits() ^ 1 << bit);
            assert_ne!(one, of(&flipped), "bit {bit} of element {at}");
        }
    }
}

#[test]
fn signs_of_zero_and_payloads_of_nan_show() {
    let with = |x: f32| {
        let mut values = values(1_001);
        values[500] = x;
        of(&values)
    };
    assert_ne!(with(0.0), with(-0.0));
    let nan = |payload: u32| f32::from_bits(0x7fc0_0000 | payload);
    assert_ne!(with(nan(0)), with(nan(1)));
    assert_ne!(with(nan(0)), with(-nan(0)));
    assert_eq!(with(nan(1)), with(nan(1)), "a NaN is itself");
    let narrow = |bits: u16| checksum(&Tensor::from_slice(&[half::bf16::from_bits(bits)], 1, &Device::Cpu).unwrap());
    assert_ne!(narrow(0x7fc0), narrow(0x7fc1));
    assert_ne!(narrow(0x0000), narrow(0x8000));
}

#[test]
fn the_length_counts() {
    let sums: Vec<u64> = (0..40).map(|n| of(&vec![0.0; n])).collect();
    for (n, sum) in sums.iter().enumerate() {
        assert!(!sums[..n].contains(sum), "{n} zeros");
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let x = random(1, &[300_001]);
    let one = at_threads(1, || checksum(&x));
    assert_eq!(one, at_threads(2, || checksum(&x)));
    assert_eq!(one, at_threads(3, || checksum(&x)));
}

#[test]
fn what_is_not_contiguous_or_a_float_is_an_error() {
    assert!(checksums(&[&random(1, &[3, 4]).t().unwrap()]).is_err());
    let words = checksums(&[&Tensor::new(&[1u32], &Device::Cpu).unwrap()]).unwrap_err().to_string();
    assert!(words.starts_with("checksum: no implementation for dtype U32"), "{words}");
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    a_view_that_begins_anywhere_counts_from_its_own_beginning,
    many_tensors_come_back_at_once_and_do_not_mix,
    bf16_and_the_same_values_as_f32_have_one_checksum_and_the_shape_does_not_count,
    swapped_elements_and_moved_blocks_show,
    every_bit_counts,
    signs_of_zero_and_payloads_of_nan_show,
    the_length_counts,
    what_is_not_contiguous_or_a_float_is_an_error
);
