//! Text and tokens: a model's vocabulary, as its file has it.
//!
//! Invariants: text never becomes a control token, whatever it says, so that what is quoted to a model cannot end its
//! turn or begin another's; control tokens are put between texts by their numbers. Text is not normalised, so that what
//! is said of a path is that path.

use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::Tokenizer;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::{AnswerError, FileError, Shown};
use crate::gguf::{Header, Value};

/// Most tokens of a vocabulary.
const MAX_WORDS: usize = 524_288;
/// Most bytes of one token's text. Long runs of spaces have 128.
const MAX_WORD_BYTES: usize = 1_024;
/// How Qwen 2 cuts text before its merges.
const QWEN2_CUTS: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Begins a turn in the prompt formats that are known here.
const TURN_BEGINS: &str = "<|im_start|>";
/// Ends one.
const TURN_ENDS: &str = "<|im_end|>";
/// Ends everything, where a vocabulary has it.
const TEXT_ENDS: &str = "<|endoftext|>";

/// The kinds of vocabulary that are known here, which is also the kind of prompt that a model was taught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Qwen 2 and 2.5.
    Qwen2,
    /// `SmolLM` 1 and 2.
    SmolLm,
}

/// A token's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u32);

/// What a prompt is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A control token.
    Token(Token),
    /// Text that somebody wrote.
    Text(String),
}

/// A model's vocabulary.
#[derive(Clone)]
pub struct Vocabulary {
    inner: Arc<Inner>,
}

struct Inner {
    family: Family,
    tokenizer: Tokenizer,
    trie: TokTrie,
    named: HashMap<&'static str, Token>,
    longest: usize,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Vocabulary({:?}, {} tokens)", self.inner.family, self.len())
    }
}

/// What a file says that a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Made by merges.
    Plain,
    /// Written as it stands, but whole only where the prompt's format puts it.
    Mark,
    /// No text at all.
    Control,
}

impl Vocabulary {
    /// Reads the vocabulary of a header.
    ///
    /// # Errors
    /// [`FileError`] when there is none, or it is of a kind that is not known here.
    pub fn read(header: &Header) -> Result<Self, FileError> {
        let family = family(header)?;
        let texts = header.texts("tokenizer.ggml.tokens")?;
        if texts.is_empty() || texts.len() > MAX_WORDS {
            let found = texts.len() as u64;
            return Err(FileError::Over { what: "the number of tokens", found, most: MAX_WORDS as u64 });
        }
        let kinds = kinds(header, texts.len())?;
        let words = words(texts, &kinds)?;
        let named = named(texts, &kinds);
        let end = *named.get(TURN_ENDS).ok_or_else(|| unusable("it has no token that ends a turn"))?;
        if !named.contains_key(TURN_BEGINS) {
            return Err(unusable("it has no token that begins a turn"));
        }
        let longest = words.iter().map(Vec::len).max().unwrap_or(1);
        let count = u32::try_from(words.len()).map_err(|_| unusable("it is too large"))?;
        let trie = TokTrie::from(&TokRxInfo::new(count, end.0), &words);
        let tokenizer = tokenizer(header, family, texts)?;
        Ok(Self { inner: Arc::new(Inner { family, tokenizer, trie, named, longest }) })
    }

    /// What it was taught.
    #[must_use]
    pub fn family(&self) -> Family {
        self.inner.family
    }

    /// How many tokens it has.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one is refused when it is read")]
    pub fn len(&self) -> usize {
        self.inner.trie.vocab_size()
    }

    /// The token that begins a turn.
    #[must_use]
    pub fn turn_begins(&self) -> Token {
        self.inner.named[TURN_BEGINS]
    }

    /// The token that ends a turn.
    #[must_use]
    pub fn turn_ends(&self) -> Token {
        self.inner.named[TURN_ENDS]
    }

    /// Whether nothing comes after this token.
    #[must_use]
    pub fn is_end(&self, token: Token) -> bool {
        token == self.turn_ends() || self.inner.named.get(TEXT_ENDS) == Some(&token)
    }

    /// Whether a token stands for no text.
    #[must_use]
    pub fn is_control(&self, token: Token) -> bool {
        self.inner.trie.is_special_token(token.0)
    }

    /// The words of a mark of the prompt's format: one token where the model has one for it, otherwise text.
    #[must_use]
    pub fn mark(&self, mark: Mark) -> Piece {
        match self.inner.named.get(mark.text()) {
            Some(token) => Piece::Token(*token),
            None => Piece::Text(mark.text().to_owned()),
        }
    }

    /// Tokens of a text, none of them a control token.
    ///
    /// # Errors
    /// [`AnswerError::Compute`] when the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, AnswerError> {
        let failed = |error: tokenizers::Error| AnswerError::Compute(Shown::new(&error.to_string()));
        Ok(self.inner.tokenizer.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// Tokens of a prompt that has at most `most` of them.
    ///
    /// # Errors
    /// [`AnswerError::Window`] when there are more, found without work where the text alone is too long.
    pub fn encode_all(&self, pieces: &[Piece], most: usize) -> Result<Vec<u32>, AnswerError> {
        let least: usize = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Token(_) => 1,
                Piece::Text(text) => text.len() / self.inner.longest,
            })
            .sum();
        if least > most {
            return Err(AnswerError::Window { tokens: least, window: most });
        }
        let mut tokens = Vec::new();
        // Neighbouring texts are one text: where a prompt is cut into pieces must not show in its tokens.
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(more) => text.push_str(more),
                Piece::Token(token) => {
                    tokens.extend(self.encode(&std::mem::take(&mut text))?);
                    tokens.push(token.0);
                }
            }
        }
        tokens.extend(self.encode(&text)?);
        if tokens.len() > most {
            return Err(AnswerError::Window { tokens: tokens.len(), window: most });
        }
        Ok(tokens)
    }

    /// The bytes of a token's text; of a control token, none.
    #[must_use]
    pub fn bytes(&self, token: Token) -> &[u8] {
        if self.is_control(token) { &[] } else { self.inner.trie.token(token.0) }
    }

    /// This vocabulary as grammars need it.
    #[must_use]
    pub fn for_grammars(&self) -> TokEnv {
        Arc::new(self.clone())
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.inner.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let trie = &self.inner.trie;
        // A text that the library cannot cut is cut greedily: any tokens of these bytes will do here.
        let encode = |text: &str| self.encode(text).unwrap_or_else(|_| trie.greedy_tokenize(text.as_bytes()));
        trie.tokenize_with_greedy_fallback(bytes, encode)
    }
}

