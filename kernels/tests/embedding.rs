//! Token embedding against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::embedding::{backward, forward, reference};

fn ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 31 % vocab) as u32).collect()
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for (vocab, d, t) in [(1, 1, 1), (7, 5, 20), (500, 64, 333), (3, 100, 1), (4, 4, 0)] {
        let (table, g, ids) = (random(1, &[vocab, d]), random(2, &[t, d]), ids(t, vocab));
        let y = forward(&table, &ids).unwrap();
        assert_eq!(y.dims(), [t, d]);
        assert_eq!(to_f64(&y), reference::forward(&to_f64(&table), &ids, d));
        let grad = backward(&g, &ids, vocab).unwrap();
        assert_close(&grad, &reference::backward(&to_f64(&g), &ids, d, vocab), 1e-6, "dtable");
    }
}

#[test]
fn stores_bf16_and_gives_the_gradient_in_f32() {
    let (table, g, ids) = (bf16(&random(1, &[7, 6])), bf16(&random(2, &[9, 6])), ids(9, 7));
    let y = forward(&table, &ids).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_eq!(to_f64(&y), reference::forward(&to_f64(&table), &ids, 6));
    let grad = backward(&g, &ids, 7).unwrap();
    assert_eq!(grad.dtype(), candle_core::DType::F32);
    assert_close(&grad, &reference::backward(&to_f64(&g), &ids, 6, 7), 1e-6, "dtable");
}

#[test]
fn reference_gradient_is_finite_differences() {
    let (table, g, ids) = (to_f64(&random(1, &[4, 3])), to_f64(&random(2, &[6, 3])), ids(6, 4));
    let loss = |table: &[f64]| reference::forward(table, &ids, 3).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    assert!(rel_l2(&reference::backward(&g, &ids, 3, 4), &finite_difference(loss, &table)) <= 1e-8);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (g, ids) = (random(2, &[900, 64]), ids(900, 300));
    let run = |threads| at_threads(threads, || bits(&backward(&g, &ids, 300).unwrap()));
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_and_ids_are_errors() {
    let table = random(1, &[5, 3]);
    let error = forward(&table, &[0, 5]).unwrap_err().to_string();
    assert!(error.contains("id 5") && error.contains("vocabulary of 5"), "{error}");
    assert!(forward(&table, &[u32::MAX]).is_err());
    assert!(forward(&random(1, &[5]), &[0]).is_err());
    assert!(backward(&random(1, &[2, 3]), &[0], 5).is_err());
    assert!(backward(&random(1, &[1, 3]), &[5], 5).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_add_up_an_id_that_comes_often_and_in_its_order() {
    echat_kernels::cuda::emulated(|| {
        for d in [24, 33, 2100] {
            // Three in four are id 2: several blocks' worth of rows.
            let ids: Vec<u32> = (0..300).map(|i| if i % 4 == 0 { i % 7 } else { 2 }).collect();
            for g in [random(2, &[300, d]), bf16(&random(2, &[300, d]))] {
                let grad = backward(&g, &ids, 9).unwrap();
                assert_close(&grad, &reference::backward(&to_f64(&g), &ids, d, 9), 1e-6, "dtable");
            }
        }
        assert_eq!(to_f64(&backward(&random(2, &[0, 2]), &[], 2).unwrap()), [0.0; 4]);
    });
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    stores_bf16_and_gives_the_gradient_in_f32,
    wrong_shapes_and_ids_are_errors
);
