//! Connectors and decoders against PyTorch (tests/golden/make_model.py): outputs to 1e-5, gradients to 1e-4, relative L2.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use echat::autograd::{Buckets, Group, Params, Tape};
use echat::model::connector::{Connector, ConnectorConfig, ConnectorKind};
use echat::model::decoder::{Architecture, Decoder};
use echat::model::echat::Assembled;
use echat::model::generate::{Sampling, generate};
use echat::model::weights::{self, Checkpoint, Destination, Loader};
use echat::nn::{self, Packed, SeqLens};

/// The counter of weight gradients is process-wide: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/model").join(name)
}

fn load(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn integers(t: &Tensor) -> Vec<usize> {
    values(t).into_iter().map(|v| v as usize).collect()
}

fn rel_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let norm: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    if error.is_finite() { (error / norm.max(1e-30)).sqrt() } else { f64::INFINITY }
}

fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let error = rel_l2(&values(got), &values(want));
    assert!(error <= tolerance, "{what}: relative L2 error {error:.2e} > {tolerance:.0e}");
}

fn gradient(buckets: &Buckets, name: &str) -> Tensor {
    let (bucket, segment) = buckets
        .iter()
        .find_map(|b| Some((b, b.segments.iter().find(|s| s.param.name() == name)?)))
        .unwrap_or_else(|| panic!("{name} does not train"));
    bucket.grad.narrow(0, segment.range.start, segment.range.len()).unwrap().reshape(segment.shape.as_slice()).unwrap()
}

fn config(kind: ConnectorKind) -> ConnectorConfig {
    ConnectorConfig {
        kind,
        width: 16,
        layers: 2,
        heads: 4,
        ffn: 24,
        dropout: 0.0,
        window: 5,
        queries: 2,
        ..ConnectorConfig::default()
    }
}

fn connector(kind: ConnectorKind, recompute: bool) {
    let g = load(&format!("connector-{kind}.safetensors"));
    let mut params = Params::training(&BTreeSet::from([Group::Connector]));
    let to = Destination { prefix: "connector", group: Group::Connector, dtype: DType::F32, device: Device::Cpu };
    let settings = ConnectorConfig { recompute, ..config(kind) };
    let connector = Connector::build(&Loader::random(0, &mut params, to), &settings, 32, 32).unwrap();
    let names: Vec<String> = params.iter().map(|p| p.name().to_owned()).collect();
    let in_file: BTreeSet<&String> = g.keys().filter(|k| k.starts_with("connector.")).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>(), in_file);
    params.iter().for_each(|p| p.set(g[p.name()].clone()));
    let buckets = params.lay_out(1 << 20).unwrap();
    let tape = Tape::recording();
    let x = tape.leaf(g["input"].clone());
    let packed = Packed::anonymous(SeqLens::from_lens(integers(&g["lens"])));
    let (y, out) = connector.forward(&tape, &x, &packed).unwrap();
    assert_eq!(out.seq.lens().collect::<Vec<_>>(), integers(&g["output_lens"]));
    assert_close(y.tensor(), &g["output"], 1e-5, &format!("{kind} output"));
    let mut sink = buckets.sink(None);
    let dx = tape.gradients(&[(&y, g["probe"].clone())], &[&x], &mut sink).unwrap();
    assert_close(dx[0].as_ref().unwrap(), &g["input_grad"], 1e-4, &format!("{kind} input gradient"));
    for name in &names {
        if let Some(layer) = name.strip_suffix("k_proj.bias") {
            // Softmax does not feel it: the gradient is rounding around zero, small beside its weight's.
            let norm = |t: &Tensor| values(t).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let (got, weight) = (norm(&gradient(&buckets, name)), norm(&g[&format!("grad.{layer}k_proj.weight")]));
            assert!(got <= 1e-5 * weight, "{kind} {name}: gradient {got:.1e}, its weight's {weight:.1e}");
            continue;
        }
        assert_close(&gradient(&buckets, name), &g[&format!("grad.{name}")], 1e-4, &format!("{kind} {name}"));
    }
}

