//! Packed attention against its f64 definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, at_threads, bf16, bits, finite_difference, random, rel_l2, to_f64};
use echat_kernels::attention::{Attention, Dropout, backward, forward, infer, reference};
#[cfg(feature = "emulate")]
use echat_kernels::attention::{Path, warpgroup_products, with_path};
use echat_kernels::{SeqLens, rng};

struct Case {
    q_seq: SeqLens,
    k_seq: SeqLens,
    heads: (usize, usize, usize),
    causal: bool,
    dropout: f32,
    streams: Vec<u64>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
}

impl Case {
    fn new(lq: &[usize], lk: &[usize], heads: (usize, usize, usize), causal: bool, dropout: f32) -> Self {
        let (h, hk, dh) = heads;
        let (q_seq, k_seq) = (SeqLens::from_lens(lq.to_vec()), SeqLens::from_lens(lk.to_vec()));
        let (tq, tk) = (q_seq.total(), k_seq.total());
        Self {
            heads,
            causal,
            dropout,
            streams: (0..lq.len()).map(|i| rng::key(7, i as u64)).collect(),
            // Larger than usual, so that the softmax is far from uniform.
            q: (random(1, &[tq, h, dh]) * 3.0).unwrap(),
            k: random(2, &[tk, hk, dh]),
            v: random(3, &[tk, hk, dh]),
            grad: random(4, &[tq, h, dh]),
            q_seq,
            k_seq,
        }
    }

    fn args(&self) -> Attention<'_> {
        let dropout = (self.dropout > 0.0).then_some(Dropout { p: self.dropout, streams: &self.streams });
        let scale = 1.0 / (self.heads.2 as f32).sqrt();
        Attention { q_seq: &self.q_seq, k_seq: &self.k_seq, causal: self.causal, scale, dropout }
    }

    /// Output, log-sum-exp and the gradients of q, k and v.
    fn run(&self) -> [Tensor; 5] {
        let args = self.args();
        let (out, lse) = forward(&self.q, &self.k, &self.v, &args).unwrap();
        let (dq, dk, dv) = backward(&self.grad, &self.q, &self.k, &self.v, &out, &lse, &args).unwrap();
        [out, lse, dq, dk, dv]
    }

    fn want(&self) -> [Vec<f64>; 5] {
        let (q, k, v, grad) = (to_f64(&self.q), to_f64(&self.k), to_f64(&self.v), to_f64(&self.grad));
        let (out, lse) = reference::forward(&q, &k, &v, self.heads, &self.args());
        let (dq, dk, dv) = reference::backward(&grad, &q, &k, &v, self.heads, &self.args());
        [out, lse, dq, dk, dv]
    }

    fn check(&self, tol: f64) {
        let shape = format!("{:?} {:?} {:?}", self.q_seq.offsets(), self.k_seq.offsets(), self.heads);
        for ((name, got), want) in ["out", "lse", "dq", "dk", "dv"].iter().zip(self.run()).zip(self.want()) {
            if *name == "lse" {
                // Where a query sees no key both are -infinity; the rest is compared.
                let got = to_f64(&got);
                let seen = |x: &[f64]| x.iter().copied().filter(|x| *x != f64::NEG_INFINITY).collect::<Vec<_>>();
                assert!(got.iter().zip(&want).all(|(g, w)| g.is_infinite() == w.is_infinite()), "lse of {shape}");
                let error = rel_l2(&seen(&got), &seen(&want));
                assert!(error <= tol.min(1e-5), "lse of {shape}: {error:e}");
            } else {
                assert_close(&got, &want, tol, &format!("{name} of {shape} causal {}", self.causal));
            }
        }
    }
}

const RAGGED: [usize; 7] = [5, 1, 0, 17, 64, 150, 33];

#[test]
fn self_attention_matches_the_reference() {
    for causal in [false, true] {
        for heads in [(1, 1, 1), (2, 2, 32), (4, 2, 20), (3, 1, 64), (1, 1, 128)] {
            Case::new(&RAGGED, &RAGGED, heads, causal, 0.0).check(1e-5);
        }
        Case::new(&[3, 20], &[3, 20], (2, 1, 256), causal, 0.0).check(1e-5);
        Case::new(&[700], &[700], (1, 1, 16), causal, 0.0).check(1e-5);
        Case::new(&[], &[], (2, 2, 16), causal, 0.0).check(1e-5);
        Case::new(&[0], &[0], (2, 2, 16), causal, 0.0).check(1e-5);
    }
}

