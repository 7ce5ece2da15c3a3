//! The tape against hand-written derivatives: sharing, freezing, accumulation, recomputation, hooks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use echat::autograd::{ALIGNMENT, Buckets, Group, Param, Params, Result, Tape, Var};

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// a · b elementwise, counting how many operand gradients were computed.
fn mul(tape: &Tape, a: &Var, b: &Var) -> Var {
    let (x, y) = (a.tensor().clone(), b.tensor().clone());
    let out = (&x * &y).unwrap();
    tape.op("mul", &[a, b], out, move |g, needs| {
        let da = needs[0].then(|| &g * &y).transpose()?;
        let db = needs[1].then(|| &g * &x).transpose()?;
        Ok(vec![da, db])
    })
}

fn model(train: &[Group], bucket_bytes: usize) -> (Vec<Param>, Buckets) {
    let mut params = Params::training(&train.iter().copied().collect());
    let mut add = |name, group, values: &[f32]| params.register(name, group, tensor(values), DType::F32).unwrap();
    let list = vec![
        add("a", Group::Encoder, &[2.0, 3.0]),
        add("b", Group::Connector, &[5.0, 7.0]),
        add("c", Group::Decoder, &[11.0, 13.0]),
    ];
    let buckets = params.lay_out(bucket_bytes).unwrap();
    (list, buckets)
}

fn grad_of(buckets: &Buckets, name: &str) -> Option<Vec<f32>> {
    buckets.iter().find_map(|b| {
        let s = b.segments.iter().find(|s| s.param.name() == name)?;
        Some(values(&b.grad)[s.range.clone()].to_vec())
    })
}

fn backward(tape: &Tape, out: &Var, buckets: &Buckets) -> Vec<usize> {
    let mut fired = Vec::new();
    let mut hook = |i: usize| -> Result<()> {
        fired.push(i);
        Ok(())
    };
    let mut sink = buckets.sink(Some(&mut hook));
    tape.backward(&[(out, tensor(&[1.0, 1.0]))], &mut sink).unwrap();
    sink.finish().unwrap();
    fired
}

#[test]
fn a_parameter_used_twice_gets_the_sum_of_its_gradients() {
    let (p, buckets) = model(&[Group::Encoder], 1);
    let tape = Tape::recording();
    let a = tape.param(&p[0]);
    let out = mul(&tape, &a, &a);
    backward(&tape, &out, &buckets);
    assert_eq!(grad_of(&buckets, "a").unwrap(), [4.0, 6.0]);
}

#[test]
fn a_frozen_parameter_has_no_slot_and_costs_no_gradient() {
    let (p, buckets) = model(&[Group::Encoder], 1);
    assert_eq!(buckets.elements(), 2);
    assert!(p[2].slot().is_none());
    let tape = Tape::recording();
    let out = mul(&tape, &mul(&tape, &tape.param(&p[0]), &tape.param(&p[1])), &tape.param(&p[2]));
    backward(&tape, &out, &buckets);
    assert_eq!(grad_of(&buckets, "a").unwrap(), [55.0, 91.0]);
    assert!(grad_of(&buckets, "c").is_none());
}

#[test]
fn nothing_is_recorded_where_nothing_trains() {
    let (p, _) = model(&[Group::Encoder], 1);
    let tape = Tape::recording();
    assert!(!mul(&tape, &tape.param(&p[1]), &tape.param(&p[2])).needs_grad());
    let inference = Tape::inference();
    assert!(!mul(&inference, &inference.param(&p[0]), &inference.param(&p[2])).needs_grad());
}

#[test]
fn buckets_fire_in_backward_order_and_unused_ones_at_the_end() {
    let (p, buckets) = model(&[Group::Encoder, Group::Connector, Group::Decoder], 1);
    assert_eq!(buckets.len(), 3);
    assert_eq!(buckets.get(0).segments[0].param.name(), "c");
    let tape = Tape::recording();
    // b (bucket 1) is never used: it must not hold up its place in the order for good.
    let out = mul(&tape, &tape.param(&p[0]), &tape.param(&p[2]));
    assert_eq!(backward(&tape, &out, &buckets), [0, 1, 2]);
    assert_eq!(grad_of(&buckets, "b").unwrap(), [0.0, 0.0]);
}

#[test]
fn gradients_accumulate_over_micro_batches_until_zeroed() {
    let (p, buckets) = model(&[Group::Encoder], 1);
    for _ in 0..3 {
        let tape = Tape::recording();
        let out = mul(&tape, &tape.param(&p[0]), &tape.param(&p[1]));
        backward(&tape, &out, &buckets);
    }
    assert_eq!(grad_of(&buckets, "a").unwrap(), [15.0, 21.0]);
    buckets.zero_grad().unwrap();
    assert_eq!(grad_of(&buckets, "a").unwrap(), [0.0, 0.0]);
}

#[test]
fn recomputation_changes_no_bit_and_runs_the_block_twice() {
    let runs = std::rc::Rc::new(std::cell::Cell::new(0));
    let grads = |recompute: bool| {
        let (p, buckets) = model(&[Group::Encoder, Group::Decoder], 1 << 20);
        let tape = Tape::recording();
        let x = tape.leaf(tensor(&[0.3, -0.7]));
        let (a, c, counter) = (p[0].clone(), p[2].clone(), runs.clone());
        let block = move |tape: &Tape, x: &[Var]| {
            counter.set(counter.get() + 1);
            let y = mul(tape, &x[0], &tape.param(&a));
            Ok(vec![mul(tape, &y, &tape.param(&c))])
        };
        let y = if recompute {
            tape.recompute(&[&x], block).unwrap()
        } else {
            block(&tape, std::slice::from_ref(&x)).unwrap()
        };
        let out = mul(&tape, &y[0], &tape.param(&p[0]));
        let mut sink = buckets.sink(None);
        let dx = tape.gradients(&[(&out, tensor(&[1.0, 1.0]))], &[&x], &mut sink).unwrap();
        (grad_of(&buckets, "a"), grad_of(&buckets, "c"), values(dx[0].as_ref().unwrap()))
    };
    let plain = grads(false);
    assert_eq!(runs.get(), 1);
    assert_eq!(grads(true), plain);
    assert_eq!(runs.get(), 3);
}

