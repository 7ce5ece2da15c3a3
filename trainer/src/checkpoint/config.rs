//! `[checkpoint]`.

use crate::config::{choice, section};

choice! {
    /// Which of two values of a metric is the better one.
    pub enum Better {
        /// The lower one (losses, error rates).
        Lower = "lower",
        /// The higher one (accuracies).
        Higher = "higher",
    }
}

section! {
    /// When checkpoints are saved, and which are kept.
    pub struct CheckpointConfig {
        /// Save every this many steps, and at the end; 0 saves only at the end.
        pub every_steps: u64 = 500,
        /// Keep the newest of them; 0 keeps all.
        pub keep_last: usize = 3,
        /// Keep also this many of the best by `best_metric`.
        pub keep_best: usize = 1,
        /// The validation metric, by its tag name.
        pub best_metric: String = "valid/loss".into(),
        /// Whether its lower or its higher values are better.
        pub better: Better = Better::Lower,
    }
}
