//! Computes a model: from tokens to the number that each possible next token gets.
//!
//! Invariants: a state depends only on tokens up to its own; the same tokens give the same numbers whether they come in
//! one piece or in several, but for the rounding of sums; every layer asks first whether to go on.

use candle_core::{CpuStorage, D, Device, InplaceOp1, Layout, Result, Tensor, bail};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::{rope, rope_i};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use crate::cache::{Sequence, Side};
use crate::control::Control;
use crate::error::AnswerError;
use crate::shape::{Architecture, ModelShape};
use crate::weights::{Layer, Weights};

/// Tokens that are computed in one piece: enough to use every form of the weights well, few enough that what attention
/// holds of them at once stays small beside the weights.
pub const PIECE_TOKENS: usize = 256;

/// A model that can be computed.
#[derive(Debug)]
pub struct Decoder {
    shape: ModelShape,
    weights: Weights,
    cosines: Tensor,
    sines: Tensor,
}

impl Decoder {
    /// A model for windows of `window` tokens.
    ///
    /// # Errors
    /// The library's.
    pub fn new(shape: ModelShape, weights: Weights, window: usize) -> Result<Self> {
        let (cosines, sines) = turns(&shape, weights.frequencies.as_deref(), window)?;
        Ok(Self { shape, weights, cosines, sines })
    }

    /// Computes the next tokens of `sequence`, which must have room for them, and gives one number for each token that
    /// may follow the last of them.
    ///
    /// # Errors
    /// [`AnswerError`] when told to end, or when no numbers came out. The sequence then has the pieces that were whole.
    ///
    /// # Panics
    /// When there are no tokens or no room for them: the caller's mistake.
    pub fn advance(
        &self,
        sequence: &mut Sequence,
        tokens: &[u32],
        control: &Control,
    ) -> std::result::Result<Vec<f32>, AnswerError> {
        assert!(!tokens.is_empty(), "numbers follow some token");
        let mut states = None;
        for piece in tokens.chunks(PIECE_TOKENS) {
            states = Some(self.states(sequence, piece, control)?);
            sequence.extend(piece);
        }
        let states = states.ok_or(AnswerError::NotFinite)?;
        Ok(self.scores(&states)?)
    }

    fn states(
        &self,
        sequence: &mut Sequence,
        tokens: &[u32],
        control: &Control,
    ) -> std::result::Result<Tensor, AnswerError> {
        let mut state = self.weights.embeddings.look_up(tokens)?;
        for (number, layer) in self.weights.layers.iter().enumerate() {
            control.check()?;
            state = self.layer(number, layer, sequence, &state)?;
        }
        Ok(state)
    }

    fn scores(&self, states: &Tensor) -> Result<Vec<f32>> {
        let last = states.narrow(0, states.dim(0)? - 1, 1)?.contiguous()?;
        let last = rms_norm(&last, &self.weights.norm, self.shape.epsilon)?;
        self.weights.head.forward(&last)?.flatten_all()?.to_vec1()
    }

    fn layer(&self, number: usize, layer: &Layer, sequence: &mut Sequence, state: &Tensor) -> Result<Tensor> {
        let input = rms_norm(state, &layer.attention_norm, self.shape.epsilon)?;
        let state = (state + self.attention(number, layer, sequence, &input)?)?;
        let input = rms_norm(&state, &layer.inner_norm, self.shape.epsilon)?;
        let opened = silu(&layer.gate.forward(&input)?)?;
        let inner = (opened * layer.up.forward(&input)?)?;
        state + layer.down.forward(&inner)?
    }

