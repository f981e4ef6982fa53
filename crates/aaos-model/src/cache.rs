//! What attention keeps of the tokens that it has seen, so that they are computed once.
//!
//! Invariants: rows up to the number of tokens are those of exactly these tokens in this order; rows beyond are written
//! before they are read. Numbers are kept with half the precision that is computed with. Memory is asked for once, and
//! the system gives it page by page as rows are first written.

use candle_core::{Device, Result, Tensor};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::shape::ModelShape;

/// Bytes of one kept number.
const KEPT_BYTES: usize = size_of::<u16>();

/// Keys and values of one sequence of tokens.
#[derive(Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    layers: Vec<Kept>,
    window: usize,
    head: usize,
}

/// Of one layer: by head, then by token.
#[derive(Debug)]
struct Kept {
    keys: Vec<u16>,
    values: Vec<u16>,
}

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What is asked for.
    Keys,
    /// What is answered.
    Values,
}

impl Sequence {
    /// Room for `window` tokens.
    #[must_use]
    pub fn new(shape: &ModelShape, window: usize) -> Self {
        // Plain zeros come from the system untouched; those of a type of its own would be written.
        let numbers = || vec![0_u16; shape.kept() * window];
        let layers = (0..shape.layers).map(|_| Kept { keys: numbers(), values: numbers() }).collect();
        Self { tokens: Vec::new(), layers, window, head: shape.head }
    }

    /// Bytes that one token of `shape` takes.
    #[must_use]
    pub const fn bytes_per_token(shape: &ModelShape) -> usize {
        2 * shape.layers * shape.kept() * KEPT_BYTES
    }

    /// The tokens seen so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that there is room for in all.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// How many of the first tokens of `prompt` are here already.
    #[must_use]
    pub fn common(&self, prompt: &[u32]) -> usize {
        self.tokens.iter().zip(prompt).take_while(|(mine, wanted)| mine == wanted).count()
    }

    /// Forgets all tokens after the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.tokens.truncate(count);
    }

    /// Becomes what `other` is for its first `count` tokens.
    ///
    /// # Panics
    /// When the two are of different models, or `other` has fewer: the caller's mistake.
    pub fn copy(&mut self, other: &Self, count: usize) {
        assert!((self.window, self.head) == (other.window, other.head), "sequences of one model are alike");
        self.tokens.clear();
        self.tokens.extend_from_slice(&other.tokens[..count]);
        let (stride, length) = (self.window * self.head, count * self.head);
        let copy = |mine: &mut [u16], theirs: &[u16]| {
            for (mine, theirs) in mine.chunks_exact_mut(stride).zip(theirs.chunks_exact(stride)) {
                mine[..length].copy_from_slice(&theirs[..length]);
            }
        };
        for (mine, theirs) in self.layers.iter_mut().zip(&other.layers) {
            copy(&mut mine.keys, &theirs.keys);
            copy(&mut mine.values, &theirs.values);
        }
    }

    /// Tells that the rows of these tokens are written in all layers.
    ///
    /// # Panics
    /// When there is no room for them: the caller's mistake.
    pub fn extend(&mut self, tokens: &[u32]) {
        assert!(self.tokens.len() + tokens.len() <= self.window, "rows are written where there is room");
        self.tokens.extend_from_slice(tokens);
    }

    /// Writes the rows of the next tokens of one layer: `rows` has as many numbers for each head and token.
    ///
    /// # Errors
    /// The library's, when `rows` has another shape.
    pub fn write(&mut self, layer: usize, side: Side, rows: &Tensor) -> Result<()> {
        let (heads, count, head) = rows.dims3()?;
        let numbers = rows.flatten_all()?.to_vec1::<f32>()?;
        let (at, window) = (self.tokens.len(), self.window);
        assert!(at + count <= window && head == self.head, "rows are written where there is room");
        let kept = match side {
            Side::Keys => &mut self.layers[layer].keys,
            Side::Values => &mut self.layers[layer].values,
        };
        for (number, row) in numbers.chunks_exact(count * head).enumerate().take(heads) {
            let start = (number * window + at) * head;
            let room: &mut [f16] = kept[start..start + row.len()].reinterpret_cast_mut();
            room.convert_from_f32_slice(row);
        }
        Ok(())
    }

    /// The first `count` rows of one head of one layer.
    ///
    /// # Errors
    /// The library's.
    pub fn read(&self, layer: usize, side: Side, head: usize, count: usize) -> Result<Tensor> {
        let kept = match side {
            Side::Keys => &self.layers[layer].keys,
            Side::Values => &self.layers[layer].values,
        };
        let start = head * self.window * self.head;
        let rows: &[f16] = kept[start..start + count * self.head].reinterpret_cast();
        let mut numbers = vec![0_f32; rows.len()];
        rows.convert_to_f32_slice(&mut numbers);
        Tensor::from_vec(numbers, (count, self.head), &Device::Cpu)
    }
}