#[test]
fn a_recomputed_block_holds_its_bucket_back_until_it_is_differentiated() {
    let (p, buckets) = model(&[Group::Encoder], 1);
    let tape = Tape::recording();
    let a = p[0].clone();
    let x = tape.constant(tensor(&[1.0, 1.0]));
    let y = tape.recompute(&[&x], move |tape, x| Ok(vec![mul(tape, &x[0], &tape.param(&a))])).unwrap();
    let out = mul(&tape, &y[0], &tape.param(&p[0]));
    let seen = std::cell::RefCell::new(Vec::new());
    let mut hook = |_: usize| -> Result<()> {
        seen.borrow_mut().push(grad_of(&buckets, "a").unwrap());
        Ok(())
    };
    let mut sink = buckets.sink(Some(&mut hook));
    tape.backward(&[(&out, tensor(&[1.0, 1.0]))], &mut sink).unwrap();
    drop(sink);
    assert_eq!(*seen.borrow(), [vec![4.0, 6.0]], "the hook fired once, after both uses");
}

#[test]
fn a_parameter_is_a_view_of_its_bucket() {
    let (p, buckets) = model(&[Group::Encoder, Group::Connector], 1 << 20);
    echat_kernels::tensor::with_mut("test", &buckets.get(0).master, |m| m.fill(9.0)).unwrap();
    assert_eq!(values(&p[0].tensor()), [9.0, 9.0]);
    assert_eq!(values(&p[1].tensor()), [9.0, 9.0]);
    assert_eq!(values(&p[2].tensor()), [11.0, 13.0]);
}

#[test]
fn bf16_parameters_have_whole_f32_masters_and_f32_ones_beside_them_stay_f32() {
    // Laid out last first: the bucket begins with the f32 one.
    for names in [["f32", "bf16"], ["bf16", "f32"]] {
        let mut params = Params::training(&BTreeSet::from([Group::Connector]));
        let fine = 1.0 + f32::EPSILON;
        for name in names {
            let dtype = if name == "f32" { DType::F32 } else { DType::BF16 };
            assert_eq!(params.made_in(Group::Connector, dtype), DType::F32);
            params.register(name, Group::Connector, tensor(&[fine, 2.5]), dtype).unwrap();
        }
        let buckets = params.lay_out(1 << 20).unwrap();
        let [bucket] = buckets.iter().collect::<Vec<_>>()[..] else { panic!("one bucket") };
        for segment in &bucket.segments {
            assert_eq!(segment.range.start % ALIGNMENT, 0);
            assert_eq!(values(&bucket.master)[segment.range.clone()], [fine, 2.5]);
        }
        assert_eq!((bucket.len(), buckets.elements()), (ALIGNMENT + 2, 4));
        assert_eq!(bucket.grad.dtype(), DType::F32);
        assert_eq!(values(&params.get("f32").unwrap().tensor()), [fine, 2.5]);
        let half = params.get("bf16").unwrap().tensor();
        assert_eq!(half.dtype(), DType::BF16);
        assert_eq!(values(&half.to_dtype(DType::F32).unwrap()), [1.0, 2.5]);
        // Both follow the masters.
        echat_kernels::tensor::with_mut("test", &bucket.master, |m| m.fill(0.5)).unwrap();
        bucket.refresh_compute().unwrap();
        let half = params.get("bf16").unwrap().tensor().to_dtype(DType::F32).unwrap();
        assert_eq!([values(&half), values(&params.get("f32").unwrap().tensor())].concat(), [0.5; 4]);
    }
}

#[test]
fn a_gradient_of_the_wrong_shape_or_number_is_an_error() {
    let (_, buckets) = model(&[Group::Encoder], 1);
    let tape = Tape::recording();
    let x = tape.leaf(tensor(&[1.0, 2.0]));
    let y = tape.op("bad_shape", &[&x], tensor(&[1.0, 2.0]), |_, _| Ok(vec![Some(tensor(&[1.0]))]));
    let error = tape.backward(&[(&y, tensor(&[1.0, 1.0]))], &mut buckets.sink(None)).unwrap_err();
    assert!(error.to_string().contains("bad_shape"), "{error}");
    let tape = Tape::recording();
    let x = tape.leaf(tensor(&[1.0, 2.0]));
    let y = tape.op("bad_count", &[&x], tensor(&[1.0, 2.0]), |_, _| Ok(vec![]));
    let error = tape.backward(&[(&y, tensor(&[1.0, 1.0]))], &mut buckets.sink(None)).unwrap_err();
    assert!(error.to_string().contains("0 gradients for 1 inputs"), "{error}");
}

#[test]
fn two_parameters_of_one_name_are_an_error() {
    let mut params = Params::frozen();
    params.register("w", Group::Connector, tensor(&[1.0]), DType::F32).unwrap();
    assert!(params.register("w", Group::Encoder, tensor(&[1.0]), DType::F32).is_err());
}
