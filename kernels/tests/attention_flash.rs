//! Which attention is left to candle-flash-attn, and which is ours.
#![allow(missing_docs)]

use candle_core::DType;
use echat_kernels::SeqLens;
use echat_kernels::attention::flash::{self, Operands, serves};
use echat_kernels::attention::{Attention, Dropout};

#[test]
fn it_makes_aligned_bf16_on_gpus_that_have_it() {
    let seq = SeqLens::from_lens([3, 0, 5]);
    let args = Attention { q_seq: &seq, k_seq: &seq, causal: true, scale: 0.125, dropout: None };
    let hubert = Operands { dtype: DType::BF16, heads: 16, width: 64, aligned: true, capability: (9, 0) };
    for operands in [
        hubert,
        Operands { width: 8, ..hubert },
        Operands { width: 80, ..hubert },
        Operands { width: flash::MAX_WIDTH, ..hubert },
        Operands { capability: (8, 0), ..hubert },
        Operands { capability: (12, 0), ..hubert },
    ] {
        assert!(serves(&operands, &args), "{operands:?}");
    }
    for operands in [
        Operands { dtype: DType::F32, ..hubert },
        Operands { dtype: DType::F16, ..hubert },
        Operands { width: 20, ..hubert },
        Operands { width: 136, ..hubert },
        Operands { width: 0, ..hubert },
        Operands { aligned: false, ..hubert },
        Operands { heads: 65_536, ..hubert },
        Operands { capability: (7, 5), ..hubert },
    ] {
        assert!(!serves(&operands, &args), "{operands:?}");
    }
}

#[test]
fn dropout_other_scales_empty_and_very_large_batches_are_ours() {
    let (seq, none, empty) = (SeqLens::from_lens([3, 5]), SeqLens::from_lens([]), SeqLens::from_lens([0, 0]));
    let many = SeqLens::from_lens(vec![1; 65_536]);
    let args = Attention { q_seq: &seq, k_seq: &seq, causal: false, scale: 1.0, dropout: None };
    let operands = Operands { dtype: DType::BF16, heads: 2, width: 64, aligned: true, capability: (8, 0) };
    let dropout = |p| Some(Dropout { p, streams: &[1, 2] });
    assert!(serves(&operands, &args));
    assert!(serves(&operands, &Attention { dropout: dropout(0.0), ..args }));
    for args in [
        Attention { dropout: dropout(0.1), ..args },
        Attention { scale: -1.0, ..args },
        Attention { scale: 0.0, ..args },
        Attention { scale: f32::NAN, ..args },
        Attention { k_seq: &empty, ..args },
        Attention { q_seq: &empty, ..args },
        Attention { q_seq: &none, k_seq: &none, ..args },
        Attention { q_seq: &many, k_seq: &many, ..args },
    ] {
        assert!(!serves(&operands, &args), "{args:?}");
    }
}
