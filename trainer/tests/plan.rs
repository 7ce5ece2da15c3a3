//! What `echat plan` foretells is what happens: bytes that the tape holds between forward and backward, counted where they are allocated, and the
//! arithmetic the tape counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout as Piece, System};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use candle_core::{Device, Tensor};
use echat::autograd::{StepRng, Tape};
use echat::config::{RunConfig, load};
use echat::data::text::{Layout, Part};
use echat::model::echat::{Batch, Built, Sections, Speech};
use echat::nn::{Packed, SeqLens};
use echat::plan::{Assumptions, MicroBatch, cost, plan, table};
use echat::train::TrainGroup;

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Piece) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Piece) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LARGE: &str = r#"{"model_type": "hubert", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 200, "conv_dim": [32, 32, 32, 32, 32, 32, 32], "conv_bias": true, "feat_extract_norm": "layer",
    "do_stable_layer_norm": true, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0}"#;
const BASE: &str = r#"{"model_type": "hubert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 160, "conv_dim": [24, 24, 24, 24, 24, 24, 24], "feat_extract_norm": "group",
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0}"#;
const BAICHUAN: &str = r#"{"model_type": "baichuan", "hidden_size": 128, "intermediate_size": 300, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 211, "max_position_embeddings": 512, "z_loss_weight": 0}"#;
const QWEN: &str = r#"{"model_type": "qwen3", "hidden_size": 96, "intermediate_size": 250, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512}"#;
const HUBERT_LARGE: &str = r#"{"model_type": "hubert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "intermediate_size": 4096, "feat_extract_norm": "layer", "do_stable_layer_norm": true, "layerdrop": 0.0}"#;
const BAICHUAN2: &str = r#"{"model_type": "baichuan", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 125696, "max_position_embeddings": 4096, "z_loss_weight": 0}"#;

/// The configuration `text` in `dir`, with its models' `config.json` files.
fn configured(dir: &Path, encoder: &str, decoder: &str, text: &str) -> RunConfig {
    for (name, config) in [("encoder", encoder), ("decoder", decoder)] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("config.json"), config).unwrap();
    }
    let path = dir.join("run.toml");
    std::fs::write(&path, text).unwrap();
    let sets = ["encoder", "decoder"].map(|name| format!("{name}.path={:?}", dir.join(name)));
    load::<RunConfig>(&path, &sets).unwrap().config
}

fn toml(precision: &str, recompute: bool, groups: &str, more: &str) -> String {
    format!(
        "[output]\ndir = \"x\"\n[model]\nprecision = \"{precision}\"\n{more}\n\
         [encoder]\npath = \"x\"\nrandom_init = true\nrecompute = {recompute}\n\
         [decoder]\npath = \"x\"\nrandom_init = true\nrecompute = {recompute}\n\
         [train]\nsteps = 1\ngroups = [{groups}]\n"
    )
}

fn connector(kind: &str, recompute: bool) -> String {
    let sizes = "width = 64\nlayers = 2\nheads = 4\nffn = 128\nwindow = 9\nqueries = 2";
    format!("[connector]\nkind = \"{kind}\"\nrecompute = {recompute}\n{sizes}\n")
}

const SAMPLES: [usize; 3] = [32_000, 9_000, 51_200];
const TARGETS: [usize; 3] = [9, 4, 14];

fn batch(emotion: bool) -> Batch {
    let seq = SeqLens::from_lens(SAMPLES);
    let wave: Vec<f32> = (0..seq.total()).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    Batch {
        ids: Vec::new(),
        speech: Speech::Waves(Tensor::from_vec(wave, (seq.total(), 1), &Device::Cpu).unwrap()),
        packed: Packed { seq, samples: [1, 2, 3].into() },
        contexts: Vec::new(),
        targets: TARGETS.iter().map(|&n| (0..n as u32).map(|i| 3 + i).collect()).collect(),
        emotions: if emotion { vec![0, 1, 2] } else { Vec::new() },
    }
}

/// Bytes held between forward and backward, and the tape's arithmetic.
fn happened(config: &RunConfig) -> (f64, f64) {
    let sections = Sections {
        model: &config.model,
        encoder: config.encoder.as_ref(),
        connector: &config.connector,
        decoder: &config.decoder,
    };
    let mut built = Built::new(&sections, &TrainGroup::all(&config.train.groups), &Device::Cpu).unwrap();
    let buckets = built.params.lay_out(64 << 20).unwrap();
    built.model.decoder.settle().unwrap();
    let layout = Layout { parts: vec![Part::Bos(1), Part::Emotion, Part::Speech, Part::Tokens(vec![5; 6])] };
    let batch = batch(config.model.emotion);
    let forward = |tape: &Tape| built.model.losses(tape, &batch, &layout).unwrap();
    // What the tape holds is what its end frees: kernels' own scratch, which comes and goes in forward, is not in it.
    let tape = Tape::training(StepRng::new(0, 0));
    let losses = forward(&tape);
    let held = LIVE.load(Relaxed);
    drop((tape, losses));
    let kept = (held - LIVE.load(Relaxed)) as f64;
    let tape = Tape::training(StepRng::new(0, 1));
    let losses = forward(&tape);
    let one = || Tensor::new(1f32, &Device::Cpu).unwrap();
    let mut seeds = vec![(&losses.decoder.loss, one())];
    seeds.extend(losses.emotion.iter().map(|e| (&e.loss, one())));
    let mut sink = buckets.sink(None);
    tape.backward(&seeds, &mut sink).and_then(|()| sink.finish()).unwrap();
    (kept, tape.flops())
}

