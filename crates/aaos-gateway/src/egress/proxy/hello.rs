//! Whom a TLS client asks for: the server name of its first message, and nothing else of it.
//!
//! Invariants: every length is held against what is there before it is used; what is not a plain, complete client
//! hello is refused, never passed over; no more than [`MAX_HELLO_BYTES`] are looked at. The layout is that of RFC 8446
//! §4.1.2 and §5.1, of the server name RFC 6066 §3.

/// Most bytes of records in which the first message may lie. A hello with post-quantum keys has under 3 KiB.
pub(crate) const MAX_HELLO_BYTES: usize = 32 * 1024;
/// Longest payload of a record (RFC 8446 §5.1).
const MAX_RECORD_BYTES: usize = 1 << 14;
/// Longest server name (RFC 1035).
const MAX_NAME_BYTES: usize = 253;

/// Content type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Handshake type of a client hello.
const CLIENT_HELLO: u8 = 1;
/// Extension type of the server name.
const SERVER_NAME: u16 = 0;
/// Kind of a server name that is a host name.
const HOST_NAME: u8 = 0;
/// Extension types that hide the real name: encrypted client hello, and its forerunner.
const HIDDEN_NAMES: [u16; 2] = [0xfe0d, 0xffce];

/// Why a first message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    /// It is not TLS, or a TLS that nobody speaks any more.
    #[error("it does not begin with a TLS client hello")]
    NotTls,
    /// Its lengths do not fit together.
    #[error("its TLS client hello is malformed")]
    Malformed,
    /// It takes more room than any honest one.
    #[error("its TLS client hello is longer than {MAX_HELLO_BYTES} bytes")]
    TooLong,
    /// It names its host in a way that cannot be read.
    #[error("it uses encrypted client hello, which hides the host; switch that off")]
    Encrypted,
    /// It names several hosts, or something that is no host.
    #[error("its TLS client hello names no single host")]
    BadName,
}

/// What a complete client hello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The host that is asked for, lower case.
    pub(crate) server_name: Option<String>,
}

/// Reads what has arrived so far; `None` while the hello is not complete.
///
/// # Errors
/// [`HelloError`] as soon as it is clear that it is not to be passed on.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    let Some(message) = reassemble(bytes)? else {
        return if bytes.len() >= MAX_HELLO_BYTES { Err(HelloError::TooLong) } else { Ok(None) };
    };
    parse(&message).map(Some)
}

/// The body of the handshake message, out of as many records as it lies in.
fn reassemble(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloError> {
    let mut message: Vec<u8> = Vec::new();
    loop {
        if let Some((header, body)) = message.split_first_chunk::<4>() {
            let [_, length @ ..] = *header;
            let length = big_endian(&length);
            if length > MAX_HELLO_BYTES {
                return Err(HelloError::TooLong);
            }
            if let Some(body) = body.get(..length) {
                return Ok(Some(body.to_vec()));
            }
        }
        // A byte that cannot begin a hello is refused before the rest of its header is there.
        if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Err(HelloError::NotTls);
        }
        if bytes.get(1).is_some_and(|major| *major != 3) || bytes.get(2).is_some_and(|minor| *minor > 4) {
            return Err(HelloError::NotTls);
        }
        let Some((header, rest)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
        let length = big_endian(&header[3..]);
        if length == 0 || length > MAX_RECORD_BYTES {
            return Err(HelloError::Malformed);
        }
        let payload = &rest[..rest.len().min(length)];
        message.extend_from_slice(payload);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(HelloError::NotTls);
        }
        bytes = &rest[payload.len()..];
    }
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
}

/// A part of a message that is taken from its front.
#[derive(Debug, Clone, Copy)]
struct Part<'b>(&'b [u8]);

impl<'b> Part<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, width: usize) -> Result<usize, HelloError> {
        self.take(width).map(big_endian)
    }

    /// A vector behind a length of `width` bytes.
    fn vector(&mut self, width: usize) -> Result<Self, HelloError> {
        let length = self.number(width)?;
        self.take(length).map(Part)
    }

    const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

fn parse(message: &[u8]) -> Result<ClientHello, HelloError> {
    let mut rest = Part(message);
    rest.take(2 + 32)?; // legacy version, random
    rest.vector(1)?; // session id
    rest.vector(2)?; // cipher suites
    rest.vector(1)?; // compression methods
    let mut server_name = None;
    if rest.is_empty() {
        return Ok(ClientHello { server_name });
    }
    let mut extensions = rest.vector(2)?;
    if !rest.is_empty() {
        return Err(HelloError::Malformed);
    }
    while !extensions.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).map_err(|_| HelloError::Malformed)?;
        let data = extensions.vector(2)?;
        if HIDDEN_NAMES.contains(&kind) {
            return Err(HelloError::Encrypted);
        }
        if kind == SERVER_NAME && server_name.replace(host_name(data)?).is_some() {
            return Err(HelloError::BadName);
        }
    }
    Ok(ClientHello { server_name })
}

/// The one host name of a server-name extension.
fn host_name(mut data: Part<'_>) -> Result<String, HelloError> {
    let mut list = data.vector(2)?;
    if !data.is_empty() {
        return Err(HelloError::Malformed);
    }
    let kind = list.take(1)?;
    let name = list.vector(2)?.0;
    let is_plain = name.iter().all(|byte| byte.is_ascii_graphic());
    if kind != [HOST_NAME] || !list.is_empty() || name.is_empty() || name.len() > MAX_NAME_BYTES || !is_plain
    {
        return Err(HelloError::BadName);
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

#[cfg(test)]
mod tests;
