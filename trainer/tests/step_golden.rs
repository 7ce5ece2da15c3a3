//! One whole SGD step of stage 1 and of stage 2 against PyTorch autograd (tests/golden/make_model.py): losses to 1e-5, every
//! updated tensor within 1e-4 of its change, relative L2; nothing else changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use echat::autograd::{Buckets, StepRng};
use echat::data::text::{Layout, Part};
use echat::dist::{Solo, World};
use echat::model::connector::ConnectorConfig;
use echat::model::decoder::DecoderConfig;
use echat::model::echat::{Batch, Built, ModelConfig, Precision, Sections, Speech};
use echat::model::hubert::EncoderConfig;
use echat::nn::{Packed, SeqLens};
use echat::train::{LossScale, Sums, TrainGroup, Work, accumulate};
use echat_kernels::simd::SimdLevel;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/model").join(name)
}

fn load(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn integers(t: &Tensor) -> Vec<u32> {
    values(t).into_iter().map(|v| v as u32).collect()
}

struct Run {
    sums: Sums,
    work: Work,
    buckets: Buckets,
    built: Built,
}

fn rows(flat: &Tensor, lens: &Tensor) -> Vec<Vec<f32>> {
    let (flat, mut from) = (values(flat), 0);
    integers(lens)
        .into_iter()
        .map(|n| {
            from += n as usize;
            flat[from - n as usize..from].to_vec()
        })
        .collect()
}

/// The batch of `waves[keep]`.
fn batch(g: &HashMap<String, Tensor>, keep: &[usize], emotion: bool) -> Batch {
    let waves = rows(&g["wave"], &g["wave_lens"]);
    let targets = rows(&g["targets"], &g["target_lens"]);
    let labels = integers(&g["labels"]);
    let mut packed = Vec::new();
    for &i in keep {
        let samples: Vec<i16> = waves[i].iter().map(|&v| v as i16).collect();
        let mut out = vec![0f32; samples.len()];
        echat_kernels::wave_norm::forward(&samples, &mut out, true).unwrap();
        packed.extend(out);
    }
    let seq = SeqLens::from_lens(keep.iter().map(|&i| waves[i].len()));
    let samples: Arc<[u64]> = keep.iter().map(|&i| i as u64).collect();
    Batch {
        ids: Vec::new(),
        speech: Speech::Waves(Tensor::from_vec(packed, (seq.total(), 1), &Device::Cpu).unwrap()),
        packed: Packed { seq, samples },
        contexts: Vec::new(),
        targets: keep.iter().map(|&i| targets[i].iter().map(|&t| t as u32).chain([2]).collect()).collect(),
        emotions: if emotion { keep.iter().map(|&i| labels[i]).collect() } else { Vec::new() },
    }
}

/// The model of `stage`, and what of it trains, in small buckets.
fn build(stage: u8, precision: Precision, recompute: bool) -> (Built, Buckets) {
    let emotion = stage == 2;
    let model = ModelConfig {
        init: vec![golden(&format!("stage{stage}-init.safetensors"))],
        emotion,
        precision,
        ..ModelConfig::default()
    };
    let path = golden(&format!("encoder-stage{stage}"));
    let encoder: EncoderConfig = toml::from_str(&format!("path = {path:?}\nrecompute = {recompute}\n")).unwrap();
    let connector = ConnectorConfig {
        width: 16,
        layers: 2,
        heads: 4,
        ffn: 24,
        dropout: 0.0,
        recompute,
        ..ConnectorConfig::default()
    };
    let decoder = DecoderConfig { path: golden(&format!("decoder-stage{stage}")), random_init: false, recompute };
    let sections = Sections { model: &model, encoder: Some(&encoder), connector: &connector, decoder: &decoder };
    let groups = if emotion {
        vec![TrainGroup::Connector, TrainGroup::Emotion]
    } else {
        vec![TrainGroup::Encoder, TrainGroup::Connector]
    };
    let mut built = Built::new(&sections, &TrainGroup::all(&groups), &Device::Cpu).unwrap();
    let buckets = built.params.lay_out(1 << 14).unwrap();
    built.model.decoder.settle().unwrap();
    (built, buckets)
}

fn run(stage: u8, recompute: bool, micro_batches: &[&[usize]]) -> Run {
    let g = load(&format!("stage{stage}.safetensors"));
    let emotion = stage == 2;
    let (built, buckets) = build(stage, Precision::F32, recompute);
    let layout =
        Layout { parts: vec![Part::Bos(1), Part::Emotion, Part::Speech, Part::Tokens(integers(&g["prompt"]))] };
    let batches: Vec<Batch> = micro_batches.iter().map(|keep| batch(&g, keep, emotion)).collect();
    let alpha = if emotion { 0.1 } else { 0.0 };
    let tokens: usize = batches.iter().flat_map(|b| &b.targets).map(Vec::len).sum();
    let utterances: usize = batches.iter().map(|b| b.targets.len()).sum();
    let scale = LossScale::new(alpha, tokens as f64, utterances as f64);
    let mut solo = Solo::new(World::single("test"));
    let rng = StepRng::new(0, 0);
    let (tally, work) = accumulate(&built.model, &layout, &buckets, &mut solo, &batches, rng, scale).unwrap();
    let sums = tally.read().unwrap();
    Run { sums, work, buckets, built }
}

fn rel_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    if error.is_finite() { (error / norm.max(1e-30)).sqrt() } else { f64::INFINITY }
}

