//! What the encoder costs: [`Hubert::forward`](super::Hubert::forward) entered into a ledger.

use super::HubertConfig;
use super::config::FeatExtractNorm;
use crate::nn::Activation;
use crate::nn::ledger::{Grad, Ledger, Rows, transformer_layer};

impl HubertConfig {
    /// Enters a forward pass over utterances of so many `samples`. `trains`: the convolutional front-end, the rest (with the layer sum);
    /// nothing of a frozen encoder is kept. Masks and dropout cost nothing: they are drawn again. Returns the frames of each utterance.
    pub fn cost(&self, ledger: &mut Ledger, samples: &[usize], trains: [bool; 2]) -> Vec<usize> {
        let [front, rest] = trains;
        let frames = self.frontend_cost(ledger, samples, front);
        let rows = Rows::of(frames.iter().copied());
        let (t, d) = (rows.count, self.hidden_size);
        let grad = Grad { x: front, w: rest };
        let c = self.conv_dim.last().copied().unwrap_or(0);
        ledger.keep(rest, t, c);
        if self.feat_proj_layer_norm {
            ledger.norm(rest, t, c, 2);
        }
        ledger.linear(t, c, d, Grad { x: front || (rest && self.feat_proj_layer_norm), w: rest });
        self.positions_cost(ledger, t, rest);
        for _ in 0..self.num_hidden_layers {
            let enter = |ledger: &mut Ledger| {
                transformer_layer(ledger, &rows, [d, self.intermediate_size, self.num_attention_heads], grad.next());
            };
            ledger.block(self.recompute, t * d as f64, grad.next(), enter);
        }
        // The layer sum reads every layer's output; all but the last are inputs of the next.
        ledger.keep(rest, t, d);
        if self.do_stable_layer_norm {
            ledger.norm(rest, t, d, 2);
        }
        if rest {
            // It gives all layers' gradients at once.
            ledger.in_flight(t * (self.num_hidden_layers * d + 2 * self.intermediate_size + 2 * d) as f64);
        }
        frames
    }

    /// Each convolution: its input, its output in front of a norm, and what the activation reads, if that is not made again.
    fn frontend_cost(&self, ledger: &mut Ledger, samples: &[usize], trains: bool) -> Vec<usize> {
        let (mut lens, mut c_in) = (samples.to_vec(), 1);
        for (i, &c) in self.conv_dim.iter().enumerate() {
            let (kernel, stride) = (self.conv_kernel[i], self.conv_stride[i]);
            let total = |lens: &[usize]| lens.iter().sum::<usize>() as f64;
            let input = total(&lens);
            for len in &mut lens {
                *len = if *len < kernel { 0 } else { (*len - kernel) / stride + 1 };
            }
            let output = total(&lens);
            let grad = Grad { x: trains && i > 0, w: trains };
            ledger.block(self.recompute, input * c_in as f64, grad, |ledger| {
                ledger.product(2.0 * output * (kernel * c_in * c) as f64, grad);
                ledger.keep(trains, input, c_in);
                match self.feat_extract_norm {
                    FeatExtractNorm::Layer => ledger.norm(trains, output, c, 2),
                    FeatExtractNorm::Group => ledger.keep(trains && i == 0, output, c),
                }
                let again =
                    self.feat_extract_norm == FeatExtractNorm::Layer && self.conv_activation() == Activation::Gelu;
                ledger.keep(trains && !again, output, c);
                ledger.in_flight(if trains { 2.0 * output * c as f64 + input * c_in as f64 } else { 0.0 });
            });
            c_in = c;
        }
        lens
    }

    /// The positional convolution: what it reads, its weight, what its activation reads, and the norm behind it in the base layout.
    fn positions_cost(&self, ledger: &mut Ledger, t: f64, trains: bool) {
        let d = self.hidden_size;
        let taps = d / self.num_conv_pos_embedding_groups * self.num_conv_pos_embeddings;
        ledger.product(2.0 * t * (taps * d) as f64, Grad { x: trains, w: trains });
        ledger.keep(trains, t, d);
        ledger.keep(trains, 1.0, taps * d);
        ledger.keep(trains, t, d);
        if !self.do_stable_layer_norm {
            ledger.norm(trains, t, d, 2);
        }
    }
}
