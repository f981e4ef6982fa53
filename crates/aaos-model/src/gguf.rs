//! The header of a GGUF file: its values and where its tensors lie.
//!
//! Invariants: memory grows with what is read and kept, never with what is announced; of arrays only those that a
//! tokenizer needs are kept; every tensor of a header that was read lies whole inside the file. The format is that of
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;

use candle_core::quantized::GgmlDType;

use crate::error::{FileError, Shown};

const MAGIC: [u8; 4] = *b"GGUF";
/// Most bytes of a header; a vocabulary of 150,000 words takes 6 MB.
const MAX_HEADER_BYTES: u64 = 64 * 1024 * 1024;
/// Most values of a header.
const MAX_VALUES: u64 = 4_096;
/// Most tensors of a file.
const MAX_TENSORS: u64 = 8_192;
/// Most bytes of a value's or tensor's name.
const MAX_NAME_BYTES: u64 = 256;
/// Most bytes of one text.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;
/// Most items of one array.
const MAX_ITEMS: u64 = 1_048_576;
/// Most axes of a tensor, by the format.
const MAX_AXES: u32 = 4;
/// Tensors begin at multiples of this where the file says nothing else.
const USUAL_ALIGNMENT: u64 = 32;
/// Most bytes that tensors are aligned to.
const MAX_ALIGNMENT: u64 = 65_536;
/// Arrays that are kept; others are passed over.
const KEPT_ARRAYS: [&str; 3] =
    ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"];

/// One value of a header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number of any width.
    Whole(i128),
    /// A fraction.
    Real(f64),
    /// Yes or no.
    Flag(bool),
    /// Text.
    Text(String),
    /// An array of texts that is needed.
    Texts(Vec<String>),
    /// An array of whole numbers that is needed.
    Wholes(Vec<i64>),
    /// An array that nobody needs.
    Passed,
}

/// Where one tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// Lengths of its axes, the outermost first.
    pub shape: Vec<usize>,
    /// How its numbers are written.
    pub dtype: GgmlDType,
    /// Its first byte in the file.
    pub start: u64,
    /// Its length.
    pub bytes: usize,
}

/// A header that was read whole.
#[derive(Debug)]
pub struct Header {
    values: HashMap<String, Value>,
    tensors: HashMap<String, TensorPlace>,
}

/// A tensor as the header words it, before it is known where tensors begin.
struct Announced {
    name: String,
    shape: Vec<usize>,
    dtype: GgmlDType,
    offset: u64,
    bytes: u64,
}

impl Header {
    /// Reads and checks the header of `file`, whose length is `length`.
    ///
    /// # Errors
    /// [`FileError`] for everything that is not a well-formed GGUF file within the limits.
    pub fn read(file: &File, length: u64) -> Result<Self, FileError> {
        let mut input = Input::new(file, length);
        if input.bytes::<4>("its beginning").map_err(not_gguf)? != MAGIC {
            return Err(FileError::NotGguf);
        }
        let version = input.u32("its version")?;
        if !(2..=3).contains(&version) {
            return Err(FileError::Version(version));
        }
        let tensors = most("the number of tensors", input.u64("the number of tensors")?, MAX_TENSORS)?;
        let values = most("the number of values", input.u64("the number of values")?, MAX_VALUES)?;
        let values = read_values(&mut input, values)?;
        let mut announced = Vec::new();
        for _ in 0..tensors {
            announced.push(read_tensor(&mut input)?);
        }
        let begin = input.at.next_multiple_of(alignment(&values)?);
        let tensors = place_all(announced, begin, alignment(&values)?, length)?;
        Ok(Self { values, tensors })
    }

    /// Where a tensor lies.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorPlace> {
        self.tensors.get(name)
    }

    /// Numbers in all tensors together.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors
            .values()
            .map(|one| one.shape.iter().product::<usize>() as u64)
            .fold(0, u64::saturating_add)
    }

    /// A value, if the file has it.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text that is needed.
    ///
    /// # Errors
    /// [`FileError`] when it is not there or no text.
    pub fn text(&self, key: &str) -> Result<&str, FileError> {
        match self.needed(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(wrong(key, "it is no text")),
        }
    }

    /// A whole number between `least` and `most`.
    ///
    /// # Errors
    /// [`FileError`] when it is not there, no whole number, or out of range.
    pub fn whole(&self, key: &str, least: usize, most: usize) -> Result<usize, FileError> {
        let Value::Whole(found) = self.needed(key)? else {
            return Err(wrong(key, "it is no whole number"));
        };
        let found = usize::try_from(*found).map_err(|_| wrong(key, "it is out of range"))?;
        if (least..=most).contains(&found) { Ok(found) } else { Err(wrong(key, "it is out of range")) }
    }

    /// A fraction above zero and finite.
    ///
    /// # Errors
    /// [`FileError`] when it is not there or no such number.
    pub fn positive(&self, key: &str) -> Result<f64, FileError> {
        match self.needed(key)? {
            Value::Real(found) if found.is_finite() && *found > 0.0 => Ok(*found),
            _ => Err(wrong(key, "it is no number above zero")),
        }
    }

    /// An array of texts that is needed.
    ///
    /// # Errors
    /// [`FileError`] when it is not there or no such array.
    pub fn texts(&self, key: &str) -> Result<&[String], FileError> {
        match self.needed(key)? {
            Value::Texts(texts) => Ok(texts),
            _ => Err(wrong(key, "it is no list of texts")),
        }
    }

    fn needed(&self, key: &str) -> Result<&Value, FileError> {
        self.values.get(key).ok_or_else(|| FileError::Missing(key.to_owned()))
    }
}

