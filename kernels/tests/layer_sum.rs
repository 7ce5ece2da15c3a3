//! The dual weighted layer sum against its f64 definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::{assert_close, at_threads, bf16, bits, finite_difference, random, rel_l2, to_f64};
use echat_kernels::layer_sum::{Needs, backward, forward, reference};

const ALL: Needs = Needs { layers: true, speech: true, emotion: true };

struct Case {
    layers: Vec<Tensor>,
    speech: Tensor,
    emotion: Tensor,
    grads: [Tensor; 2],
}

fn case(layers: usize, t: usize, d: usize) -> Case {
    Case {
        layers: (0..layers).map(|l| random(l as u64, &[t, d])).collect(),
        speech: random(100, &[layers]),
        emotion: random(101, &[layers]),
        grads: [random(102, &[t, d]), random(103, &[t, d])],
    }
}

/// Sums and gradients, in the order speech, emotion, d speech, d emotion, d layers.
fn run(c: &Case) -> Vec<Tensor> {
    let (speech, emotion) = forward(&c.layers, &c.speech, Some(&c.emotion)).unwrap();
    let grads = backward(Some(&c.grads[0]), Some(&c.grads[1]), &c.layers, &c.speech, Some(&c.emotion), ALL).unwrap();
    let mut all = vec![speech, emotion.unwrap(), grads.speech.unwrap(), grads.emotion.unwrap()];
    all.extend(grads.layers.unwrap());
    all
}

fn want(c: &Case) -> Vec<Vec<f64>> {
    let layers: Vec<Vec<f64>> = c.layers.iter().map(to_f64).collect();
    let raw = [to_f64(&c.speech), to_f64(&c.emotion)];
    let (d_a, d_raw_a) = reference::backward(&to_f64(&c.grads[0]), &layers, &raw[0]);
    let (d_b, d_raw_b) = reference::backward(&to_f64(&c.grads[1]), &layers, &raw[1]);
    let mut all = vec![reference::forward(&layers, &raw[0]), reference::forward(&layers, &raw[1]), d_raw_a, d_raw_b];
    all.extend(d_a.iter().zip(&d_b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()));
    all
}

#[test]
fn matches_the_reference() {
    for (l, t, d) in [(1, 1, 1), (3, 0, 8), (2, 1, 33), (5, 70, 65), (12, 300, 64)] {
        let c = case(l, t, d);
        for (i, (got, want)) in run(&c).iter().zip(&want(&c)).enumerate() {
            // One layer's softmax is constant: its weight's gradient is zero but for rounding.
            assert_close(got, want, 1e-5, &format!("{l} layers of [{t}, {d}], output {i}"));
        }
    }
}

#[test]
fn bf16_storage() {
    let mut c = case(4, 50, 40);
    c.layers = c.layers.iter().map(bf16).collect();
    c.grads = [bf16(&c.grads[0]), bf16(&c.grads[1])];
    let got = run(&c);
    assert_eq!((got[0].dtype(), got[2].dtype(), got[4].dtype()), (DType::BF16, DType::F32, DType::BF16));
    for (i, (got, want)) in got.iter().zip(&want(&c)).enumerate() {
        assert_close(got, want, 4e-3, &format!("output {i}"));
    }
}

#[test]
fn reference_gradients_are_the_finite_differences() {
    let c = case(3, 2, 4);
    let layers: Vec<Vec<f64>> = c.layers.iter().map(to_f64).collect();
    let (raw, grad) = (to_f64(&c.speech), to_f64(&c.grads[0]));
    let loss = |y: Vec<f64>| y.iter().zip(&grad).map(|(y, g)| y * g).sum::<f64>();
    let (d_layers, d_raw) = reference::backward(&grad, &layers, &raw);
    let by_raw = finite_difference(|raw| loss(reference::forward(&layers, raw)), &raw);
    assert!(rel_l2(&d_raw, &by_raw) <= 1e-8);
    let split = |x: &[f64]| x.chunks(8).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let by_layers = finite_difference(|x| loss(reference::forward(&split(x), &raw)), &layers.concat());
    assert!(rel_l2(&d_layers.concat(), &by_layers) <= 1e-8);
}

#[test]
fn one_sum_is_the_first_of_two_bitwise_and_only_what_is_needed_is_returned() {
    let c = case(4, 60, 50);
    let (both, _) = forward(&c.layers, &c.speech, Some(&c.emotion)).unwrap();
    let (one, none) = forward(&c.layers, &c.speech, None).unwrap();
    assert!(none.is_none());
    assert_eq!(bits(&one), bits(&both));

    let needs = Needs { layers: false, speech: true, emotion: false };
    let grads = backward(Some(&c.grads[0]), None, &c.layers, &c.speech, None, needs).unwrap();
    assert!(grads.layers.is_none() && grads.emotion.is_none());
    assert_eq!(bits(&grads.speech.unwrap()), bits(&run(&c)[2]));

    // No gradient reached the speech sum: zeros, and the emotion side as if alone.
    let grads = backward(None, Some(&c.grads[1]), &c.layers, &c.speech, Some(&c.emotion), ALL).unwrap();
    assert_eq!(to_f64(&grads.speech.unwrap()), [0.0; 4]);
    assert_eq!(bits(&grads.emotion.unwrap()), bits(&run(&c)[3]));
}

#[test]
fn same_bits_at_any_thread_count() {
    let c = case(6, 200, 70);
    let run = |n| at_threads(n, || run(&c).iter().map(bits).collect::<Vec<_>>());
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let c = case(3, 4, 5);
    assert!(forward(&[], &c.speech, None).unwrap_err().to_string().contains("no layers"));
    assert!(forward(&c.layers[..2], &c.speech, None).is_err());
    assert!(forward(&c.layers, &c.speech, Some(&random(1, &[2]))).is_err());
    let odd = [c.layers[0].clone(), random(1, &[5, 4]), c.layers[1].clone()];
    assert!(forward(&odd, &c.speech, None).is_err());
    assert!(backward(Some(&random(1, &[4, 4])), None, &c.layers, &c.speech, None, ALL).is_err());
    assert!(backward(None, Some(&c.grads[0]), &c.layers, &c.speech, None, ALL).is_err());
}
