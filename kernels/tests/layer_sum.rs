//! The weighted layer sum and the layers' means against their f64 definitions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::{assert_close, at_threads, bf16, bits, finite_difference, random, rel_l2, to_f64};
use echat_kernels::layer_sum::{Needs, backward, forward, reference};
use echat_kernels::{SeqLens, mean_pool};

const ALL: Needs = Needs { layers: true, weights: true };

struct Case {
    layers: Vec<Tensor>,
    weights: Tensor,
    seq: SeqLens,
    grad: Tensor,
    grad_means: Tensor,
}

fn case(layers: usize, lens: &[usize], d: usize) -> Case {
    let seq = SeqLens::from_lens(lens.iter().copied());
    let t = seq.total();
    Case {
        layers: (0..layers).map(|l| random(l as u64, &[t, d])).collect(),
        weights: random(100, &[layers]),
        grad: random(102, &[t, d]),
        grad_means: random(103, &[layers, lens.len(), d]),
        seq,
    }
}

/// Sum, means and gradients, in the order sum, d weights, means, d layers.
fn run(c: &Case) -> Vec<Tensor> {
    let (sum, means) = forward(&c.layers, &c.weights, Some(&c.seq)).unwrap();
    let grads = backward(Some(&c.grad), Some(&c.grad_means), &c.layers, &c.weights, Some(&c.seq), ALL).unwrap();
    let mut all = vec![sum, grads.weights.unwrap(), means.unwrap()];
    all.extend(grads.layers.unwrap());
    all
}

fn want(c: &Case) -> Vec<Vec<f64>> {
    let layers: Vec<Vec<f64>> = c.layers.iter().map(to_f64).collect();
    let (raw, grad_means) = (to_f64(&c.weights), to_f64(&c.grad_means));
    let d = c.layers[0].dims()[1];
    let (d_sum, d_raw) = reference::backward(&to_f64(&c.grad), &layers, &raw);
    let means = layers.iter().flat_map(|x| mean_pool::reference::forward(x, &c.seq, d)).collect();
    let mut all = vec![reference::forward(&layers, &raw), d_raw, means];
    all.extend(d_sum.iter().enumerate().map(|(l, from_sum)| {
        let of_layer = &grad_means[l * c.seq.count() * d..][..c.seq.count() * d];
        let from_means = mean_pool::reference::backward(of_layer, &c.seq, d);
        from_sum.iter().zip(&from_means).map(|(a, b)| a + b).collect()
    }));
    all
}

#[test]
fn matches_the_reference() {
    let cases: [(usize, &[usize], usize); 6] =
        [(1, &[1], 1), (3, &[], 8), (2, &[1], 33), (4, &[0, 3, 0], 7), (5, &[30, 1, 39], 65), (12, &[300], 64)];
    for (l, lens, d) in cases {
        let c = case(l, lens, d);
        for (i, (got, want)) in run(&c).iter().zip(&want(&c)).enumerate() {
            // One layer's softmax is constant: its weight's gradient is zero but for rounding.
            assert_close(got, want, 1e-5, &format!("{l} layers of {lens:?} by {d}, output {i}"));
        }
    }
}

#[test]
fn bf16_storage() {
    let mut c = case(4, &[20, 30], 40);
    c.layers = c.layers.iter().map(bf16).collect();
    (c.grad, c.grad_means) = (bf16(&c.grad), bf16(&c.grad_means));
    let got = run(&c);
    assert_eq!([0, 1, 2, 3].map(|i| got[i].dtype()), [DType::BF16, DType::F32, DType::BF16, DType::BF16]);
    for (i, (got, want)) in got.iter().zip(&want(&c)).enumerate() {
        assert_close(got, want, 4e-3, &format!("output {i}"));
    }
}

#[test]
fn reference_gradients_are_the_finite_differences() {
    let c = case(3, &[2], 4);
    let layers: Vec<Vec<f64>> = c.layers.iter().map(to_f64).collect();
    let (raw, grad) = (to_f64(&c.weights), to_f64(&c.grad));
    let loss = |y: Vec<f64>| y.iter().zip(&grad).map(|(y, g)| y * g).sum::<f64>();
    let (d_layers, d_raw) = reference::backward(&grad, &layers, &raw);
    let by_raw = finite_difference(|raw| loss(reference::forward(&layers, raw)), &raw);
    assert!(rel_l2(&d_raw, &by_raw) <= 1e-8);
    let split = |x: &[f64]| x.chunks(8).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let by_layers = finite_difference(|x| loss(reference::forward(&split(x), &raw)), &layers.concat());
    assert!(rel_l2(&d_layers.concat(), &by_layers) <= 1e-8);
}

