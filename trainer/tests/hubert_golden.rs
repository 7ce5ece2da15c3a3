//! The encoder equals transformers' `HubertModel`: every hidden state and every gradient, in both layouts
//! (golden tensors: `tests/golden/make_hubert.py`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{golden, peer, python, rel_l2, tensors, worst};
use echat::autograd::{Buckets, Group, Params, StepRng, Tape, Var};
use echat::model::hubert::{Encoded, EncoderConfig, Hubert, HubertConfig, normalize, pack};
use echat::model::weights::{Checkpoint, Destination, HUBERT, Layout, Loaded, Loader};

const MODELS: [&str; 4] = ["group", "group_bias", "layer", "layer_bias"];
const CONVS: [usize; 4] = [10, 3, 3, 2];

fn section(toml: &str, path: &Path) -> EncoderConfig {
    let mut table: toml::Table = toml.parse().unwrap();
    table.insert("path".into(), path.to_str().unwrap().into());
    table.try_into().unwrap()
}

fn to() -> Destination {
    Destination { prefix: "encoder", group: Group::Encoder, dtype: DType::F32, device: Device::Cpu }
}

fn load(toml: &str, path: &Path) -> (Hubert, Params, Loaded) {
    load_to_train(&[Group::EncoderFrontend, Group::Encoder], toml, path)
}

fn load_to_train(groups: &[Group], toml: &str, path: &Path) -> (Hubert, Params, Loaded) {
    let mut params = Params::training(&groups.iter().copied().collect());
    let run = section(toml, path);
    let loader = if run.random_init {
        Loader::random(1, &mut params, to())
    } else {
        Loader::from_checkpoint(Checkpoint::open(path).unwrap(), &HUBERT, &mut params, to())
    };
    let (hubert, loaded) = Hubert::load(loader, HubertConfig::read(&run).unwrap()).unwrap();
    (hubert, params, loaded)
}

fn waves(golden: &HashMap<String, Tensor>) -> Vec<Vec<f32>> {
    (0..).map_while(|u| golden.get(&format!("wave.{u}"))).map(|w| w.to_vec1().unwrap()).collect()
}

fn encode(hubert: &Hubert, tape: &Tape, waves: &[Vec<f32>], samples: &[u64]) -> Encoded {
    let slices: Vec<&[f32]> = waves.iter().map(Vec::as_slice).collect();
    let (wave, packed) = pack(&slices, samples, &Device::Cpu).unwrap();
    hubert.forward(tape, &wave, &packed).unwrap()
}

/// The embedding and every layer's output.
fn states(encoded: &Encoded) -> Vec<&Var> {
    std::iter::once(&encoded.cnn).chain(&encoded.layers).collect()
}

fn rows(state: &Var, encoded: &Encoded, u: usize) -> Tensor {
    let range = encoded.packed.seq.range(u);
    state.tensor().narrow(0, range.start, range.len()).unwrap()
}

#[test]
fn every_hidden_state_equals_transformers() {
    for model in MODELS {
        let dir = golden("hubert").join(model);
        let golden = tensors(&dir.join("golden.safetensors"));
        let (hubert, ..) = load("", &dir);
        let waves = waves(&golden);
        assert_eq!(waves.len(), 4);
        let mut errors = Vec::new();
        for (u, wave) in waves.iter().enumerate() {
            let encoded = encode(&hubert, &Tape::inference(), std::slice::from_ref(wave), &[0]);
            assert_eq!(encoded.packed.seq.total(), hubert.output_lens(wave.len()));
            assert_eq!(states(&encoded).len(), 4);
            for (layer, state) in states(&encoded).into_iter().enumerate() {
                errors.push(rel_l2(state.tensor(), &golden[&format!("hidden.{u}.{layer}")]));
            }
        }
        let worst = worst(errors);
        println!("{model}: hidden states, relative L2 error {worst:.2e}");
        assert!(worst <= 1e-5, "{model}: {worst:.2e}");
    }
}