#[test]
fn other_lengths_of_keys_match_the_reference() {
    // More keys, fewer keys, none; fewer keys and causal leaves the first queries without any.
    let (lq, lk) = ([1, 1, 7, 70, 130, 90, 4, 0], [1, 300, 260, 129, 20, 1, 0, 6]);
    for causal in [false, true] {
        for heads in [(4, 4, 32), (4, 1, 48)] {
            Case::new(&lq, &lk, heads, causal, 0.0).check(1e-5);
        }
    }
}

#[test]
fn dropout_matches_the_reference() {
    for causal in [false, true] {
        for p in [0.1, 0.5] {
            Case::new(&RAGGED, &RAGGED, (4, 2, 32), causal, p).check(1e-5);
            Case::new(&[1, 100], &[200, 100], (2, 2, 24), causal, p).check(1e-5);
        }
    }
}

#[test]
fn a_query_without_keys_gives_zeros() {
    check_queries_without_keys(&Case::new(&[2, 1, 3], &[0, 0, 1], (2, 2, 16), true, 0.0));
}

#[test]
fn bf16_queries_without_keys_give_zeros() {
    check_queries_without_keys(&bf16_case(&[2, 1, 3], &[0, 0, 1], (2, 2, 16), true, 0.0));
}

/// The first five of six queries in two heads of 16 see no key.
fn check_queries_without_keys(case: &Case) {
    let [out, lse, dq, ..] = case.run();
    for t in [out, dq] {
        let values = to_f64(&t);
        assert!(values[..5 * 32].iter().all(|x| *x == 0.0));
        assert!(values.iter().all(|x| x.is_finite()));
    }
    assert_eq!(to_f64(&lse)[..5], [f64::NEG_INFINITY; 5]);
}

#[test]
fn scores_of_any_size_do_not_overflow() {
    let mut case = Case::new(&[1, 90], &[80, 200], (2, 2, 32), false, 0.0);
    case.q = (&case.q * 300.0).unwrap();
    // The gradients of a saturated softmax are differences of nearly equal numbers: only the output is compared.
    let [out, _, dq, dk, dv] = case.run();
    assert_close(&out, &case.want()[0], 1e-3, "out");
    assert!([dq, dk, dv].iter().all(|t| to_f64(t).iter().all(|x| x.is_finite())));
}

#[test]
fn a_nan_reaches_the_output() {
    for mut case in
        [Case::new(&[1, 40], &[10, 40], (1, 1, 16), false, 0.0), bf16_case(&[1], &[10], (1, 1, 16), true, 0.0)]
    {
        case.k = case.k.affine(f64::NAN, 0.0).unwrap();
        let [out, ..] = case.run();
        assert!(to_f64(&out).iter().all(|x| x.is_nan()));
    }
}

#[test]
fn bf16_storage() {
    let mut case = Case::new(&RAGGED, &RAGGED, (4, 2, 32), true, 0.1);
    for t in [&mut case.q, &mut case.k, &mut case.v, &mut case.grad] {
        *t = bf16(t);
    }
    let [out, lse, dq, ..] = case.run();
    assert_eq!((out.dtype(), lse.dtype(), dq.dtype()), (DType::BF16, DType::F32, DType::BF16));
    case.check(6e-3);
}

/// A case in bf16: wide heads, tiles that end anywhere, the last query at the last key.
fn bf16_case(lq: &[usize], lk: &[usize], heads: (usize, usize, usize), causal: bool, dropout: f32) -> Case {
    let mut case = Case::new(lq, lk, heads, causal, dropout);
    for t in [&mut case.q, &mut case.k, &mut case.v, &mut case.grad] {
        *t = bf16(t);
    }
    case
}

#[test]
fn bf16_at_the_edges_of_tiles() {
    let lens = [1, 0, 63, 64, 65, 127, 128, 129, 200];
    for causal in [false, true] {
        bf16_case(&lens, &lens, (2, 1, 64), causal, 0.0).check(6e-3);
        bf16_case(&lens[5..], &lens[5..], (1, 1, 128), causal, 0.0).check(6e-3);
        bf16_case(&[33, 130], &[33, 130], (1, 1, 256), causal, 0.0).check(6e-3);
    }
}

