//! Every metric: its tag in TensorBoard and `metrics.jsonl`, its unit, its meaning.

use std::fmt;

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    /// The tag.
    pub tag: &'static str,
    /// The unit; `1` for shares and counts.
    pub unit: &'static str,
    /// What it says.
    pub doc: &'static str,
}

impl Name {
    /// The tag of one member of this metric, such as a parameter group's learning rate.
    pub fn of(&'static self, member: &str) -> Tag {
        Tag { name: self, member: Some(member.into()) }
    }
}

/// A metric, or one member of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The metric.
    pub name: &'static Name,
    /// Which of several, if the metric has members.
    pub member: Option<String>,
}

impl From<&'static Name> for Tag {
    fn from(name: &'static Name) -> Self {
        Self { name, member: None }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.member {
            None => f.write_str(self.name.tag),
            Some(member) => write!(f, "{}/{member}", self.name.tag),
        }
    }
}

macro_rules! names {
    ($( $name:ident = $tag:literal [$unit:literal] $doc:literal; )*) => {
        $( #[doc = concat!("`", $tag, "` [", $unit, "]: ", $doc)] pub static $name: Name = Name { tag: $tag, unit: $unit, doc: $doc }; )*
        /// Every metric, in the order of the documentation.
        pub static ALL: &[&Name] = &[$( &$name ),*];
    };
}

names! {
    LOSS = "train/loss" ["nats"] "(1-α)·decoder loss + α·emotion loss, over the global batch";
    LOSS_DECODER = "train/loss_decoder" ["nats/token"] "cross-entropy over all target tokens of the global batch";
    LOSS_EMOTION = "train/loss_emotion" ["nats/utterance"] "cross-entropy of the emotion classifier over the global batch";
    TOKEN_ACCURACY = "train/token_accuracy" ["1"] "share of target tokens that are the most likely ones";
    EMOTION_ACCURACY = "train/emotion_accuracy" ["1"] "share of utterances whose emotion is the most likely one";
    VALID_LOSS = "valid/loss" ["nats"] "as train/loss, over the validation set";
    VALID_LOSS_DECODER = "valid/loss_decoder" ["nats/token"] "as train/loss_decoder, over the validation set";
    VALID_LOSS_EMOTION = "valid/loss_emotion" ["nats/utterance"] "as train/loss_emotion, over the validation set";
    VALID_TOKEN_ACCURACY = "valid/token_accuracy" ["1"] "as train/token_accuracy, over the validation set";
    VALID_EMOTION_ACCURACY = "valid/emotion_accuracy" ["1"] "as train/emotion_accuracy, over the validation set";
    LEARNING_RATE = "optim/lr" ["1"] "learning rate of each parameter group";
    GRAD_NORM = "optim/grad_norm" ["1"] "L2 norm of the global gradient before clipping";
    SKIPPED_STEPS = "optim/skipped_steps" ["1"] "steps not taken so far, because a loss or gradient was not finite";
    AUDIO_HOURS_PER_HOUR = "speed/audio_hours_per_hour" ["h/h"] "audio trained on per hour of wall time, all ranks";
    TOKENS_PER_SECOND = "speed/tokens_per_second" ["1/s"] "decoder positions per second, all ranks";
    STEP_SECONDS = "speed/step_seconds" ["s"] "wall time of a step, mean of the interval";
    TFLOPS = "speed/tflops" ["TFLOP/s"] "model arithmetic per second, all ranks, without recomputation";
    MFU = "speed/mfu" ["1"] "model arithmetic as a share of the devices' peak, where output.peak_tflops gives it";
    DATA_WAIT = "speed/data_wait" ["1"] "share of the interval's wall time in which a rank waited for the loader, mean of the ranks";
    COMM_WAIT = "speed/comm_wait" ["1"] "share of wall time spent waiting for the gradients of other ranks";
    AUDIO_SECONDS = "batch/audio_seconds" ["s"] "audio in a global batch";
    UTTERANCES = "batch/utterances" ["1"] "utterances in a global batch";
    TARGET_TOKENS = "batch/target_tokens" ["1"] "target tokens in a global batch";
    PADDING = "batch/padding" ["1"] "share of computed positions that are padding; batches are packed, so zero";
    MEMORY = "memory/resident_gib" ["GiB"] "largest resident memory of a rank";
    SPEECH_LAYERS = "layers/speech" ["1"] "weight of each encoder layer in the speech sum";
    EMOTION_LAYERS = "layers/emotion" ["1"] "weight of each encoder layer in the emotion sum";
}
