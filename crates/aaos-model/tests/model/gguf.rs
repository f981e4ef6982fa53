//! A tiny model that is made here byte by byte, whole or with a fault.

use std::fs::File;
use std::io::Write;

use aaos_model::engine::Engine;
use aaos_model::sampler::Choice;

use crate::given::settings;

/// A GGUF file in the making.
#[derive(Clone, Default)]
pub(crate) struct Gguf {
    pub(crate) values: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// As the format has it: the innermost first.
    pub(crate) shape: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
    /// Where it is said to begin, if not where it does.
    pub(crate) claimed: Option<u64>,
}

pub(crate) fn text(bytes: &str) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes.as_bytes()].concat()
}

/// A value's type and bytes.
pub(crate) fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

pub(crate) fn array(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    value(9, &[&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat())
}

impl Gguf {
    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.values.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.values.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.values.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.set(key, value);
        self
    }

    pub(crate) fn change(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.iter_mut().find(|one| one.name == name).expect("a tensor that is there"));
        self
    }

    /// The header's bytes, up to where the tensors begin.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            bytes.extend([text(key), value.clone()].concat());
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            bytes.extend(tensor.shape.iter().flat_map(|one| one.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.claimed.unwrap_or(offset).to_le_bytes());
            offset = (offset + tensor.bytes.len() as u64).next_multiple_of(32);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        for tensor in &self.tensors {
            bytes.extend(&tensor.bytes);
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        bytes
    }
}

pub(crate) fn file(bytes: &[u8]) -> (File, u64) {
    let mut file = tempfile::tempfile().expect("room for a file");
    file.write_all(bytes).expect("room for its bytes");
    (file, bytes.len() as u64)
}

const WIDTH: u64 = 32;
const INNER: u64 = 64;
/// Letters for all bytes, and three control tokens.
const WORDS: u64 = 259;

/// A whole model of one layer whose vocabulary is the bytes, and whose weights are noise.
pub(crate) fn tiny() -> Gguf {
    let whole = |number: u32| value(4, &number.to_le_bytes());
    let mut gguf = Gguf::default();
    gguf.set("general.architecture", value(8, &text("llama")));
    gguf.set("general.name", value(8, &text("Tiny")));
    for (key, number) in [
        ("block_count", 1),
        ("context_length", 4_096),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", INNER as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        gguf.set(&format!("llama.{key}"), whole(number));
    }
    gguf.set("llama.attention.layer_norm_rms_epsilon", value(6, &1e-5_f32.to_le_bytes()));
    gguf.set("tokenizer.ggml.model", value(8, &text("gpt2")));
    gguf.set("tokenizer.ggml.pre", value(8, &text("smollm")));
    let mut words: Vec<Vec<u8>> = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"].map(text).to_vec();
    words.extend(letters().map(|letter| text(&letter.to_string())));
    gguf.set("tokenizer.ggml.tokens", array(8, &words));
    let kinds = (0..WORDS).map(|number| if number < 3 { 3_i32 } else { 1 }.to_le_bytes().to_vec());
    gguf.set("tokenizer.ggml.token_type", array(5, &kinds.collect::<Vec<_>>()));
    gguf.set("tokenizer.ggml.merges", array(8, &[]));
    let matrices = [
        ("token_embd", vec![WIDTH, WORDS]),
        ("blk.0.attn_q", vec![WIDTH, WIDTH]),
        ("blk.0.attn_k", vec![WIDTH, WIDTH / 2]),
        ("blk.0.attn_v", vec![WIDTH, WIDTH / 2]),
        ("blk.0.attn_output", vec![WIDTH, WIDTH]),
        ("blk.0.ffn_gate", vec![WIDTH, INNER]),
        ("blk.0.ffn_up", vec![WIDTH, INNER]),
        ("blk.0.ffn_down", vec![INNER, WIDTH]),
        ("output_norm", vec![WIDTH]),
        ("blk.0.attn_norm", vec![WIDTH]),
        ("blk.0.ffn_norm", vec![WIDTH]),
    ];
    let mut state = 1_u64;
    for (name, shape) in matrices {
        let count = shape.iter().product::<u64>();
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * 0.6
        };
        let numbers = (0..count).flat_map(|_| if shape.len() == 1 { 1.0 } else { noise() }.to_le_bytes());
        let bytes = numbers.collect();
        gguf.tensors.push(Tensor { name: format!("{name}.weight"), shape, kind: 0, bytes, claimed: None });
    }
    gguf
}

/// The letters that stand for bytes, in no order that matters.
fn letters() -> impl Iterator<Item = char> {
    let seen = (0_u32..256).filter(|byte| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff));
    seen.chain(256..324).map(|letter| char::from_u32(letter).expect("a letter"))
}

/// The tiny model, loaded.
pub(crate) fn tiny_engine(choice: Choice) -> Engine {
    let (file, length) = file(&tiny().bytes());
    Engine::load(&file, settings(length, 4_096, choice)).expect("a whole model")
}