/// The value `key` cannot be used.
pub(crate) fn wrong(key: &str, why: &'static str) -> FileError {
    FileError::Value { key: key.to_owned(), why }
}

/// A file too short for its first four bytes is no GGUF file.
fn not_gguf(error: FileError) -> FileError {
    if matches!(error, FileError::Cut { .. }) { FileError::NotGguf } else { error }
}

fn most(what: &'static str, found: u64, most: u64) -> Result<u64, FileError> {
    if found <= most { Ok(found) } else { Err(FileError::Over { what, found, most }) }
}

fn read_values(input: &mut Input<'_>, count: u64) -> Result<HashMap<String, Value>, FileError> {
    let mut values = HashMap::new();
    for _ in 0..count {
        let key = input.text("a value's name", MAX_NAME_BYTES)?;
        let kind = input.u32("a value's type")?;
        let value = read_value(input, &key, kind)?;
        if values.contains_key(&key) {
            return Err(FileError::Twice(Shown::new(&key)));
        }
        values.insert(key, value);
    }
    Ok(values)
}

fn read_value(input: &mut Input<'_>, key: &str, kind: u32) -> Result<Value, FileError> {
    const WHAT: &str = "a value";
    Ok(match kind {
        0 => Value::Whole(i128::from(u8::from_le_bytes(input.bytes(WHAT)?))),
        1 => Value::Whole(i128::from(i8::from_le_bytes(input.bytes(WHAT)?))),
        2 => Value::Whole(i128::from(u16::from_le_bytes(input.bytes(WHAT)?))),
        3 => Value::Whole(i128::from(i16::from_le_bytes(input.bytes(WHAT)?))),
        4 => Value::Whole(i128::from(u32::from_le_bytes(input.bytes(WHAT)?))),
        5 => Value::Whole(i128::from(i32::from_le_bytes(input.bytes(WHAT)?))),
        6 => Value::Real(f64::from(f32::from_le_bytes(input.bytes(WHAT)?))),
        7 => match input.bytes(WHAT)? {
            [0] => Value::Flag(false),
            [1] => Value::Flag(true),
            _ => return Err(wrong(&Shown::new(key).to_string(), "it is neither yes nor no")),
        },
        8 => Value::Text(input.text(WHAT, MAX_TEXT_BYTES)?),
        9 => read_array(input, key)?,
        10 => Value::Whole(i128::from(u64::from_le_bytes(input.bytes(WHAT)?))),
        11 => Value::Whole(i128::from(i64::from_le_bytes(input.bytes(WHAT)?))),
        12 => Value::Real(f64::from_le_bytes(input.bytes(WHAT)?)),
        found => return Err(FileError::ValueType { key: Shown::new(key), found }),
    })
}

fn read_array(input: &mut Input<'_>, key: &str) -> Result<Value, FileError> {
    let kind = input.u32("an array's type")?;
    let items = most("an array's length", input.u64("an array's length")?, MAX_ITEMS)?;
    let kept = KEPT_ARRAYS.contains(&key);
    let width = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        8 => return read_texts(input, items, kept),
        found => return Err(FileError::ValueType { key: Shown::new(key), found }),
    };
    if !kept || !matches!(kind, 4 | 5) {
        input.pass(items * width, "an array")?;
        return Ok(Value::Passed);
    }
    let mut wholes = Vec::new();
    for _ in 0..items {
        wholes.push(i64::from(i32::from_le_bytes(input.bytes("an array")?)));
    }
    Ok(Value::Wholes(wholes))
}

fn read_texts(input: &mut Input<'_>, items: u64, kept: bool) -> Result<Value, FileError> {
    let mut texts = Vec::new();
    for _ in 0..items {
        if kept {
            texts.push(input.text("a list of texts", MAX_TEXT_BYTES)?);
        } else {
            let bytes = most("a text's length", input.u64("a list of texts")?, MAX_TEXT_BYTES)?;
            input.pass(bytes, "a list of texts")?;
        }
    }
    Ok(if kept { Value::Texts(texts) } else { Value::Passed })
}

