//! The lines of a cassette's file.
//!
//! Invariants: what is read is bounded before it is looked at; a file that is cut, too long or of another form is refused
//! as a whole, with the number of the line; no line that is written holds a key that is configured.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use aaos_core::cassette::CassetteHead;
use aaos_core::limits::{
    LEAST_KEY_BYTES, MAX_CASSETTE_BYTES, MAX_CASSETTE_EXCHANGES, MAX_CASSETTE_HEAD_BYTES,
};
use aaos_core::model::ModelFailure;
use aaos_core::name::ProviderName;
use aaos_core::quantity::Bytes as Length;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes asked for in one read.
const READ_BYTES: usize = 64 * 1024;
/// What stands where a key stood.
const REDACTED: &[u8] = b"[key]";
/// How often a key may have been escaped: a JSON text in a JSON text in a JSON text.
const ESCAPINGS: usize = 3;

/// Why a cassette cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CassetteError {
    #[error("reading it failed: {0}")]
    Read(io::Error),
    #[error("it is longer than {MAX_CASSETTE_BYTES} bytes")]
    TooLong,
    #[error("it holds more than {MAX_CASSETTE_EXCHANGES} exchanges")]
    TooMany,
    #[error("it is empty")]
    Empty,
    #[error("line {0} is cut short; the recording was broken off")]
    Cut(usize),
    #[error("line {line} is not as it should be: {why}")]
    Line { line: usize, why: String },
    #[error("it was recorded by another version of aaOS; record it anew")]
    Version,
}

/// One exchange with a provider.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exchange {
    pub(super) provider: ProviderName,
    /// The request's body as it was sent, without keys.
    pub(super) request: Box<RawValue>,
    pub(super) answer: Answered,
}

/// What came of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answered {
    /// The provider answered.
    Answer(Recorded),
    /// It was not reached.
    Unreached(ModelFailure),
}

/// An answer, as far as it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recorded {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
    /// Why the body broke off, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<String>,
}

/// The bytes of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Body {
    /// They are text.
    Text(String),
    /// They are not.
    Bytes(Vec<u8>),
}

impl Body {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Everything in a file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) head: CassetteHead,
    pub(super) exchanges: Vec<Exchange>,
}

/// Reads a file from where its descriptor stands.
pub(super) fn read(file: &OwnedFd) -> Result<Contents, CassetteError> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        match rustix::io::read(file, &mut piece) {
            Ok(0) => return parse(&bytes),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(CassetteError::Read(errno.into())),
        }
        if bytes.len() as u64 > MAX_CASSETTE_BYTES {
            return Err(CassetteError::TooLong);
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Contents, CassetteError> {
    let Some(whole) = bytes.strip_suffix(b"\n") else {
        let lines = bytes.split(|byte| *byte == b'\n').count();
        return Err(if bytes.is_empty() { CassetteError::Empty } else { CassetteError::Cut(lines) });
    };
    let mut lines = whole.split(|byte| *byte == b'\n');
    let head = lines.next().unwrap_or_default();
    if head.len() > MAX_CASSETTE_HEAD_BYTES {
        return Err(CassetteError::Line {
            line: 1,
            why: format!("it has more than {MAX_CASSETTE_HEAD_BYTES} bytes"),
        });
    }
    let head: CassetteHead = parse_line(1, head)?;
    if !head.is_readable() {
        return Err(CassetteError::Version);
    }
    let mut exchanges = Vec::new();
    for (at, line) in lines.enumerate() {
        if at == MAX_CASSETTE_EXCHANGES {
            return Err(CassetteError::TooMany);
        }
        exchanges.push(parse_line(at + 2, line)?);
    }
    Ok(Contents { head, exchanges })
}

fn parse_line<'l, T: Deserialize<'l>>(line: usize, text: &'l [u8]) -> Result<T, CassetteError> {
    serde_json::from_slice(text).map_err(|error| CassetteError::Line { line, why: error.to_string() })
}

/// The keys that may not be written, however they are spelt in JSON.
pub(super) struct Secrets(Vec<Vec<u8>>);

impl std::fmt::Debug for Secrets {
    /// Never shows one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} spellings of keys", self.0.len())
    }
}

impl Secrets {
    pub(super) fn new<'k>(keys: impl Iterator<Item = &'k str>) -> Self {
        let mut spellings: Vec<Vec<u8>> = Vec::new();
        for key in keys.filter(|key| key.len() >= LEAST_KEY_BYTES) {
            let mut spelt = key.to_owned();
            for _ in 0..=ESCAPINGS {
                if !spellings.iter().any(|one| one == spelt.as_bytes()) {
                    spellings.push(spelt.clone().into_bytes());
                }
                let quoted = serde_json::Value::from(spelt).to_string();
                spelt = quoted[1..quoted.len() - 1].to_owned();
            }
        }
        // A key may begin with another one.
        spellings.sort_by_key(|spelt| std::cmp::Reverse(spelt.len()));
        Self(spellings)
    }

    /// Whether a key stands in a text.
    pub(super) fn stand_in(&self, text: &str) -> bool {
        self.0.iter().any(|key| position(text.as_bytes(), key).is_some())
    }

    /// The bytes without any key.
    pub(super) fn redact(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.0.iter().fold(bytes, |bytes, key| replace(bytes, key))
    }

    /// The text without any key.
    pub(super) fn redact_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact(text.as_bytes().to_vec())).into_owned()
    }
}

