//! Weights as they are computed with.
//!
//! Invariants: a matrix's bytes are as long as its shape says, checked before the library sees them; where the library
//! has packed a matrix for this processor the file's form of it is dropped, so that no matrix is held twice but those
//! whose two forms are both used.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::{GgmlDType, QStorage, QTensor, QuantizedType};
use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use half::f16;

/// Rows of the product that makes the library pack a matrix: enough for every form that it has.
const WARMING_ROWS: usize = 32;

/// What a matrix is used for, which decides how it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Multiplied with many rows at once as well as with one.
    Layer,
    /// Multiplied with one row at a time: held as it is in the file.
    Head,
    /// Looked up by row: held as it is in the file.
    LookUp,
}

/// A matrix of weights.
pub struct Matrix {
    rows: usize,
    columns: usize,
    form: Form,
}

enum Form {
    /// As in the file.
    Compact(Box<dyn QuantizedType>),
    /// In the library's packed form, beside the file's where that is used too.
    Packed(QTensor),
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Matrix({} x {})", self.rows, self.columns)
    }
}

impl Matrix {
    /// Makes a matrix of a tensor's bytes.
    ///
    /// # Errors
    /// The library's, when it refuses the weights.
    ///
    /// # Panics
    /// When `bytes` is not as long as the shape says: the caller's mistake.
    pub fn new(bytes: Vec<u8>, dtype: GgmlDType, rows: usize, columns: usize, purpose: Use) -> Result<Self> {
        assert_eq!(
            bytes.len(),
            rows * columns / dtype.block_size() * dtype.type_size(),
            "whole rows of blocks"
        );
        let mut compact = dtype.from_data(bytes.into());
        // The library multiplies these number by number: measured, a row of Q5_0 takes eight times as long as one of Q8_0.
        // Their 4 and 5 bits fit into 8 without loss to speak of.
        if purpose != Use::LookUp && matches!(dtype, GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1) {
            compact = requantized(compact.as_ref(), rows * columns)?;
        }
        let form = match (purpose, compact.dtype()) {
            (Use::Head | Use::LookUp, _) => Form::Compact(compact),
            (Use::Layer, GgmlDType::Q4K | GgmlDType::Q8_0) => pack(compact, rows, columns)?,
            // One row at a time is computed with the file's form, many with tiles.
            (Use::Layer, GgmlDType::Q6K) => {
                let tensor = QTensor::new(QStorage::Cpu(compact), (rows, columns))?;
                multiply(&tensor, &warming(WARMING_ROWS, columns)?)?;
                Form::Packed(tensor)
            }
            (Use::Layer, _) => Form::Compact(compact),
        };
        Ok(Self { rows, columns, form })
    }

    /// The product of `input`, `n` rows of as many numbers as this has columns, with this matrix's rows: `n` rows of as
    /// many numbers as this has rows.
    ///
    /// # Errors
    /// The library's, when the shapes do not fit.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let (count, columns) = input.dims2()?;
        if columns != self.columns {
            bail!("{count} rows of {columns} numbers do not fit {self:?}");
        }
        match &self.form {
            Form::Packed(tensor) => multiply(tensor, input),
            Form::Compact(compact) => {
                let mut product = vec![0_f32; count * self.rows];
                let (storage, layout) = input.storage_and_layout();
                let (Storage::Cpu(CpuStorage::F32(numbers)), Some((from, to))) =
                    (&*storage, layout.contiguous_offsets())
                else {
                    bail!("the input is not whole");
                };
                compact.matmul_t((count, columns, self.rows), &numbers[from..to], &mut product)?;
                Tensor::from_vec(product, (count, self.rows), &Device::Cpu)
            }
        }
    }

    /// The rows with these numbers, one after the other.
    ///
    /// # Errors
    /// The library's, when a number is too large or the matrix is packed.
    pub fn look_up(&self, rows: &[u32]) -> Result<Tensor> {
        let Form::Compact(compact) = &self.form else {
            bail!("{self:?} is packed and cannot be looked up");
        };
        match compact.embedding(rows, self.rows, self.columns)? {
            CpuStorage::F32(numbers) => Tensor::from_vec(numbers, (rows.len(), self.columns), &Device::Cpu),
            _ => bail!("{self:?} gave rows of another type"),
        }
    }

    /// How many rows it has.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }
}

fn multiply(tensor: &QTensor, input: &Tensor) -> Result<Tensor> {
    input.apply_op1_no_bwd(tensor)
}

fn warming(rows: usize, columns: usize) -> Result<Tensor> {
    Tensor::zeros((rows, columns), candle_core::DType::F32, &Device::Cpu)
}

fn requantized(weights: &dyn QuantizedType, numbers: usize) -> Result<Box<dyn QuantizedType>> {
    let CpuStorage::F32(values) = weights.dequantize(numbers)? else {
        bail!("weights gave numbers of another type");
    };
    let mut quantized = GgmlDType::Q8_0.cpu_zeros(numbers);
    quantized.from_float(&values);
    Ok(quantized)
}