#[test]
fn the_transformer_connector_is_pytorchs() {
    let _alone = alone();
    connector(ConnectorKind::Transformer, false);
    connector(ConnectorKind::Transformer, true);
}

#[test]
fn the_linear_connector_is_pytorchs() {
    let _alone = alone();
    connector(ConnectorKind::Linear, false);
}

#[test]
fn the_convolutional_connector_is_pytorchs() {
    let _alone = alone();
    connector(ConnectorKind::Conv, false);
}

#[test]
fn the_qformer_connector_is_pytorchs() {
    let _alone = alone();
    connector(ConnectorKind::Qformer, false);
}

#[test]
fn the_papers_connector_has_52_487_168_parameters_and_a_projection() {
    let _alone = alone();
    let mut params = Params::frozen();
    let to = Destination { prefix: "connector", group: Group::Connector, dtype: DType::F32, device: Device::Cpu };
    Connector::build(&Loader::random(0, &mut params, to), &ConnectorConfig::default(), 1024, 8).unwrap();
    assert_eq!(params.elements(Group::Connector), 52_487_168 + 1024 * 8 + 8);
}

fn decoder(kind: &str, params: &mut Params) -> Decoder {
    let dir = golden(&format!("decoder-{kind}"));
    let to = Destination { prefix: "decoder", group: Group::Decoder, dtype: DType::F32, device: Device::Cpu };
    let loader = Loader::from_checkpoint(Checkpoint::open(&dir).unwrap(), &weights::DECODER, params, to);
    let decoder = Decoder::build(&loader, Architecture::read(&dir).unwrap(), false).unwrap();
    let loaded = loader.finish().unwrap();
    assert_eq!(loaded.report.warning(&dir), None);
    decoder
}

fn embed(decoder: &Decoder, tape: &Tape, ids: &[u32]) -> Tensor {
    decoder.embed(tape, ids).unwrap().tensor().clone()
}

fn check_decoder(kind: &str, frozen: bool) {
    let g = load(&format!("decoder-{kind}.safetensors"));
    let groups = if frozen { BTreeSet::new() } else { BTreeSet::from([Group::Decoder]) };
    let mut params = Params::training(&groups);
    let mut decoder = decoder(kind, &mut params);
    let buckets = params.lay_out(1 << 20).unwrap();
    decoder.settle().unwrap();
    let tape = Tape::recording();
    let ids: Vec<u32> = integers(&g["ids"]).into_iter().map(|i| i as u32).collect();
    let seq = SeqLens::from_lens(integers(&g["lens"]));
    let x = tape.leaf(embed(&decoder, &tape, &ids));
    let hidden = decoder.forward(&tape, &x, &Packed::anonymous(seq.clone())).unwrap();
    let head = decoder.head(&tape).unwrap();
    let logits = nn::linear(&tape, &hidden, &head, None).unwrap();
    assert_close(logits.tensor(), &g["logits"], 1e-5, &format!("{kind} logits"));
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for range in seq.ranges() {
        for row in range.start..range.end - 1 {
            rows.push(row as u32);
            labels.push(ids[row + 1]);
        }
    }
    let before = echat_kernels::linear::weight_gradient_count();
    let loss = nn::linear_cross_entropy(&tape, &hidden, &head, &rows, &labels).unwrap();
    let want = f64::from(values(&g["loss"])[0]);
    let sum = loss.sums.to_vec1::<f64>().unwrap()[0];
    assert!((sum - want).abs() <= 1e-5 * want, "{kind} loss {sum} {want}");
    let one = Tensor::new(1f32, &Device::Cpu).unwrap();
    let dx = tape.gradients(&[(&loss.loss, one)], &[&x], &mut buckets.sink(None)).unwrap();
    assert_close(dx[0].as_ref().unwrap(), &g["input_grad"], 1e-4, &format!("{kind} input gradient"));
    if frozen {
        assert_eq!(buckets.elements(), 0);
        assert_eq!(echat_kernels::linear::weight_gradient_count(), before, "a frozen decoder does no weight gradient");
    }
}