fn position(bytes: &[u8], key: &[u8]) -> Option<usize> {
    bytes.windows(key.len()).position(|window| window == key)
}

fn replace(bytes: Vec<u8>, key: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some(at) = position(rest, key) {
        kept.extend_from_slice(&rest[..at]);
        kept.extend_from_slice(REDACTED);
        rest = &rest[at + key.len()..];
    }
    if kept.is_empty() {
        return bytes;
    }
    kept.extend_from_slice(rest);
    kept
}

/// A file that grows by one line an exchange.
#[derive(Debug)]
pub(super) struct Sink {
    file: OwnedFd,
    length: Mutex<Result<Length, String>>,
}

impl Sink {
    /// Adds to `file`, which was opened for appending and has this length.
    pub(super) fn new(file: OwnedFd, length: Length) -> Self {
        Self { file, length: Mutex::new(Ok(length)) }
    }

    /// Adds an exchange. After one that could not be written there is none: a cassette without it would be no record.
    pub(super) fn add(&self, exchange: &Exchange) -> Result<(), String> {
        let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = length.clone()?;
        let added = line(exchange).and_then(|line| {
            let whole = so_far.0 + line.len() as u64;
            if whole > MAX_CASSETTE_BYTES {
                return Err(format!("it would be longer than {MAX_CASSETTE_BYTES} bytes"));
            }
            write_all(&self.file, &line).map_err(|error| error.to_string())?;
            Ok(Length(whole))
        });
        *length = added;
        length.clone().map(drop)
    }
}

fn line(exchange: &Exchange) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(exchange).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file.as_fd(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CassetteError, Secrets, parse};
    use aaos_core::cassette::CassetteHead;
    use aaos_core::limits::{MAX_CASSETTE_EXCHANGES, MAX_CASSETTE_HEAD_BYTES};
    use aaos_core::wire::ModelsSetup;
    use proptest::prelude::*;

    const EXCHANGE: &str = r#"{"provider":"p","request":{"a":1},"answer":{"answer":{"status":200,"headers":[["date","x"]],"body":{"text":"t"}}}}"#;

    fn head() -> String {
        serde_json::to_string(&CassetteHead::of(&ModelsSetup::default(), Vec::new())).expect("JSON")
    }

    fn told(text: &str) -> String {
        parse(text.as_bytes()).map_or_else(|error| error.to_string(), |read| read.exchanges.len().to_string())
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let head = head();
        for (text, expected) in [
            (format!("{head}\n"), "0"),
            (format!("{head}\n{EXCHANGE}\n"), "1"),
            (String::new(), "it is empty"),
            (head.clone(), "line 1 is cut short"),
            (format!("{head}\n{}", &EXCHANGE[..40]), "line 2 is cut short"),
            (format!("{head}\n{EXCHANGE}"), "line 2 is cut short"),
            (format!("{head}\n\n"), "line 2 is not as it should be"),
            (format!("{head}\n{}\n", &EXCHANGE[..40]), "line 2 is not as it should be"),
            (format!("{head}\n{EXCHANGE}\n{{}}\n"), "line 3 is not as it should be"),
            (format!("{EXCHANGE}\n"), "line 1 is not as it should be"),
            (
                format!("{head}\n{}\n", EXCHANGE.replace("\"request\"", "\"x\":1,\"request\"")),
                "unknown field",
            ),
            (format!("{head}\n{}\n", "[".repeat(100_000)), "line 2 is not as it should be"),
            (format!("{}\n", head.replace("\"cassette\":1", "\"cassette\":7")), "another version"),
            (format!("{head}{}\n", " ".repeat(MAX_CASSETTE_HEAD_BYTES)), "has more than"),
        ] {
            assert!(told(&text).contains(expected), "{}: {expected:?}", told(&text));
        }
    }

    #[test]
    fn exchanges_are_counted() {
        let exchanges = format!("{EXCHANGE}\n").repeat(MAX_CASSETTE_EXCHANGES);
        let text = format!("{}\n{exchanges}", head());
        assert_eq!(told(&text), MAX_CASSETTE_EXCHANGES.to_string());
        let one_more = parse(format!("{text}{EXCHANGE}\n").as_bytes());
        assert!(matches!(one_more, Err(CassetteError::TooMany)), "{one_more:?}");
    }

    #[test]
    fn a_key_is_taken_out_however_it_is_spelt() {
        let secrets = Secrets::new(["sk-12345", "sk-12345678", "a\"quoted\\key", "none"].into_iter());
        for (text, kept) in [
            ("x sk-12345 y sk-12345678 z", "x [key] y [key] z"),
            ("a\"quoted\\key", "[key]"),
            (r#""a\"quoted\\key""#, "\"[key]\""),
            (r#"a\\\"quoted\\\\key"#, "[key]"),
            ("tool_choice none", "tool_choice none"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(secrets.redact_text(text), kept);
            assert_eq!(secrets.stand_in(text), text != kept, "{text}");
        }
        assert!(!format!("{secrets:?}").contains("sk-"), "{secrets:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..400) {
            let mut text = format!("{}\n{EXCHANGE}\n", head()).into_bytes();
            let at = at.min(text.len());
            text.splice(at..(at + bytes.len() / 2).min(text.len()), bytes);
            drop(parse(&text));
        }
    }
}