/// Has the library pack a matrix and drops the form that it came in; keeps that form where this processor has no packed
/// one.
fn pack(weights: Box<dyn QuantizedType>, rows: usize, columns: usize) -> Result<Form> {
    let lent = Lent::new(weights);
    let kept = Arc::clone(&lent.weights);
    let tensor = QTensor::new(QStorage::Cpu(Box::new(lent)), (rows, columns))?;
    let packed = [WARMING_ROWS, 1].into_iter().all(|count| {
        let product = warming(count, columns).and_then(|input| multiply(&tensor, &input));
        product.is_ok()
    });
    let weights = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    match weights {
        Some(weights) if !packed => Ok(Form::Compact(weights)),
        _ => Ok(Form::Packed(tensor)),
    }
}

/// Weights that are lent to the library while it packs them, and then taken away.
struct Lent {
    weights: Arc<Mutex<Option<Box<dyn QuantizedType>>>>,
    dtype: GgmlDType,
    size: usize,
}

impl Lent {
    fn new(weights: Box<dyn QuantizedType>) -> Self {
        let (dtype, size) = (weights.dtype(), weights.size());
        Self { weights: Arc::new(Mutex::new(Some(weights))), dtype, size }
    }

    fn with<T>(&self, look: impl FnOnce(&dyn QuantizedType) -> T) -> Option<T> {
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        weights.as_deref().map(look)
    }
}

/// Everything but packing is refused, so that a product that would not use packed weights is noticed. Once the weights are
/// gone their length is 0, so that a reader beyond it stops at a bound.
impl QuantizedType for Lent {
    fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    fn matmul_t(&self, _: (usize, usize, usize), _: &[f32], _: &mut [f32]) -> Result<()> {
        bail!("these weights are used packed only")
    }

    fn matmul_t_f16(&self, _: (usize, usize, usize), _: &[f16], _: &mut [f16]) -> Result<()> {
        bail!("these weights are used packed only")
    }

    fn embedding(&self, _: &[u32], _: usize, _: usize) -> Result<CpuStorage> {
        bail!("these weights are used packed only")
    }

    fn dequantize(&self, _: usize) -> Result<CpuStorage> {
        bail!("these weights are used packed only")
    }

    fn storage_size_in_bytes(&self) -> usize {
        self.with(|weights| weights.storage_size_in_bytes()).unwrap_or(0)
    }

    fn as_ptr(&self) -> *const u8 {
        self.with(|weights| weights.as_ptr()).unwrap_or(NonNull::<u64>::dangling().as_ptr().cast())
    }

    fn block_size(&self) -> usize {
        self.dtype.block_size()
    }

    fn from_float(&mut self, _: &[f32]) {
        unreachable!("lent weights are only read");
    }

    fn from_float_imatrix(&mut self, _: &[f32], _: &[f32], _: usize) {
        unreachable!("lent weights are only read");
    }

    fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::{Matrix, Use};
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    /// Weights and an input of `count` rows, from a small generator.
    fn sample(rows: usize, columns: usize, count: usize) -> (Tensor, Tensor) {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(i16::from_le_bytes([(state >> 16) as u8, (state >> 24) as u8])) / 32_768.0
        };
        let weights: Vec<f32> = (0..rows * columns).map(|_| next()).collect();
        let input: Vec<f32> = (0..count * columns).map(|_| next()).collect();
        let tensor = |numbers, rows| {
            Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).expect("a shape that fits")
        };
        (tensor(weights, rows), tensor(input, count))
    }

    #[test]
    fn every_form_of_a_matrix_gives_nearly_the_product_of_its_plain_numbers() {
        let (rows, columns) = (32, 512);
        for (dtype, tolerance) in [
            (GgmlDType::F32, 1e-3),
            (GgmlDType::F16, 0.1),
            (GgmlDType::Q4_0, 3.0),
            (GgmlDType::Q4_1, 3.0),
            (GgmlDType::Q5_0, 2.0),
            (GgmlDType::Q8_0, 1.0),
            (GgmlDType::Q4K, 3.0),
            (GgmlDType::Q5K, 2.0),
            (GgmlDType::Q6K, 1.0),
        ] {
            for purpose in [Use::Layer, Use::Head, Use::LookUp] {
                for count in [1, 3, 40] {
                    let (weights, input) = sample(rows, columns, count);
                    let quantized = QTensor::quantize(&weights, dtype).expect("whole blocks");
                    let bytes = quantized.data().expect("its bytes").into_owned();
                    let matrix = Matrix::new(bytes, dtype, rows, columns, purpose).expect("good weights");
                    let got = matrix.forward(&input).expect("shapes that fit");
                    let plain = quantized.dequantize(&Device::Cpu).expect("its numbers");
                    let wanted = input.matmul(&plain.t().expect("two axes")).expect("shapes that fit");
                    let far = (got - wanted).expect("equal shapes").abs().expect("numbers");
                    let far = far.max_all().expect("numbers").to_scalar::<f32>().expect("one number");
                    assert!(far < tolerance, "{dtype:?} as {purpose:?} with {count} rows is off by {far}");
                }
            }
        }
    }

    #[test]
    fn input_of_another_width_is_refused() {
        let (weights, _) = sample(16, 256, 1);
        let bytes = QTensor::quantize(&weights, GgmlDType::Q8_0).expect("whole blocks");
        let bytes = bytes.data().expect("its bytes").into_owned();
        let matrix = Matrix::new(bytes, GgmlDType::Q8_0, 16, 256, Use::Layer).expect("good weights");
        let (narrow, _) = sample(2, 128, 1);
        assert!(matrix.forward(&narrow).is_err());
        assert!(matrix.look_up(&[0]).is_err() || matrix.look_up(&[16]).is_err(), "a row that is not there");
    }
}
