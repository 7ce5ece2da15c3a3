//! What the decoder is asked, and how one sequence is laid out.

use crate::config::section;

section! {
    /// What the decoder is asked, and how a sequence is laid out before the target tokens and EOS.
    pub struct PromptConfig {
        /// The request, put at `{prompt}`.
        pub text: String = "Transcribe the speech.".into(),
        /// The order of the parts: `{bos}`, `{emotion}` (the emotion token, where the model has one), `{speech}` (once),
        /// `{prompt}`. Other text is tokenized as it stands; special tokens in it, such as `<reserved_106>`, become their ids.
        pub template: String = "{bos}{emotion}{speech}{prompt}".into(),
    }
}
