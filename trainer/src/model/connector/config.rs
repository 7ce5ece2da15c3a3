//! `[connector]`.

use echat_kernels::activation::Activation;

use crate::config::{choice, section};

choice! {
    /// What turns encoder frames into decoder embeddings.
    pub enum ConnectorKind {
        /// Stacked frames through Transformer encoder layers (the paper's).
        Transformer = "transformer",
        /// Stacked frames through two linear layers.
        Linear = "linear",
        /// Two strided convolutions and a linear layer.
        Conv = "conv",
        /// Learned queries that attend to windows of frames.
        Qformer = "qformer",
    }
}

choice! {
    /// The feed-forward activation.
    pub enum ActivationKind {
        /// max(x, 0).
        Relu = "relu",
        /// x Φ(x), with the error function.
        Gelu = "gelu",
    }
}

impl ActivationKind {
    /// The kernel's name for it.
    pub fn kernel(self) -> Activation {
        match self {
            Self::Relu => Activation::Relu,
            Self::Gelu => Activation::Gelu,
        }
    }
}

section! {
    /// The connection module between encoder and decoder.
    pub struct ConnectorConfig {
        /// Its architecture.
        pub kind: ConnectorKind = ConnectorKind::Transformer,
        /// Consecutive frames put side by side (transformer, linear).
        pub stack: usize = 2,
        /// Width inside.
        pub width: usize = 1024,
        /// Layers (transformer, qformer).
        pub layers: usize = 4,
        /// Attention heads (transformer, qformer).
        pub heads: usize = 16,
        /// Width of the feed-forward layers (transformer, qformer).
        pub ffn: usize = 4096,
        /// Feed-forward activation.
        pub activation: ActivationKind = ActivationKind::Relu,
        /// Dropout after the positions, on both residual branches and inside the feed-forward.
        pub dropout: f64 = 0.1,
        /// Frames per window (qformer): 17 are a third of a second.
        pub window: usize = 17,
        /// Queries per window (qformer).
        pub queries: usize = 1,
        /// Recompute each layer in backward instead of keeping its activations.
        pub recompute: bool = false,
    }
}