#[test]
fn an_utterance_does_not_depend_on_its_neighbours() {
    for model in MODELS {
        let dir = golden("hubert").join(model);
        let mut waves = waves(&tensors(&dir.join("golden.safetensors")));
        waves.insert(1, vec![0.5; 20]); // Shorter than one receptive field: no frames.
        let (hubert, ..) = load("", &dir);
        let among = encode(&hubert, &Tape::inference(), &waves, &[1, 2, 3, 4, 5]);
        assert_eq!(among.packed.seq.len_of(1), 0);
        let mut errors = Vec::new();
        for (u, wave) in waves.iter().enumerate().filter(|(u, _)| *u != 1) {
            let alone = encode(&hubert, &Tape::inference(), std::slice::from_ref(wave), &[9]);
            for (a, b) in states(&among).into_iter().zip(states(&alone)) {
                errors.push(rel_l2(&rows(a, &among, u), b.tensor()));
            }
        }
        let worst = worst(errors);
        println!("{model}: packed against alone, relative L2 {worst:.2e}");
        assert!(worst <= 1e-6, "{model}: {worst:.2e}");
    }
}

/// The gradients in the buckets, by name, in the layouts of the files.
fn gradients(buckets: &Buckets) -> BTreeMap<String, Tensor> {
    let mut grads = BTreeMap::new();
    for bucket in buckets.iter() {
        for segment in &bucket.segments {
            let name = segment.param.name().strip_prefix("encoder.").unwrap().to_owned();
            let grad = bucket.grad.narrow(0, segment.range.start, segment.range.len()).unwrap();
            let grad = grad.reshape(segment.shape.as_slice()).unwrap().copy().unwrap();
            let layout = match name.strip_prefix("feature_extractor.conv_layers.").map(|rest| rest.split_at(1)) {
                Some((i, ".conv.weight")) => {
                    let i: usize = i.parse().unwrap();
                    Layout::Conv { c_in: if i == 0 { 1 } else { 16 }, k: CONVS[i] }
                }
                _ => Layout::Plain,
            };
            grads.insert(name, layout.to_file(&grad).unwrap());
        }
    }
    grads
}

/// Gradients of `Σ ⟨seed, state⟩` over the embedding and all layers of the packed golden utterances.
fn functional_gradients(toml: &str, model: &str, tape: &Tape) -> BTreeMap<String, Tensor> {
    let dir = golden("hubert").join(model);
    let golden = tensors(&dir.join("golden.safetensors"));
    let (hubert, mut params, _) = load(toml, &dir);
    let buckets = params.lay_out(1 << 14).unwrap();
    let encoded = encode(&hubert, tape, &waves(&golden), &[11, 12, 13, 14]);
    let seeds: Vec<(&Var, Tensor)> = states(&encoded)
        .into_iter()
        .enumerate()
        .map(|(layer, state)| {
            let parts: Vec<&Tensor> = (0..4).map(|u| &golden[&format!("seed.{u}.{layer}")]).collect();
            (state, Tensor::cat(&parts, 0).unwrap())
        })
        .collect();
    let mut sink = buckets.sink(None);
    tape.backward(&seeds, &mut sink).unwrap();
    sink.finish().unwrap();
    gradients(&buckets)
}

/// Biases that the next operation takes away again (softmax over keys, a norm over time): their gradients are rounding around
/// zero, to be compared with those of their weights.
fn is_unseen(model: &str, name: &str) -> bool {
    name.ends_with("k_proj.bias") || (model == "group_bias" && name == "feature_extractor.conv_layers.0.conv.bias")
}

fn norm(t: &Tensor) -> f64 {
    common::to_f64(t).iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    norm(&(a - b).unwrap())
}

#[test]
fn every_gradient_equals_pytorch() {
    for model in MODELS {
        let golden = tensors(&golden("hubert").join(model).join("golden.safetensors"));
        let grads = functional_gradients("", model, &Tape::recording());
        let expected = golden.keys().filter(|name| name.starts_with("grad.")).count();
        assert_eq!(expected + 1, grads.len(), "all but the mask embedding, which nothing masks with here");
        let mut errors = Vec::new();
        for (name, grad) in &grads {
            let Some(want) = golden.get(&format!("grad.{name}")) else {
                assert_eq!(name, "masked_spec_embed");
                continue;
            };
            let error = if is_unseen(model, name) {
                distance(grad, want) / norm(&golden[&format!("grad.{}", name.replace(".bias", ".weight"))])
            } else {
                rel_l2(grad, want)
            };
            assert!(error <= 1e-4, "{model}: {name}: {error:.2e}");
            errors.push(error);
        }
        println!("{model}: gradients, relative L2 error {:.2e}", worst(errors));
    }
}