fn read_tensor(input: &mut Input<'_>) -> Result<Announced, FileError> {
    const WHAT: &str = "a tensor's place";
    let name = input.text("a tensor's name", MAX_NAME_BYTES)?;
    let unusable = |why| FileError::Tensor { tensor: Shown::new(&name), why };
    let axes = input.u32(WHAT)?;
    if axes == 0 || axes > MAX_AXES {
        return Err(unusable("it has no axis or more than four"));
    }
    let mut shape = Vec::new();
    let mut numbers = 1_u64;
    for _ in 0..axes {
        let length = input.u64(WHAT)?;
        numbers = numbers.checked_mul(length).ok_or_else(|| unusable("it is too large"))?;
        shape.push(usize::try_from(length).map_err(|_| unusable("it is too large"))?);
    }
    shape.reverse();
    let found = input.u32(WHAT)?;
    let dtype = encoding(found).ok_or(FileError::Encoding { tensor: Shown::new(&name), found })?;
    let row = shape.last().copied().unwrap_or_default();
    if numbers == 0 || !row.is_multiple_of(dtype.block_size()) {
        return Err(unusable("its rows are empty or no whole number of blocks"));
    }
    let blocks = numbers / dtype.block_size() as u64;
    let bytes = blocks.checked_mul(dtype.type_size() as u64).ok_or_else(|| unusable("it is too large"))?;
    let offset = input.u64(WHAT)?;
    Ok(Announced { name, shape, dtype, offset, bytes })
}

/// The encodings that can be computed with, by their numbers in the format.
fn encoding(number: u32) -> Option<GgmlDType> {
    Some(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

fn alignment(values: &HashMap<String, Value>) -> Result<u64, FileError> {
    const KEY: &str = "general.alignment";
    let found = match values.get(KEY) {
        None => return Ok(USUAL_ALIGNMENT),
        Some(Value::Whole(found)) => u64::try_from(*found).ok(),
        Some(_) => None,
    };
    found
        .filter(|bytes| bytes.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(bytes))
        .ok_or_else(|| wrong(KEY, "it is no power of two between 8 and 65,536"))
}

fn place_all(
    announced: Vec<Announced>,
    begin: u64,
    alignment: u64,
    length: u64,
) -> Result<HashMap<String, TensorPlace>, FileError> {
    let mut tensors = HashMap::new();
    for Announced { name, shape, dtype, offset, bytes } in announced {
        let unusable = |why| FileError::Tensor { tensor: Shown::new(&name), why };
        let start = begin.checked_add(offset).filter(|_| offset.is_multiple_of(alignment));
        let start = start.ok_or_else(|| unusable("it lies at no place where a tensor may begin"))?;
        if start.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(unusable("it lies outside the file; fetch the file again"));
        }
        let bytes = usize::try_from(bytes).map_err(|_| unusable("it is too large"))?;
        if tensors.contains_key(&name) {
            return Err(FileError::Twice(Shown::new(&name)));
        }
        tensors.insert(name, TensorPlace { shape, dtype, start, bytes });
    }
    Ok(tensors)
}

/// Reads a file by place, counting.
struct Input<'a> {
    buffered: BufReader<Span<'a>>,
    at: u64,
    end: u64,
}

/// A part of a file from a place onwards.
struct Span<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Span<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read_at(&mut into[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<'a> Input<'a> {
    fn new(file: &'a File, length: u64) -> Self {
        let end = length.min(MAX_HEADER_BYTES);
        Self { buffered: BufReader::with_capacity(64 * 1024, Span { file, at: 0, end }), at: 0, end }
    }

    /// Takes `count` bytes of what is left, or says what was cut.
    fn take(&mut self, count: u64, what: &'static str) -> Result<(), FileError> {
        if count > self.end - self.at {
            return Err(FileError::Cut { what, end: self.end });
        }
        self.at += count;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FileError> {
        self.take(N as u64, what)?;
        let mut bytes = [0; N];
        self.buffered.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, FileError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, FileError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, FileError> {
        let length = most("a text's length", self.u64(what)?, limit)?;
        self.take(length, what)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.buffered.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| FileError::NotText(what))
    }

    fn pass(&mut self, count: u64, what: &'static str) -> Result<(), FileError> {
        self.take(count, what)?;
        let passed = std::io::copy(&mut (&mut self.buffered).take(count), &mut std::io::sink())?;
        if passed == count { Ok(()) } else { Err(FileError::Cut { what, end: self.end }) }
    }
}