/// Words of a prompt's format that some vocabularies have a token for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Before a call.
    CallBegins,
    /// After a call.
    CallEnds,
}

impl Mark {
    /// As it is written.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::CallBegins => "<tool_call>",
            Self::CallEnds => "</tool_call>",
        }
    }
}

fn unusable(why: &str) -> FileError {
    FileError::Vocabulary(Shown::new(why))
}

fn family(header: &Header) -> Result<Family, FileError> {
    let unsupported =
        |what, found: &str, known| FileError::Unsupported { what, found: Shown::new(found), known };
    let model = header.text("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(unsupported("vocabulary", model, "gpt2"));
    }
    match header.text("tokenizer.ggml.pre")? {
        "qwen2" => Ok(Family::Qwen2),
        "smollm" => Ok(Family::SmolLm),
        found => Err(unsupported("vocabulary of the family", found, "qwen2, smollm")),
    }
}

fn kinds(header: &Header, count: usize) -> Result<Vec<Kind>, FileError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    match header.value(KEY) {
        Some(Value::Wholes(numbers)) if numbers.len() == count => Ok(numbers
            .iter()
            .map(|number| match number {
                1 | 6 => Kind::Plain,
                4 => Kind::Mark,
                _ => Kind::Control,
            })
            .collect()),
        Some(_) => Err(crate::gguf::wrong(KEY, "it is no list of a number for each token")),
        None => Err(FileError::Missing(KEY.to_owned())),
    }
}

/// The bytes of each token; a control token's begin with a byte that no text has.
fn words(texts: &[String], kinds: &[Kind]) -> Result<Vec<Vec<u8>>, FileError> {
    let bytes = byte_letters();
    let mut words = Vec::with_capacity(texts.len());
    for (text, kind) in texts.iter().zip(kinds) {
        let word = match kind {
            Kind::Plain => {
                text.chars().map(|letter| bytes.get(&letter).copied()).collect::<Option<Vec<u8>>>()
            }
            Kind::Mark => Some(text.as_bytes().to_vec()),
            Kind::Control => Some([&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat()),
        };
        let word = word.ok_or_else(|| unusable("a token has a letter that stands for no byte"))?;
        if word.is_empty() || word.len() > MAX_WORD_BYTES {
            return Err(unusable("a token is empty or too long"));
        }
        words.push(word);
    }
    Ok(words)
}

fn named(texts: &[String], kinds: &[Kind]) -> HashMap<&'static str, Token> {
    let wanted = [
        (TURN_BEGINS, Kind::Control),
        (TURN_ENDS, Kind::Control),
        (TEXT_ENDS, Kind::Control),
        (Mark::CallBegins.text(), Kind::Mark),
        (Mark::CallEnds.text(), Kind::Mark),
    ];
    let mut named = HashMap::new();
    for ((number, text), kind) in (0_u32..).zip(texts).zip(kinds) {
        if let Some((name, _)) = wanted.iter().find(|(name, wanted)| name == text && wanted == kind) {
            named.insert(*name, Token(number));
        }
    }
    named
}

/// The letters that GPT-2 writes bytes with: those that can be seen stand for themselves, the others for letters from
/// 256 on, in their order.
fn byte_letters() -> HashMap<char, u8> {
    let seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut letters = HashMap::new();
    let mut next = 256_u32;
    for byte in 0..=u8::MAX {
        let letter = if seen(&byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or_else(|| unreachable!("letters from 256 to 323 exist"))
        };
        letters.insert(letter, byte);
    }
    assert_eq!(letters.len(), 256, "a letter for each byte");
    letters
}

fn tokenizer(header: &Header, family: Family, texts: &[String]) -> Result<Tokenizer, FileError> {
    let refused = |error: tokenizers::Error| FileError::Vocabulary(Shown::new(&error.to_string()));
    let vocabulary: tokenizers::models::bpe::Vocab = texts.iter().cloned().zip(0_u32..).collect();
    let merges = header.texts("tokenizer.ggml.merges")?.iter().map(|merge| {
        let (left, right) = merge.split_once(' ').ok_or_else(|| unusable("a merge is no pair"))?;
        Ok((left.to_owned(), right.to_owned()))
    });
    let merges = merges.collect::<Result<Vec<_>, FileError>>()?;
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(refused)?;
    let mut tokenizer = Tokenizer::new(model);
    let bytes = |cuts| PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, cuts));
    let first = match family {
        Family::Qwen2 => {
            let pattern = SplitPattern::Regex(QWEN2_CUTS.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(refused)?;
            [split.into(), bytes(false)]
        }
        Family::SmolLm => [Digits::new(true).into(), bytes(true)],
    };
    tokenizer.with_pre_tokenizer(Some(Sequence::new(first.to_vec())));
    Ok(tokenizer)
}
