//! The least HTTP/1.1 that scripted servers need: a request is read whole, a [`Reply`] is written as it was scripted.
//!
//! Invariants: requests are bounded; a reply that is cut or hangs is cut or hangs exactly where the script said; the
//! serving thread and all its connections end with [`Serving`].

mod serving;
mod wire;

pub(crate) use serving::Serving;

use crate::Gate;

/// One request, read whole.
#[derive(Debug, Clone)]
pub(crate) struct HttpRequest {
    pub(crate) method: String,
    /// Path and query as sent.
    pub(crate) target: String,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl HttpRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// One scripted answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    /// Waited for before the first byte.
    pub(crate) gate: Option<Gate>,
}

impl Reply {
    pub(crate) fn whole(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::with_body(status, content_type, Body::Whole(body.into()))
    }

    pub(crate) fn with_body(status: u16, content_type: &str, body: Body) -> Self {
        Self { status, headers: vec![("content-type".to_owned(), content_type.to_owned())], body, gate: None }
    }

    pub(crate) fn silence() -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Silence, gate: None }
    }
}

/// How the body goes out.
#[derive(Debug)]
pub(crate) enum Body {
    /// With a content length.
    Whole(Vec<u8>),
    /// With the content length `promised`, of which this much goes out.
    Begun { bytes: Vec<u8>, promised: usize, ending: Ending },
    /// Chunked, one chunk a piece.
    Pieces(Vec<Vec<u8>>, Ending),
    /// Chunked, the same piece again until `total` bytes are out or the client leaves.
    Repeated { piece: Vec<u8>, total: u64 },
    /// Nothing at all, not even a status line; the connection stays open.
    Silence,
}

/// What follows the last piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The terminating chunk.
    Proper,
    /// The connection closes without the end of the body.
    Cut,
    /// Nothing; the connection stays open.
    Hang,
}