#[test]
fn bf16_of_any_width_and_group() {
    let (lq, lk) = ([0, 1, 20, 130, 64, 7], [3, 200, 150, 65, 64, 0]);
    for causal in [false, true] {
        for (heads, dropout) in [((4, 1, 32), 0.2), ((2, 2, 40), 0.0), ((4, 1, 64), 0.5), ((1, 1, 96), 0.1)] {
            bf16_case(&lq, &lk, heads, causal, dropout).check(6e-3);
        }
        for (heads, dropout) in [((2, 1, 128), 0.0), ((1, 1, 128), 0.3), ((1, 1, 256), 0.0), ((1, 1, 256), 0.3)] {
            bf16_case(&[70, 20], &[40, 90], heads, causal, dropout).check(6e-3);
        }
        // Rows that do not begin at multiples of 16 bytes.
        bf16_case(&lq, &lk, (2, 1, 20), causal, 0.1).check(6e-3);
        bf16_case(&[5, 40], &[7, 35], (1, 1, 101), causal, 0.1).check(6e-3);
    }
}

#[test]
fn bf16_diagonals_that_begin_anywhere() {
    let lq = [34; 13];
    let lk: Vec<usize> = (0..lq.len()).map(|i| 34 + 4 * i).collect();
    bf16_case(&lq, &lk, (1, 1, 8), true, 0.0).check(6e-3);
    bf16_case(&lk, &lq, (1, 1, 8), true, 0.0).check(6e-3);
}

#[test]
fn bf16_scores_that_grow() {
    for causal in [false, true] {
        for heads in [(2, 1, 64), (1, 1, 128)] {
            let mut case = bf16_case(&[70, 130], &[200, 130], heads, causal, 0.0);
            let grown = Tensor::arange(0f32, 330.0, &Device::Cpu).unwrap().reshape((330, 1, 1)).unwrap();
            case.k = bf16(&case.k.to_dtype(DType::F32).unwrap().broadcast_mul(&grown).unwrap());
            let ([out, lse, dq, dk, dv], want) = (case.run(), case.want());
            assert_close(&out, &want[0], 6e-3, "out");
            assert_close(&lse, &want[1], 1e-5, "lse");
            assert!([dq, dk, dv].iter().all(|t| to_f64(t).iter().all(|x| x.is_finite())));
        }
    }
}

#[test]
fn scales_of_either_sign() {
    for t in [|t: &Tensor| t.clone(), bf16] {
        let mut case = Case::new(&[40, 3], &[20, 70], (2, 1, 32), true, 0.0);
        [&mut case.q, &mut case.k, &mut case.v].into_iter().for_each(|x| *x = t(x));
        for scale in [-0.3, 0.0] {
            let args = Attention { scale, ..case.args() };
            let (out, _) = forward(&case.q, &case.k, &case.v, &args).unwrap();
            let (want, _) = reference::forward(&to_f64(&case.q), &to_f64(&case.k), &to_f64(&case.v), case.heads, &args);
            assert_close(&out, &want, if case.q.dtype() == DType::F32 { 1e-5 } else { 6e-3 }, "out");
        }
    }
}

#[test]
fn reference_gradients_are_the_finite_differences() {
    for (causal, p) in [(false, 0.0), (true, 0.0), (true, 0.3)] {
        let case = Case::new(&[3, 2, 4], &[4, 2, 2], (2, 1, 3), causal, p);
        let (q, k, v, grad) = (to_f64(&case.q), to_f64(&case.k), to_f64(&case.v), to_f64(&case.grad));
        let loss = |q: &[f64], k: &[f64], v: &[f64]| {
            let (out, _) = reference::forward(q, k, v, case.heads, &case.args());
            out.iter().zip(&grad).map(|(o, g)| o * g).sum::<f64>()
        };
        let (dq, dk, dv) = reference::backward(&grad, &q, &k, &v, case.heads, &case.args());
        for (name, got, want) in [
            ("dq", dq, finite_difference(|q| loss(q, &k, &v), &q)),
            ("dk", dk, finite_difference(|k| loss(&q, k, &v), &k)),
            ("dv", dv, finite_difference(|v| loss(&q, &k, v), &v)),
        ] {
            let error = rel_l2(&got, &want);
            assert!(error <= 1e-7, "{name} causal {causal} dropout {p}: {error:e}");
        }
    }
}