    fn attention(
        &self,
        number: usize,
        layer: &Layer,
        sequence: &mut Sequence,
        input: &Tensor,
    ) -> Result<Tensor> {
        let ModelShape { heads, kv_heads, head, width, .. } = self.shape;
        let (count, before) = (input.dim(0)?, sequence.tokens().len());
        let query = self.turned(&by_head(&layer.query.forward(input)?, heads, head)?, before)?;
        let key = self.turned(&by_head(&layer.key.forward(input)?, kv_heads, head)?, before)?;
        let value = by_head(&layer.value.forward(input)?, kv_heads, head)?;
        sequence.write(number, Side::Keys, &key)?;
        sequence.write(number, Side::Values, &value)?;
        // Heads that ask the same head are neighbours: their rows are one matrix.
        let group = heads / kv_heads;
        let query = query.reshape((kv_heads, group * count, head))?;
        let weighing = Weighing { before, count, scale: (head as f32).sqrt().recip() };
        let mut answers = Vec::with_capacity(kv_heads);
        for one in 0..kv_heads {
            let keys = sequence.read(number, Side::Keys, one, before + count)?;
            let values = sequence.read(number, Side::Values, one, before + count)?;
            let weights = query.get(one)?.matmul(&keys.t()?)?;
            weights.inplace_op1(&weighing)?;
            answers.push(weights.matmul(&values)?);
        }
        let answers = Tensor::cat(&answers, 0)?.reshape((heads, count, head))?;
        let answers = answers.transpose(0, 1)?.contiguous()?.reshape((count, width))?;
        layer.output.forward(&answers)
    }

    /// Turns the rows of each head by their positions, the first of which is `before`.
    fn turned(&self, rows: &Tensor, before: usize) -> Result<Tensor> {
        let count = rows.dim(1)?;
        let cosines = self.cosines.narrow(0, before, count)?;
        let sines = self.sines.narrow(0, before, count)?;
        let rows = rows.unsqueeze(0)?;
        let turned = match self.shape.architecture {
            Architecture::Qwen2 => rope(&rows, &cosines, &sines)?,
            Architecture::Llama => rope_i(&rows, &cosines, &sines)?,
        };
        turned.squeeze(0)
    }
}

/// From rows of all heads to one matrix a head.
fn by_head(rows: &Tensor, heads: usize, head: usize) -> Result<Tensor> {
    rows.reshape((rows.dim(0)?, heads, head))?.transpose(0, 1)?.contiguous()
}

/// Cosines and sines of every position's angles: frequency `i` of `n` is `base^(-i/n)`.
fn turns(shape: &ModelShape, divisors: Option<&[f32]>, window: usize) -> Result<(Tensor, Tensor)> {
    let half = shape.head / 2;
    let frequency = |place: usize| {
        let divisor = divisors.and_then(|all| all.get(place)).map_or(1.0, |one| f64::from(*one));
        shape.rope_base.powf(-(place as f64) / half as f64) / divisor
    };
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let angles = || (0..window).flat_map(|place| frequencies.iter().map(move |one| place as f64 * one));
    let table = |numbers: Vec<f32>| Tensor::from_vec(numbers, (window, half), &Device::Cpu);
    let cosines = table(angles().map(|angle| angle.cos() as f32).collect())?;
    Ok((cosines, table(angles().map(|angle| angle.sin() as f32).collect())?))
}

/// Makes weights of products, in place: each row's sum is 1, and nothing after the row's own token weighs anything.
/// Row `r` belongs to token `r % count` of the new ones.
struct Weighing {
    before: usize,
    count: usize,
    scale: f32,
}

impl InplaceOp1 for Weighing {
    fn name(&self) -> &'static str {
        "weighing"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let row = self.before + self.count;
        let (CpuStorage::F32(numbers), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("the products are not whole");
        };
        if layout.shape().dim(D::Minus1)? != row {
            bail!("a row has another length than there are tokens");
        }
        numbers[from..to].par_chunks_exact_mut(row).enumerate().for_each(|(number, row)| {
            let seen = self.before + number % self.count + 1;
            weigh(row, seen, self.scale);
        });
        Ok(())
    }
}

fn weigh(row: &mut [f32], seen: usize, scale: f32) {
    let (row, unseen) = row.split_at_mut(seen);
    unseen.fill(0.0);
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0_f32;
    for one in row.iter_mut() {
        *one = ((*one - top) * scale).exp();
        sum += *one;
    }
    row.iter_mut().for_each(|one| *one /= sum);
}

#[cfg(test)]
mod tests {
    use super::weigh;

    #[test]
    fn weights_sum_to_one_and_nothing_unseen_weighs() {
        let mut row = [1.0, 2.0, 3.0, 100.0, f32::NAN];
        weigh(&mut row, 3, 1.0);
        let sum: f32 = row[..3].iter().sum();
        assert!((sum - 1.0).abs() < 1e-6 && row[0] < row[1] && row[1] < row[2]);
        assert!((row[2] / row[1] - std::f32::consts::E).abs() < 1e-5, "one more is e times as much");
        assert_eq!(row[3..], [0.0, 0.0]);
    }
}