fn bits(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<&str, Vec<u32>> {
    let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    tensors.iter().map(|(name, t)| (name.as_str(), bits(t))).collect()
}

/// Everything random at once.
const RATES: &str = "hidden_dropout = 0.2\nattention_dropout = 0.1\nactivation_dropout = 0.1\nfeat_proj_dropout = 0.1\n\
                     layerdrop = 0.5\nmask_time_prob = 0.3\nmask_time_length = 3\nmask_time_min_masks = 1\n\
                     mask_feature_prob = 0.3\nmask_feature_length = 2\nmask_feature_min_masks = 1\n";

#[test]
fn recomputation_changes_no_bit() {
    for model in ["group_bias", "layer"] {
        let train = |toml: &str, step| functional_gradients(toml, model, &Tape::training(StepRng::new(5, step)));
        let recompute = format!("{RATES}recompute = true");
        for step in 0..3 {
            let (kept, again) = (train(RATES, step), train(&recompute, step));
            assert!(bits(&kept) == bits(&again), "{model}, step {step}");
        }
        assert!(bits(&train(RATES, 0)) != bits(&train(RATES, 1)), "{model}: another step draws otherwise");
    }
}

#[test]
fn in_training_too_an_utterance_does_not_depend_on_its_neighbours() {
    let dir = golden("hubert").join("layer");
    let waves = waves(&tensors(&dir.join("golden.safetensors")));
    let (hubert, ..) = load(RATES, &dir);
    let tape = || Tape::training(StepRng::new(2, 7));
    let among = encode(&hubert, &tape(), &waves, &[21, 22, 23, 24]);
    let plain = encode(&hubert, &Tape::inference(), &waves, &[21, 22, 23, 24]);
    for (u, wave) in waves.iter().enumerate() {
        let alone = encode(&hubert, &tape(), std::slice::from_ref(wave), &[21 + u as u64]);
        for (a, b) in states(&among).into_iter().zip(states(&alone)) {
            let error = rel_l2(&rows(a, &among, u), b.tensor());
            assert!(error <= 1e-6, "utterance {u}: {error:.2e}");
        }
    }
    let changed = rel_l2(among.layers[0].tensor(), plain.layers[0].tensor());
    assert!(changed > 1e-2, "dropout and masks change the output: {changed:.2e}");
}

/// Without noise but the feature masks, so that a difference quotient has the same masks on both sides.
#[test]
fn gradients_through_feature_masks_are_difference_quotients() {
    let toml = "hidden_dropout = 0.0\nattention_dropout = 0.0\nactivation_dropout = 0.0\nfeat_proj_dropout = 0.0\n\
                layerdrop = 0.0\nmask_time_prob = 0.0\nmask_feature_prob = 0.5\nmask_feature_length = 4\n";
    let dir = golden("hubert").join("layer");
    let golden = tensors(&dir.join("golden.safetensors"));
    let grads = functional_gradients(toml, "layer", &Tape::training(StepRng::new(5, 1)));
    let unmasked = functional_gradients("", "layer", &Tape::recording());
    let name = "feature_projection.projection.bias";
    let (grad, plain) = (common::to_f64(&grads[name]), common::to_f64(&unmasked[name]));
    assert!(rel_l2(&grads[name], &unmasked[name]) > 0.05, "masks change the gradient");
    assert!(plain.iter().all(|g| *g != 0.0));
    let value = |bump: Option<(usize, f64)>| {
        let (hubert, params, _) = load(toml, &dir);
        let param = params.iter().find(|p| p.name().ends_with(name)).unwrap();
        let mut values = common::to_f64(&param.tensor());
        if let Some((i, by)) = bump {
            values[i] += by;
        }
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        param.set(Tensor::new(values, &Device::Cpu).unwrap());
        let encoded = encode(&hubert, &Tape::training(StepRng::new(5, 1)), &waves(&golden), &[11, 12, 13, 14]);
        let dot = |(layer, state): (usize, &Var)| {
            let parts: Vec<&Tensor> = (0..4).map(|u| &golden[&format!("seed.{u}.{layer}")]).collect();
            let seed = common::to_f64(&Tensor::cat(&parts, 0).unwrap());
            seed.iter().zip(common::to_f64(state.tensor())).map(|(a, b)| a * b).sum::<f64>()
        };
        states(&encoded).into_iter().enumerate().map(dot).sum::<f64>()
    };
    let scale = grad.iter().fold(0.0f64, |a, g| a.max(g.abs()));
    for i in [0, 3, 7, 12] {
        let h = 3e-3;
        let quotient = (value(Some((i, h))) - value(Some((i, -h)))) / (2.0 * h);
        assert!((quotient - grad[i]).abs() <= 0.01 * scale, "{i}: {quotient} and {}", grad[i]);
    }
}

#[test]
fn layer_drop_skips_whole_layers_at_its_rate() {
    let dir = golden("hubert").join("group");
    let toml = "layerdrop = 0.3\nhidden_dropout = 0.0\nattention_dropout = 0.0\nactivation_dropout = 0.0\nmask_time_prob = 0.0";
    let (hubert, ..) = load(toml, &dir);
    let wave = vec![vec![0.25; 200]];
    let steps = 400;
    let mut skipped = 0;
    for step in 0..steps {
        let encoded = encode(&hubert, &Tape::training(StepRng::new(1, step)), &wave, &[step]);
        let states = states(&encoded);
        skipped += states.windows(2).filter(|w| rel_l2(w[0].tensor(), w[1].tensor()) == 0.0).count();
    }
    let rate = skipped as f64 / (3 * steps) as f64;
    assert!((rate - 0.3).abs() < 0.04, "skipped {rate} of the layers");
}

#[test]
fn a_frozen_encoder_records_nothing_and_a_frozen_front_end_gets_no_gradient() {
    let dir = golden("hubert").join("layer_bias");
    let golden = tensors(&dir.join("golden.safetensors"));
    let (hubert, mut params, _) = load_to_train(&[Group::Encoder], "", &dir);
    let tape = Tape::recording();
    let encoded = encode(&hubert, &tape, &waves(&golden), &[1, 2, 3, 4]);
    assert!(states(&encoded).iter().all(|state| !state.needs_grad()));
    let buckets = params.lay_out(1 << 20).unwrap();
    let front = buckets.iter().flat_map(|b| &b.segments).find(|s| s.param.name().contains("feature_extractor"));
    assert!(front.is_none(), "{front:?}");
    let encoded = encode(&hubert, &tape, &waves(&golden), &[1, 2, 3, 4]);
    assert!(states(&encoded).iter().all(|state| state.needs_grad()));
}

#[test]
fn the_cnn_embedding_joins_the_sums_only_if_configured() {
    let dir = golden("hubert").join("layer");
    for (toml, count) in [("", 3), ("include_cnn_embedding = true", 4)] {
        let (hubert, ..) = load(toml, &dir);
        let encoded = encode(&hubert, &Tape::inference(), &[vec![0.1; 400]], &[0]);
        assert_eq!((hubert.config().summed_layers(), encoded.layers.len()), (count, count));
    }
}

#[test]
fn normalisation_is_the_feature_extractors() {
    let mut wave = [1.0f32, 2.0, 3.0, 6.0];
    normalize(&mut wave);
    let scale = 1.0 / (3.5f64 + 1e-7).sqrt();
    for (got, x) in wave.iter().zip([-2.0, -1.0, 0.0, 3.0]) {
        assert!((f64::from(*got) - x * scale).abs() <= 1e-6);
    }
    let mut silence = [0.25f32; 3];
    normalize(&mut silence);
    assert_eq!(silence, [0.0; 3]);
    for (model, expected) in [("group", false), ("layer", true)] {
        assert_eq!(load("", &golden("hubert").join(model)).0.config().do_normalize, expected);
        assert!(load("do_normalize = true", &golden("hubert").join(model)).0.config().do_normalize);
    }
}

#[test]
fn an_export_reads_back_the_same_and_transformers_agrees() {
    for model in MODELS {
        let dir = golden("hubert").join(model);
        let (hubert, params, loaded) = load("", &dir);
        let out = tempfile::tempdir().unwrap();
        hubert.export(&loaded.manifest, out.path()).unwrap();
        let (again, read, loaded) = load("", out.path());
        assert_eq!(again.config().do_normalize, hubert.config().do_normalize);
        assert!(loaded.report.unused.is_empty());
        assert_eq!(params.iter().count(), read.iter().count());
        for (a, b) in params.iter().zip(read.iter()) {
            assert_eq!(a.name(), b.name());
            assert_eq!(common::to_f64(&a.tensor()), common::to_f64(&b.tensor()), "{}", a.name());
        }
        let Some(mut python) = python("torch, transformers, safetensors", "export with transformers") else { continue };
        let checked = python.arg(peer("check_export.py")).arg(out.path()).arg(dir.join("golden.safetensors")).output();
        let checked = checked.unwrap();
        let text = [checked.stdout, checked.stderr].concat();
        assert!(checked.status.success(), "{model}: {}", String::from_utf8_lossy(&text));
        print!("{model}: transformers on the export: {}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn a_config_alone_is_enough_to_begin_at_random() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden("hubert/layer/config.json"), dir.path().join("config.json")).unwrap();
    let toml = "random_init = true";
    let ((hubert, params, _), (_, same, _)) = (load(toml, dir.path()), load(toml, dir.path()));
    for (a, b) in params.iter().zip(same.iter()) {
        assert_eq!(common::to_f64(&a.tensor()), common::to_f64(&b.tensor()), "{}: one seed, one model", a.name());
    }
    let encoded = encode(&hubert, &Tape::inference(), &[vec![0.5; 800], vec![-0.5; 900]], &[0, 1]);
    assert!(states(&encoded).iter().all(|s| common::to_f64(s.tensor()).iter().all(|x| x.is_finite())));
    let mut other = Params::frozen();
    let config = HubertConfig::read(&section(toml, dir.path())).unwrap();
    Hubert::load(Loader::random(2, &mut other, to()), config).unwrap();
    let name = "encoder.encoder.layers.0.attention.q_proj.weight";
    assert!(rel_l2(&other.get(name).unwrap().tensor(), &params.get(name).unwrap().tensor()) > 0.5);
}

#[test]
fn a_config_that_is_no_hubert_of_ours_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let read = |toml: &str| {
        let error = HubertConfig::read(&section(toml, dir.path())).expect_err("an error").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert!(read("").contains("config.json: no such file"));
    let json = |text: &str| std::fs::write(dir.path().join("config.json"), text).unwrap();
    for (text, reason) in [
        ("{", "EOF"),
        (r#"{"model_type": "wavlm"}"#, "model_type is `wavlm`, not `hubert`"),
        (r#"{"conv_dim": [512]}"#, "of one length"),
        (r#"{"hidden_size": 100}"#, "not a multiple of num_attention_heads"),
        (r#"{"feat_extract_norm": "batch"}"#, "batch"),
        (r#"{"hidden_act": "mish"}"#, "activation `mish`"),
        (r#"{"conv_pos_batch_norm": true}"#, "conv_pos_batch_norm is not supported"),
    ] {
        json(text);
        let error = read("");
        assert!(error.contains("config.json") && error.contains(reason), "{error}");
    }
    json("{}");
    assert!(read("layerdrop = 1.5").contains("encoder.layerdrop = 1.5"));
    assert!(read("mask_time_length = 0").contains("encoder.mask_time_length = 0"));
    assert!(read("mask_feature_length = 0").contains("encoder.mask_feature_length = 0: from 1 to"));
    assert!(read("mask_feature_prob = 0.1\nmask_feature_length = 999").contains("encoder.mask_feature_length = 999"));
    assert!(read("mask_feature_prob = 1.0").contains("encoder.mask_feature_prob = 1"));
    let unknown = "path = 'x'\nlayer_drop = 0.1".parse::<toml::Table>().unwrap().try_into::<EncoderConfig>();
    assert!(unknown.err().unwrap().to_string().contains("layer_drop"));
}

/// Parameters of the model a `config.json` describes, from shapes alone.
fn parameters(config: &str) -> usize {
    let config: HubertConfig = serde_json::from_str(config).unwrap();
    let mut params = Params::frozen();
    Hubert::load(Loader::shapes(&mut params, to()), config).unwrap();
    params.elements(Group::Encoder) + params.elements(Group::EncoderFrontend)
}

#[test]
fn chinese_hubert_sizes_are_those_of_transformers() {
    // sum(p.numel() for p in HubertModel(config).parameters()), transformers 5.23.
    assert_eq!(parameters("{}"), 94_371_712, "chinese-hubert-base: transformers' default configuration");
    let large = r#"{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "feat_extract_norm": "layer", "do_stable_layer_norm": true"#;
    assert_eq!(parameters(&format!("{large}}}")), 315_435_136, "chinese-hubert-large");
    assert_eq!(parameters(&format!(r#"{large}, "conv_bias": true}}"#)), 315_438_720);
}
