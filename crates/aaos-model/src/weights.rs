//! Reads a model's weights from its file.
//!
//! Invariants: each tensor has exactly the shape that the model's numbers say before a byte of it is read; the largest
//! are read first, while there is nothing beside them, so that the peak stays near what remains; the file is read by
//! place and never mapped, so that nobody who shortens it can end the process by a signal.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::{FileError, Shown};
use crate::gguf::{Header, TensorPlace};
use crate::matrix::{Matrix, Use};
use crate::shape::ModelShape;

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    /// A row for each token.
    pub embeddings: Arc<Matrix>,
    /// Its layers, the first first.
    pub layers: Vec<Layer>,
    /// Weights of the last norm.
    pub norm: Tensor,
    /// From a state to a number for each token; may be the embeddings.
    pub head: Arc<Matrix>,
    /// Divisors of the positions' frequencies, where the file has any.
    pub frequencies: Option<Vec<f32>>,
}

/// Weights of one layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before the attention.
    pub attention_norm: Tensor,
    /// Norm before the feed-forward part.
    pub inner_norm: Tensor,
    /// What is asked.
    pub query: Linear,
    /// What is asked for.
    pub key: Linear,
    /// What is answered.
    pub value: Linear,
    /// From the answers back to the state.
    pub output: Matrix,
    /// Opens and closes the feed-forward part.
    pub gate: Matrix,
    /// Into the feed-forward part.
    pub up: Matrix,
    /// Out of it.
    pub down: Matrix,
}

/// A matrix and what is added to its product.
#[derive(Debug)]
pub struct Linear {
    /// The matrix.
    pub matrix: Matrix,
    /// What is added, if anything.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// The product, with what is added.
    ///
    /// # Errors
    /// The library's, when the shapes do not fit.
    pub fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let product = self.matrix.forward(input)?;
        match &self.bias {
            None => Ok(product),
            Some(bias) => product.broadcast_add(bias),
        }
    }
}

/// A tensor that a model needs.
struct Needed {
    name: String,
    shape: Vec<usize>,
}

/// Every tensor that a model of this shape needs, but those that a file may leave out.
fn needed(shape: &ModelShape, words: usize) -> Vec<Needed> {
    let (width, inner) = (shape.width, shape.inner);
    let of_layer = [
        ("attn_norm", vec![width]),
        ("ffn_norm", vec![width]),
        ("attn_q", vec![width, width]),
        ("attn_k", vec![shape.kept(), width]),
        ("attn_v", vec![shape.kept(), width]),
        ("attn_output", vec![width, width]),
        ("ffn_gate", vec![inner, width]),
        ("ffn_up", vec![inner, width]),
        ("ffn_down", vec![width, inner]),
    ];
    let mut needed = vec![
        Needed { name: "token_embd.weight".to_owned(), shape: vec![words, width] },
        Needed { name: "output_norm.weight".to_owned(), shape: vec![width] },
    ];
    for layer in 0..shape.layers {
        let of_layer = of_layer.iter();
        needed.extend(of_layer.map(|(rest, shape)| Needed {
            name: format!("blk.{layer}.{rest}.weight"),
            shape: shape.clone(),
        }));
    }
    needed
}

/// Reads tensors of one file.
struct Reader<'a> {
    file: &'a File,
    header: &'a Header,
}

impl Weights {
    /// Whether every tensor is there in its shape, without reading any.
    ///
    /// # Errors
    /// [`FileError`] when one is not.
    pub fn check(header: &Header, shape: &ModelShape, words: usize) -> Result<(), FileError> {
        needed(shape, words).iter().try_for_each(|one| place(header, &one.name, &one.shape).map(drop))
    }