/// Steps with the SGD kernel and returns each trained tensor's change.
fn changes(run: &Run, lr: f64) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for bucket in run.buckets.iter() {
        let before = values(&bucket.master);
        let decision = echat_kernels::step_control::Decision::Taken { step: 1, grad_scale: 1.0 };
        let hyper = echat_kernels::sgd::Hyper { lr, momentum: 0.0, weight_decay: 0.0, decision };
        echat_kernels::sgd::step(&bucket.master, None, &bucket.grad, None, hyper).unwrap();
        let after = values(&bucket.master);
        for s in &bucket.segments {
            let change = s.range.clone().map(|i| after[i] - before[i]).collect();
            all.insert(s.param.name().to_owned(), change);
        }
    }
    all
}

fn check(stage: u8) {
    let g = load(&format!("stage{stage}.safetensors"));
    let run = run(stage, false, &[&[0, 1, 2]]);
    let alpha = if stage == 2 { 0.1 } else { 0.0 };
    for (got, want) in [(run.sums.total(alpha), &g["loss"]), (run.sums.decoder(), &g["decoder_loss"])] {
        let want = f64::from(values(want)[0]);
        assert!((got - want).abs() <= 1e-5 * want.abs(), "stage {stage}: loss {got}, PyTorch {want}");
    }
    let lr = f64::from(values(&g["lr"])[0]);
    let got = changes(&run, lr);
    let want: BTreeMap<String, Vec<f32>> =
        g.iter().filter_map(|(k, t)| Some((k.strip_prefix("change.")?.to_owned(), values(t)))).collect();
    // An encoder without masking never uses its mask embedding; PyTorch has no gradient for it, we have zero.
    let trained: Vec<&String> = got.keys().filter(|k| !k.ends_with("masked_spec_embed")).collect();
    assert_eq!(trained, want.keys().collect::<Vec<_>>(), "stage {stage}: what trains");
    let mut worst = (0.0, "");
    for (name, want) in &want {
        let norm = want.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if norm < 1e-9 {
            // The key biases: softmax does not feel them, their gradient is rounding.
            let got = got[name].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            assert!(got < 1e-6, "stage {stage}: {name} changed by {got:.1e}, PyTorch by {norm:.1e}");
            continue;
        }
        let error = rel_l2(&got[name], want);
        assert!(error <= 1e-4, "stage {stage}: {name}: relative L2 error {error:.2e}");
        if error > worst.0 {
            worst = (error, name);
        }
    }
    println!("stage {stage}: {} tensors, worst {:.1e} ({})", want.len(), worst.0, worst.1);
}

#[test]
fn a_step_is_pytorchs_with_every_instruction_set() {
    for level in SimdLevel::available() {
        println!("{level}:");
        level.pool(2).unwrap().install(|| [1, 2].into_iter().for_each(check));
    }
}

#[test]
fn instruction_sets_change_no_bit_of_a_step() {
    for stage in [1, 2] {
        let step = || gradients(&run(stage, false, &[&[0, 1, 2]])).into_iter().map(f32::to_bits).collect();
        let at = |level: SimdLevel| (level, level.pool(2).unwrap().install(step));
        let fused = SimdLevel::available().filter(|level| *level != SimdLevel::Portable);
        let results: Vec<(_, Vec<u32>)> = fused.map(at).collect();
        for (level, result) in &results {
            assert!(*result == results[0].1, "stage {stage}: {level} and {} differ", results[0].0);
        }
    }
}