#[test]
fn same_bits_at_any_thread_count() {
    let lens = [60, 1, 0, 300, 600];
    let case = Case::new(&lens, &lens, (4, 2, 32), true, 0.1);
    let run = |n| at_threads(n, || case.run().each_ref().map(bits));
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

fn check_alone_or_packed(case: &Case) {
    let packed = case.run();
    for (s, rows) in case.q_seq.ranges().enumerate() {
        let seq = SeqLens::from_lens([rows.len()]);
        let part = |t: &Tensor, dim| t.narrow(dim, rows.start, rows.len()).unwrap().contiguous().unwrap();
        let alone = Case {
            q_seq: seq.clone(),
            k_seq: seq,
            streams: vec![case.streams[s]],
            q: part(&case.q, 0),
            k: part(&case.k, 0),
            v: part(&case.v, 0),
            grad: part(&case.grad, 0),
            ..*case
        };
        for (i, (alone, packed)) in alone.run().iter().zip(&packed).enumerate() {
            assert_eq!(bits(alone), bits(&part(packed, usize::from(i == 1))), "sequence {s}, output {i}");
        }
    }
}

#[test]
fn same_bits_alone_or_packed() {
    check_alone_or_packed(&Case::new(&RAGGED, &RAGGED, (2, 1, 32), true, 0.2));
    check_alone_or_packed(&bf16_case(&RAGGED, &RAGGED, (2, 1, 64), true, 0.2));
    check_alone_or_packed(&bf16_case(&RAGGED[4..], &RAGGED[4..], (1, 1, 128), false, 0.0));
}

#[test]
fn decoding_with_a_cache_equals_the_whole_sequence() {
    let case = Case::new(&[90], &[90], (4, 2, 32), true, 0.0);
    let (whole, _) = forward(&case.q, &case.k, &case.v, &case.args()).unwrap();
    for i in [0, 1, 40, 89] {
        let (one, keys) = (SeqLens::from_lens([1]), SeqLens::from_lens([i + 1]));
        let q = case.q.narrow(0, i, 1).unwrap().contiguous().unwrap();
        let (k, v) = (case.k.narrow(0, 0, i + 1).unwrap(), case.v.narrow(0, 0, i + 1).unwrap());
        let args = Attention { q_seq: &one, k_seq: &keys, ..case.args() };
        let (out, _) = forward(&q, &k, &v, &args).unwrap();
        assert_close(&out, &to_f64(&whole.narrow(0, i, 1).unwrap()), 1e-6, &format!("query {i}"));
    }
}

#[test]
fn wrong_shapes_and_values_are_errors() {
    let case = Case::new(&[3, 4], &[5, 6], (4, 2, 16), false, 0.5);
    let Case { q, k, v, grad, .. } = &case;
    let (out, lse) = forward(q, k, v, &case.args()).unwrap();
    let message =
        |q: &Tensor, k: &Tensor, v: &Tensor, args: Attention| forward(q, k, v, &args).unwrap_err().to_string();

    assert!(message(&random(1, &[7, 64]), k, v, case.args()).contains("q"));
    assert!(message(&random(1, &[8, 4, 16]), k, v, case.args()).contains("q"));
    assert!(message(&random(1, &[7, 4, 15]), k, v, case.args()).contains("k"));
    assert!(message(q, &random(1, &[10, 2, 16]), v, case.args()).contains("k"));
    assert!(message(q, k, &random(1, &[11, 4, 16]), case.args()).contains("v"));
    assert!(message(&random(1, &[7, 3, 16]), k, v, case.args()).contains("3 query heads do not divide among 2"));
    let (wide_q, wide_k) = (random(1, &[7, 2, 272]), random(1, &[11, 2, 272]));
    assert!(message(&wide_q, &wide_k, &wide_k, case.args()).contains("head dimension 272"));
    let three = SeqLens::from_lens([3, 4, 0]);
    assert!(message(q, k, v, Attention { q_seq: &three, ..case.args() }).contains("3 sequences of queries, 2 of keys"));
    let dropout = |p, streams| Attention { dropout: Some(Dropout { p, streams }), ..case.args() };
    assert!(message(q, k, v, dropout(1.0, &[1, 2])).contains("dropout 1"));
    assert!(message(q, k, v, dropout(f32::NAN, &[1, 2])).contains("dropout NaN"));
    assert!(message(q, k, v, dropout(0.1, &[1])).contains("1 dropout streams"));
    assert!(message(&q.to_dtype(DType::F16).unwrap(), k, v, case.args()).contains("F16"));

    assert!(backward(&random(1, &[7, 4, 15]), q, k, v, &out, &lse, &case.args()).is_err());
    assert!(backward(grad, q, k, v, grad, &random(1, &[7, 4]), &case.args()).is_err());
}

/// Products of warpgroups, whose operands in shared memory lie as descriptors say.
#[cfg(feature = "emulate")]
#[test]
fn products_of_warpgroups_match_the_definition() {
    for (d, n) in [(64, 128), (128, 64)] {
        let (a, b) = (bf16(&random(1, &[64, d])), bf16(&random(2, &[n, d])));
        let (dots, sums) = echat_kernels::cuda::emulated(|| warpgroup_products(&a, &b)).unwrap();
        let (of_a, of_b) = (to_f64(&a), to_f64(&b));
        let want =
            |m: usize, n: usize, depth: usize, a: &dyn Fn(usize, usize) -> f64, b: &dyn Fn(usize, usize) -> f64| {
                let sum = |i: usize| (0..depth).map(|k| a(i / n, k) * b(k, i % n)).sum::<f64>();
                (0..m * n).map(sum).collect::<Vec<_>>()
            };
        let of_dots = want(64, n, d, &|i, k| of_a[i * d + k], &|k, j| of_b[j * d + k]);
        assert_close(&dots, &of_dots, 1e-6, "dots");
        let rounded = to_f64(&bf16(&dots));
        let of_sums = want(64, d, n, &|i, k| rounded[i * n + k], &|k, j| of_b[k * d + j]);
        assert_close(&sums, &of_sums, 1e-6, "sums");
    }
}

#[cfg(feature = "emulate")]
#[test]
fn products_of_warpgroups_of_other_shapes_are_errors() {
    let message = |a: &[usize], b: &[usize]| {
        let products = || warpgroup_products(&bf16(&random(1, a)), &bf16(&random(2, b)));
        echat_kernels::cuda::emulated(products).unwrap_err().to_string()
    };
    assert!(message(&[64, 64], &[64, 64]).contains("a"));
    assert!(message(&[64, 128], &[128, 128]).contains("b"));
    assert!(message(&[32, 64], &[128, 64]).contains("a"));
}

/// The tests named, by each of the paths that a GPU may have.
#[cfg(feature = "emulate")]
macro_rules! by_every_path {
    ($($test:ident),* $(,)?) => {
        mod wgmma {
            $(#[test] fn $test() { echat_kernels::cuda::emulated(|| super::with_path(super::Path::Wgmma, super::$test)); })*
        }
        mod mma {
            $(#[test] fn $test() { echat_kernels::cuda::emulated(|| super::with_path(super::Path::Mma, super::$test)); })*
        }
    };
}

#[cfg(feature = "emulate")]
emulated!(
    self_attention_matches_the_reference,
    other_lengths_of_keys_match_the_reference,
    dropout_matches_the_reference,
    a_query_without_keys_gives_zeros,
    scores_of_any_size_do_not_overflow,
    decoding_with_a_cache_equals_the_whole_sequence,
    wrong_shapes_and_values_are_errors,
);

// Those with bf16, for which there is a choice.
#[cfg(feature = "emulate")]
by_every_path!(
    a_nan_reaches_the_output,
    bf16_storage,
    bf16_queries_without_keys_give_zeros,
    bf16_at_the_edges_of_tiles,
    bf16_of_any_width_and_group,
    bf16_diagonals_that_begin_anywhere,
    bf16_scores_that_grow,
    scales_of_either_sign,
    same_bits_alone_or_packed,
);

#[test]
fn without_a_backward_pass_the_output_is_the_same() {
    let case = Case::new(&RAGGED, &RAGGED, (4, 2, 32), true, 0.1);
    let out = infer(&case.q, &case.k, &case.v, &case.args()).unwrap();
    assert_eq!(bits(&out), bits(&case.run()[0]));
    let wrong = infer(&case.q, &case.k, &case.k.narrow(1, 0, 1).unwrap(), &case.args());
    assert!(wrong.unwrap_err().to_string().starts_with("attention: v: expected shape"));
}