    /// Reads all of them. `words` is the number of tokens that the tokenizer knows.
    ///
    /// # Errors
    /// [`FileError`] when a tensor is missing, of another shape, or cannot be read.
    pub fn read(file: &File, header: &Header, shape: &ModelShape, words: usize) -> Result<Self, FileError> {
        let reader = Reader { file, header };
        let whole = |name, purpose| reader.matrix(name, words, shape.width, purpose).map(Arc::new);
        let (embeddings, head) = match header.tensor("output.weight") {
            None => {
                let both = whole("token_embd.weight", Use::Head)?;
                (Arc::clone(&both), both)
            }
            Some(_) => (whole("token_embd.weight", Use::LookUp)?, whole("output.weight", Use::Head)?),
        };
        let layers = (0..shape.layers).map(|number| reader.layer(number, shape)).collect::<Result<_, _>>()?;
        let frequencies = match header.tensor("rope_freqs.weight") {
            None => None,
            Some(_) => Some(reader.numbers("rope_freqs.weight", shape.head / 2)?),
        };
        let norm = reader.vector("output_norm.weight", shape.width)?;
        Ok(Self { embeddings, layers, norm, head, frequencies })
    }
}

impl Reader<'_> {
    fn layer(&self, number: usize, shape: &ModelShape) -> Result<Layer, FileError> {
        let name = |rest: &str| format!("blk.{number}.{rest}.weight");
        let matrix = |rest: &str, rows, columns| self.matrix(&name(rest), rows, columns, Use::Layer);
        let linear = |rest: &str, rows| -> Result<Linear, FileError> {
            let bias = format!("blk.{number}.{rest}.bias");
            let bias = self.header.tensor(&bias).map(|_| self.vector(&bias, rows)).transpose()?;
            Ok(Linear { matrix: matrix(rest, rows, shape.width)?, bias })
        };
        Ok(Layer {
            gate: matrix("ffn_gate", shape.inner, shape.width)?,
            up: matrix("ffn_up", shape.inner, shape.width)?,
            down: matrix("ffn_down", shape.width, shape.inner)?,
            query: linear("attn_q", shape.width)?,
            key: linear("attn_k", shape.kept())?,
            value: linear("attn_v", shape.kept())?,
            output: matrix("attn_output", shape.width, shape.width)?,
            attention_norm: self.vector(&name("attn_norm"), shape.width)?,
            inner_norm: self.vector(&name("ffn_norm"), shape.width)?,
        })
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize, purpose: Use) -> Result<Matrix, FileError> {
        let place = place(self.header, name, &[rows, columns])?;
        Ok(Matrix::new(self.bytes(place)?, place.dtype, rows, columns, purpose)?)
    }

    fn vector(&self, name: &str, length: usize) -> Result<Tensor, FileError> {
        Ok(Tensor::from_vec(self.numbers(name, length)?, length, &Device::Cpu)?)
    }

    fn numbers(&self, name: &str, length: usize) -> Result<Vec<f32>, FileError> {
        let place = place(self.header, name, &[length])?;
        let compact = place.dtype.from_data(self.bytes(place)?.into());
        let candle_core::CpuStorage::F32(numbers) = compact.dequantize(length)? else {
            return Err(FileError::Tensor { tensor: Shown::new(name), why: "it gives no plain numbers" });
        };
        if numbers.len() == length && numbers.iter().all(|one| one.is_finite()) {
            Ok(numbers)
        } else {
            Err(FileError::Tensor { tensor: Shown::new(name), why: "it holds numbers that are none" })
        }
    }

    fn bytes(&self, place: &TensorPlace) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; place.bytes];
        self.file.read_exact_at(&mut bytes, place.start)?;
        Ok(bytes)
    }
}

fn place<'a>(header: &'a Header, name: &str, shape: &[usize]) -> Result<&'a TensorPlace, FileError> {
    let place = header.tensor(name).ok_or_else(|| FileError::NoTensor(name.to_owned()))?;
    if place.shape == shape {
        Ok(place)
    } else {
        Err(FileError::Tensor {
            tensor: Shown::new(name),
            why: "its shape is not what the model's numbers say",
        })
    }
}