#[test]
fn decoders_are_pytorchs_frozen_and_trained() {
    let _alone = alone();
    for kind in ["baichuan", "llama", "qwen2", "qwen3"] {
        check_decoder(kind, true);
        check_decoder(kind, false);
    }
}

#[test]
fn generation_with_the_cache_continues_as_pytorch_does_without() {
    let _alone = alone();
    for kind in ["baichuan", "llama", "qwen2", "qwen3"] {
        let g = load(&format!("decoder-{kind}.safetensors"));
        let mut params = Params::frozen();
        let mut decoder = decoder(kind, &mut params);
        decoder.settle().unwrap();
        let ids: Vec<u32> = integers(&g["ids"]).into_iter().map(|i| i as u32).collect();
        let seq = SeqLens::from_lens(integers(&g["lens"]));
        let tape = Tape::inference();
        let x = tape.constant(embed(&decoder, &tape, &ids));
        let prompt = Assembled { x, packed: Packed::anonymous(seq), rows: Vec::new(), labels: Vec::new() };
        let mut streamed = vec![Vec::new(); 3];
        let sampling = Sampling::greedy(12);
        let out = generate(&decoder, &prompt, &sampling, &[], &mut |i, token| streamed[i].push(token)).unwrap();
        let want: Vec<u32> = integers(&g["greedy"]).into_iter().map(|i| i as u32).collect();
        assert_eq!(out[2], want, "{kind}");
        assert_eq!(streamed, out);
        // An end of sequence that comes early ends that sequence alone.
        let stopped = generate(&decoder, &prompt, &sampling, &[want[3]], &mut |_, _| {}).unwrap();
        assert_eq!(stopped[2], want[..want.iter().position(|t| *t == want[3]).unwrap()]);
    }
}

#[test]
fn recomputing_decoder_layers_changes_no_bit() {
    let _alone = alone();
    let g = load("decoder-baichuan.safetensors");
    let run = |recompute: bool| {
        let dir = golden("decoder-baichuan");
        let mut params = Params::training(&BTreeSet::from([Group::Decoder]));
        let to = Destination { prefix: "decoder", group: Group::Decoder, dtype: DType::F32, device: Device::Cpu };
        let loader = Loader::from_checkpoint(Checkpoint::open(&dir).unwrap(), &weights::DECODER, &mut params, to);
        let decoder = Decoder::build(&loader, Architecture::read(&dir).unwrap(), recompute).unwrap();
        loader.finish().unwrap();
        let buckets = params.lay_out(1 << 12).unwrap();
        let tape = Tape::recording();
        let ids: Rc<[u32]> = integers(&g["ids"]).into_iter().map(|i| i as u32).collect();
        let x = decoder.embed(&tape, &ids).unwrap();
        let packed = Packed::anonymous(SeqLens::from_lens(integers(&g["lens"])));
        let hidden = decoder.forward(&tape, &x, &packed).unwrap();
        let loss = nn::linear_cross_entropy(&tape, &hidden, &decoder.head(&tape).unwrap(), &[3, 9], &[5, 6]).unwrap();
        let one = Tensor::new(1f32, &Device::Cpu).unwrap();
        let mut order = Vec::new();
        let mut hook = |i: usize| {
            order.push(i);
            Ok(())
        };
        let mut sink = buckets.sink(Some(&mut hook));
        tape.backward(&[(&loss.loss, one)], &mut sink).unwrap();
        sink.finish().unwrap();
        assert_eq!(order, (0..buckets.len()).collect::<Vec<_>>());
        let grads: Vec<Vec<u32>> =
            buckets.iter().map(|b| values(&b.grad).iter().map(|v| v.to_bits()).collect()).collect();
        (loss.sums.to_vec1::<f64>().unwrap()[0].to_bits(), grads)
    };
    assert_eq!(run(false), run(true));
}
