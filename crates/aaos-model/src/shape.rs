//! The numbers that say how a model is built.
//!
//! Invariant: every number here is within its limit and fits the others, so that arithmetic with them neither overflows
//! nor divides by zero. Whether the tensors have the shapes that follow is checked where they are loaded.

use crate::error::{FileError, Shown};
use crate::gguf::{Header, Value, wrong};

/// Most layers.
const MAX_LAYERS: usize = 256;
/// Most numbers of one token's state.
const MAX_WIDTH: usize = 16_384;
/// Most numbers inside a layer's feed-forward part.
const MAX_INNER: usize = 131_072;
/// Most heads of a layer.
const MAX_HEADS: usize = 256;
/// Most tokens of a window, by what the file says.
const MAX_WINDOW: usize = 16 * 1024 * 1024;

/// Kinds of models that can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Qwen 2 and 2.5: attention with biases; positions turn the halves of a head.
    Qwen2,
    /// Llama and its kin: no biases; positions turn neighbouring numbers of a head.
    Llama,
}

impl Architecture {
    fn of(name: &str) -> Result<Self, FileError> {
        match name {
            "qwen2" => Ok(Self::Qwen2),
            "llama" => Ok(Self::Llama),
            found => Err(FileError::Unsupported {
                what: "architecture",
                found: Shown::new(found),
                known: "qwen2, llama",
            }),
        }
    }

    /// Its name in GGUF files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
        }
    }
}

/// How a model is built.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    /// Its kind.
    pub architecture: Architecture,
    /// Layers.
    pub layers: usize,
    /// Numbers of one token's state.
    pub width: usize,
    /// Numbers inside a feed-forward part.
    pub inner: usize,
    /// Heads that ask.
    pub heads: usize,
    /// Heads that are asked; each answers the same number of the others.
    pub kv_heads: usize,
    /// Numbers of one head, even.
    pub head: usize,
    /// Tokens that it was made for.
    pub window: usize,
    /// Base of the positions' frequencies.
    pub rope_base: f64,
    /// Added below the root of a norm.
    pub epsilon: f32,
}

impl ModelShape {
    /// Reads the numbers from a header.
    ///
    /// # Errors
    /// [`FileError`] when one is missing, out of range, or does not fit the others.
    pub fn of(header: &Header) -> Result<Self, FileError> {
        let architecture = Architecture::of(header.text("general.architecture")?)?;
        let key = |rest: &str| format!("{}.{rest}", architecture.name());
        let whole = |rest: &str, most: usize| header.whole(&key(rest), 1, most);
        let width = whole("embedding_length", MAX_WIDTH)?;
        let heads = whole("attention.head_count", MAX_HEADS)?;
        let kv_heads = match header.value(&key("attention.head_count_kv")) {
            None => heads,
            Some(_) => whole("attention.head_count_kv", heads)?,
        };
        if !heads.is_multiple_of(kv_heads) || !width.is_multiple_of(heads) {
            return Err(wrong(&key("attention.head_count"), "the heads do not divide the state"));
        }
        let head = width / heads;
        let fits = |rest: &str| match header.value(&key(rest)) {
            None => Ok(()),
            Some(_) if whole(rest, MAX_WIDTH)? == head => Ok(()),
            Some(_) => {
                Err(wrong(&key(rest), "heads of another length than the state's share are not supported"))
            }
        };
        ["attention.key_length", "attention.value_length", "rope.dimension_count"]
            .into_iter()
            .try_for_each(fits)?;
        if !head.is_multiple_of(2) {
            return Err(wrong(&key("attention.head_count"), "the length of a head is odd"));
        }
        refuse_scaling(header, &key("rope.scaling.type"))?;
        let epsilon = header.positive(&key("attention.layer_norm_rms_epsilon"))? as f32;
        Ok(Self {
            architecture,
            layers: whole("block_count", MAX_LAYERS)?,
            width,
            inner: whole("feed_forward_length", MAX_INNER)?,
            heads,
            kv_heads,
            head,
            window: whole("context_length", MAX_WINDOW)?,
            rope_base: rope_base(header, &key("rope.freq_base"))?,
            epsilon,
        })
    }

    /// Numbers that one layer keeps of one token, keys or values.
    #[must_use]
    pub const fn kept(&self) -> usize {
        self.kv_heads * self.head
    }
}

/// The base of the frequencies; 10,000 where the file says nothing, as in the paper on rotary positions.
fn rope_base(header: &Header, key: &str) -> Result<f64, FileError> {
    if header.value(key).is_some() { header.positive(key) } else { Ok(10_000.0) }
}

/// Positions that are stretched need arithmetic that is not here.
fn refuse_scaling(header: &Header, key: &str) -> Result<(), FileError> {
    match header.value(key) {
        None => Ok(()),
        Some(Value::Text(kind)) if kind == "none" => Ok(()),
        Some(Value::Text(kind)) => Err(FileError::Unsupported {
            what: "scaling of positions",
            found: Shown::new(kind),
            known: "none",
        }),
        Some(_) => Err(wrong(key, "it is no text")),
    }
}