#[test]
fn only_what_is_needed_is_returned_and_it_is_the_same_bits() {
    let c = case(4, &[25, 35], 50);
    let all = run(&c);
    let (alone, none) = forward(&c.layers, &c.weights, None).unwrap();
    assert!(none.is_none());
    assert_eq!(bits(&alone), bits(&all[0]));

    let needs = Needs { layers: false, weights: true };
    let grads = backward(Some(&c.grad), None, &c.layers, &c.weights, None, needs).unwrap();
    assert!(grads.layers.is_none());
    assert_eq!(bits(&grads.weights.unwrap()), bits(&all[1]));

    // No gradient reached the sum: zeros for its weights, and the layers' as if from the means alone.
    let grads = backward(None, Some(&c.grad_means), &c.layers, &c.weights, Some(&c.seq), ALL).unwrap();
    assert_eq!(to_f64(&grads.weights.unwrap()), [0.0; 4]);
    let d = c.layers[0].dims()[1];
    let of_first = mean_pool::reference::backward(&to_f64(&c.grad_means)[..2 * d], &c.seq, d);
    assert_close(&grads.layers.unwrap()[0], &of_first, 1e-6, "first layer");
}

#[test]
fn a_mean_does_not_depend_on_its_neighbours() {
    let c = case(3, &[7, 11, 2], 24);
    let (_, means) = forward(&c.layers, &c.weights, Some(&c.seq)).unwrap();
    let alone: Vec<Tensor> = c.layers.iter().map(|x| x.narrow(0, 7, 11).unwrap().contiguous().unwrap()).collect();
    let (_, one) = forward(&alone, &c.weights, Some(&SeqLens::from_lens([11]))).unwrap();
    assert_eq!(bits(&means.unwrap().narrow(1, 1, 1).unwrap().contiguous().unwrap()), bits(&one.unwrap()));
}

#[test]
fn same_bits_at_any_thread_count() {
    let c = case(6, &[120, 80], 70);
    let run = |n| at_threads(n, || run(&c).iter().map(bits).collect::<Vec<_>>());
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let c = case(3, &[4], 5);
    assert!(forward(&[], &c.weights, None).unwrap_err().to_string().contains("no layers"));
    assert!(forward(&c.layers[..2], &c.weights, None).is_err());
    assert!(forward(&c.layers, &c.weights, Some(&SeqLens::from_lens([5]))).is_err());
    let odd = [c.layers[0].clone(), random(1, &[5, 4]), c.layers[1].clone()];
    assert!(forward(&odd, &c.weights, None).is_err());
    let grads = |grad: &Tensor, means: &Tensor, seq| {
        backward(Some(grad), Some(means), &c.layers, &c.weights, seq, ALL).is_err()
    };
    assert!(grads(&random(1, &[4, 4]), &c.grad_means, Some(&c.seq)));
    assert!(grads(&c.grad, &random(1, &[3, 2, 5]), Some(&c.seq)));
    assert!(grads(&c.grad, &c.grad_means, None));
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_any_lengths_widths_and_numbers_of_layers() {
    echat_kernels::cuda::emulated(|| {
        let cases: [(usize, &[usize], usize); 5] =
            [(2, &[64, 0, 65, 0], 40), (25, &[5], 9), (3, &[130, 1], 300), (64, &[3, 70], 24), (33, &[9], 8)];
        for (l, lens, d) in cases {
            let mut c = case(l, lens, d);
            for tol in [1e-5, 4e-3] {
                for (i, (got, want)) in run(&c).iter().zip(&want(&c)).enumerate() {
                    assert_close(got, want, tol, &format!("{l} layers of {lens:?} by {d}, output {i}"));
                }
                c.layers = c.layers.iter().map(bf16).collect();
                (c.grad, c.grad_means) = (bf16(&c.grad), bf16(&c.grad_means));
            }
        }
        let c = case(65, &[2], 4);
        assert!(forward(&c.layers, &c.weights, None).unwrap_err().to_string().contains("65 tensors are more than 64"));
        let mut c = case(2, &[2], 4);
        c.layers[1] = bf16(&c.layers[1]);
        assert!(forward(&c.layers, &c.weights, None).unwrap_err().to_string().contains("kernels take one"));
    });
}

#[cfg(feature = "emulate")]
#[test]
fn a_kernels_mean_does_not_depend_on_its_neighbours_over_several_chunks() {
    echat_kernels::cuda::emulated(|| {
        let c = case(3, &[7, 150, 2], 24);
        let (_, means) = forward(&c.layers, &c.weights, Some(&c.seq)).unwrap();
        let alone: Vec<Tensor> = c.layers.iter().map(|x| x.narrow(0, 7, 150).unwrap()).collect();
        let (_, one) = forward(&alone, &c.weights, Some(&SeqLens::from_lens([150]))).unwrap();
        assert_eq!(bits(&means.unwrap().narrow(1, 1, 1).unwrap().contiguous().unwrap()), bits(&one.unwrap()));
    });
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference,
    bf16_storage,
    a_mean_does_not_depend_on_its_neighbours,
    only_what_is_needed_is_returned_and_it_is_the_same_bits,
    wrong_shapes_are_errors
);