fn gradients(run: &Run) -> Vec<f32> {
    run.buckets.iter().flat_map(|b| values(&b.grad)).collect()
}

#[test]
fn recomputation_changes_no_bit() {
    for stage in [1, 2] {
        let (plain, again) = (run(stage, false, &[&[0, 1, 2]]), run(stage, true, &[&[0, 1, 2]]));
        assert_eq!(plain.sums, again.sums);
        assert_eq!(plain.work.flops, again.work.flops);
        let bits = |r: &Run| gradients(r).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&plain), bits(&again), "stage {stage}");
    }
}

#[test]
fn arithmetic_is_counted_as_by_hand() {
    let g = load("stage1.safetensors");
    let run = run(1, false, &[&[0, 1, 2]]);
    // Forward, and backward for operands that want it: a frozen weight takes no product of its own.
    let (trained, frozen, first) = (3.0, 2.0, 2.0);
    let mut flops = 0.0;
    let mut positions = 0;
    for (samples, target) in integers(&g["wave_lens"]).into_iter().zip(integers(&g["target_lens"])) {
        let mut product = |rows: usize, weights: usize, times: f64| flops += 2.0 * times * (rows * weights) as f64;
        let mut rows = samples as usize;
        let mut c_in = 1;
        for (kernel, stride) in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)] {
            rows = (rows - kernel) / stride + 1;
            product(rows, kernel * c_in * 16, if c_in == 1 { first } else { trained });
            c_in = 16;
        }
        product(rows, 16 * 32 + 32 * (32 / 4) * 16, trained);
        product(rows, 2 * (4 * 32 * 32 + 2 * 32 * 40), trained);
        product(rows * rows, 2 * 2 * 32, trained);
        let stacked = rows.div_ceil(2);
        product(stacked, 64 * 16 + 2 * (4 * 16 * 16 + 2 * 16 * 24) + 16 * 32, trained);
        product(stacked * stacked, 2 * 2 * 16, trained);
        let read = 1 + stacked + 3 + target as usize;
        product(read, 2 * (4 * 32 * 32 + 3 * 32 * 40), frozen);
        product(read * (read + 1) / 2, 2 * 2 * 32, trained);
        product(target as usize + 1, 32 * 64, frozen);
        positions += read;
    }
    assert_eq!((run.work.flops, run.work.positions), (flops, positions as f64));
}

#[test]
fn accumulating_micro_batches_changes_nothing_but_rounding() {
    for stage in [1, 2] {
        let (whole, parts) = (run(stage, false, &[&[0, 1, 2]]), run(stage, false, &[&[0], &[1], &[2]]));
        assert!((whole.sums.decoder_loss - parts.sums.decoder_loss).abs() <= 1e-6 * whole.sums.decoder_loss);
        assert!((whole.sums.emotion_loss - parts.sums.emotion_loss).abs() <= 1e-6 * whole.sums.emotion_loss.max(1.0));
        assert_eq!((whole.work.flops, whole.work.positions), (parts.work.flops, parts.work.positions));
        let error = rel_l2(&gradients(&parts), &gradients(&whole));
        assert!(error <= 1e-6, "stage {stage}: relative L2 error {error:.2e}");
    }
}

#[test]
fn frozen_parts_have_no_gradient_and_keep_their_values() {
    let run = run(2, false, &[&[0, 1, 2]]);
    for param in run.built.params.iter() {
        let name = param.name();
        let trains = name.starts_with("connector.") || name.starts_with("emotion");
        assert_eq!(param.slot().is_some(), trains, "{name}");
    }
    let trained: usize = run.built.params.iter().filter(|p| p.slot().is_some()).map(|p| p.tensor().elem_count()).sum();
    assert_eq!(run.buckets.elements(), trained);
}

#[test]
fn masters_in_bf16_begin_with_all_that_is_known_of_the_weights() {
    for stage in [1, 2] {
        let ((_, exact), (built, buckets)) =
            (build(stage, Precision::F32, false), build(stage, Precision::Bf16, false));
        assert_eq!(exact.len(), buckets.len());
        for (exact, bucket) in exact.iter().zip(buckets.iter()) {
            assert_eq!(values(&exact.master), values(&bucket.master));
        }
        for param in built.params.iter() {
            let dtype = if param.name().ends_with("layer_weights") { DType::F32 } else { DType::BF16 };
            assert_eq!(param.tensor().dtype(), dtype, "{}", param.name());
        }
    }
}