/// All in one test: what others allocate meanwhile would be counted too.
#[test]
fn activations_and_arithmetic_are_as_foretold() {
    let both = "\"encoder\", \"connector\"";
    let cases = [
        ("large, f32", LARGE, BAICHUAN, toml("f32", false, both, "") + &connector("transformer", false)),
        ("large, bf16", LARGE, BAICHUAN, toml("bf16", false, both, "") + &connector("transformer", false)),
        ("large, recomputed", LARGE, BAICHUAN, toml("f32", true, both, "") + &connector("transformer", true)),
        ("base", BASE, QWEN, toml("f32", false, both, "") + &connector("transformer", false)),
        ("base, recomputed", BASE, QWEN, toml("f32", true, both, "") + &connector("transformer", true)),
        (
            "without the front-end",
            LARGE,
            BAICHUAN,
            toml("f32", false, "\"encoder_transformer\", \"connector\"", "") + &connector("linear", false),
        ),
        ("conv", LARGE, QWEN, toml("f32", false, both, "") + &connector("conv", false)),
        ("qformer", LARGE, QWEN, toml("f32", false, both, "") + &connector("qformer", false)),
        (
            "stage 2",
            LARGE,
            BAICHUAN,
            toml("f32", false, "\"connector\", \"emotion\"", "emotion = true") + &connector("transformer", false),
        ),
        (
            "everything trains",
            LARGE,
            QWEN,
            toml("f32", false, "\"encoder\", \"connector\", \"emotion\", \"decoder\"", "emotion = true")
                + &connector("transformer", false),
        ),
        ("connector frozen", LARGE, BAICHUAN, toml("f32", false, "\"encoder\"", "") + &connector("transformer", false)),
    ];
    let mut wrong = Vec::new();
    for (name, encoder, decoder, text) in cases {
        let dir = tempfile::tempdir().unwrap();
        let config = configured(dir.path(), encoder, decoder, &text);
        let seconds = SAMPLES.iter().sum::<usize>() as f64 / 16_000.0;
        let micro = MicroBatch { seconds, samples: SAMPLES.to_vec(), targets: TARGETS.to_vec(), prompt: 7 };
        let architecture = echat::model::decoder::Architecture::read(&config.decoder.path).unwrap();
        let told = cost(&config, &architecture, &micro, None).unwrap();
        let (kept, flops) = happened(&config);
        println!("{name}: {kept} bytes kept, foretold {}; {flops} operations, foretold {}", told.kept, told.flops);
        let (bytes_off, flops_off) = (told.kept / kept - 1.0, told.flops / flops - 1.0);
        if !(bytes_off.abs() < 0.15 && flops_off.abs() < 1e-9) {
            wrong.push(format!("{name}: bytes {:+.1} %, operations {:+.4} %", 100.0 * bytes_off, 100.0 * flops_off));
        }
    }
    assert_eq!(wrong, [""; 0]);
    the_papers_sizes();
}

fn assumptions() -> Assumptions {
    let (tflops, bandwidth) = (350.0, 40.0);
    Assumptions { ranks: 64, tflops, bandwidth, utterance_seconds: 2.5, tokens_per_second: 3.5 }
}

/// Stage 1 of the paper, from its configuration and two `config.json` files.
fn the_papers_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let stage1 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/echat/stage1.toml");
    let config = configured(dir.path(), HUBERT_LARGE, BAICHUAN2, &std::fs::read_to_string(stage1).unwrap());
    let before = LIVE.load(Relaxed);
    let plan = plan(&config, &assumptions()).unwrap();
    assert!(LIVE.load(Relaxed) - before < 1 << 20, "no weights are made");
    let of = |name: &str| plan.parts.iter().find(|part| part.name == name).unwrap();
    let (projection, connector) = (1024 * 4096 + 4096, of("connector"));
    assert_eq!(connector.parameters, 52_487_168 + projection);
    let encoder = of("encoder").parameters + of("encoder's convolutions").parameters;
    assert!((315_000_000..317_500_000).contains(&encoder), "{encoder}");
    assert_eq!(of("decoder").parameters, 7_505_973_248);
    assert_eq!((of("decoder").trained, connector.trained), (0, connector.parameters));
    let trained = (encoder + connector.parameters) as f64;
    assert_eq!(plan.memory.masters, 4.0 * trained);
    assert_eq!(plan.memory.moments, 8.0 * trained);
    assert_eq!(plan.memory.weights, 2.0 * (trained + 7_505_973_248.0));
    // Encoder and decoder recompute; the connector does not.
    let kept = [plan.memory_recomputed, plan.memory, plan.memory_kept].map(|memory| memory.activations);
    assert!(kept.is_sorted_by(|a, b| a < b), "{kept:?}");
    assert_eq!(plan.step.reduced_bytes, 4.0 * trained);
    assert_eq!(plan.step.micro_batches, 1);
    let text = table(&plan, &[80.0, 8.0]);
    assert!(text.contains("7,505,973,248") && text.contains("too much"), "{text}");
    let nothing = Assumptions { tflops: f64::NAN, ..assumptions() };
    let error = echat::plan::plan(&config, &nothing).unwrap_err().to_string();
    assert_eq!(error, "--tflops: expected a positive number, found NaN");
}
