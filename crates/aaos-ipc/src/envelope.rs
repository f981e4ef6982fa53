//! JSON-RPC 2.0 envelopes (<https://www.jsonrpc.org/specification>): lines in, lines out.
//!
//! Invariants: [`parse_line`] never panics and gives for every malformed line or batch entry the error
//! response that is due. An envelope is a closed object: unknown and repeated members are errors. Parameters
//! stay JSON text until a method parses them into its own type, so their depth is judged there, by
//! serde_json's recursion limit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use aaos_core::limits::{MAX_BATCH, MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::error::{ErrorCode, RpcError};
use crate::id::RequestId;

/// The only version there is.
const VERSION: &str = "2.0";
/// Most members of one envelope; four are known.
const MAX_MEMBERS: usize = 8;
/// Longest method name.
const MAX_METHOD_BYTES: usize = 128;

/// What one line holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// One request or notification, or the error response to a line that is neither.
    Single(Result<Request, Response>),
    /// A batch: for each entry a request or the error response, in order.
    Batch(Vec<Result<Request, Response>>),
}

/// A request, or a notification when it has no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id to answer with; absent in a notification, which is never answered.
    pub id: Option<RequestId>,
    /// The method, as the client wrote it.
    pub method: String,
    /// Its parameters.
    pub params: Params,
}

impl Request {
    /// The response to this request; none for a notification.
    #[must_use]
    pub fn respond(&self, result: Result<Box<RawValue>, RpcError>) -> Option<Response> {
        self.id.clone().map(|id| Response { id, result })
    }
}

/// The parameters of a request, an object or array as JSON text.
#[derive(Debug, Clone)]
pub struct Params(Option<Box<RawValue>>);

impl Params {
    /// Parses the parameters into the type of a method. Absent ones count as an empty object.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParams`] saying what does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        serde_json::from_str(self.as_json()).map_err(|error| {
            RpcError::new(ErrorCode::InvalidParams, format!("the parameters do not fit: {}", short(&error)))
        })
    }

    /// The parameters as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.as_ref().map_or("{}", |raw| raw.get())
    }
}

impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Params {}

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The id of the request; null when it could not be read.
    pub id: RequestId,
    /// Result or error.
    pub result: Result<Box<RawValue>, RpcError>,
}

impl Response {
    /// A result.
    #[must_use]
    pub fn done<T: Serialize>(id: RequestId, result: &T) -> Self {
        Self { id, result: to_result(result) }
    }

    /// An error.
    #[must_use]
    pub fn failed(id: RequestId, error: RpcError) -> Self {
        Self { id, result: Err(error) }
    }

    /// The error response to a line longer than [`MAX_REQUEST_BYTES`], after which the connection is closed.
    #[must_use]
    pub fn line_too_long() -> Self {
        let message = format!("a request is at most {MAX_REQUEST_BYTES} bytes; the connection is closed");
        Self::failed(RequestId::null(), RpcError::new(ErrorCode::InvalidRequest, message))
    }

    /// The line to send, line break included, never longer than [`MAX_REPLY_BYTES`].
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = self.to_json();
        line.push(b'\n');
        assert!(line.len() <= MAX_REPLY_BYTES, "a reply is bounded");
        line
    }

    /// The response as JSON. One that is too long becomes the error that says so.
    fn to_json(&self) -> Vec<u8> {
        let json = self.encode();
        if json.len() < MAX_REPLY_BYTES {
            return json;
        }
        let message = format!(
            "the result of {} bytes is over the limit of {MAX_REPLY_BYTES}; ask for less",
            json.len()
        );
        Self::failed(self.id.clone(), RpcError::new(ErrorCode::LimitReached, message)).encode()
    }

    fn encode(&self) -> Vec<u8> {
        let wire = WireResponse {
            jsonrpc: VERSION,
            result: self.result.as_ref().ok().map(AsRef::as_ref),
            error: self.result.as_ref().err(),
            id: &self.id,
        };
        serde_json::to_vec(&wire).unwrap_or_else(|_| unreachable!("texts and JSON values are JSON"))
    }
}

impl PartialEq for Response {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.result, &other.result) {
            (Ok(one), Ok(two)) => one.get() == two.get(),
            (Err(one), Err(two)) => one == two,
            _ => false,
        };
        same && self.id == other.id
    }
}

/// Turns a method's result into JSON text, or the error that it cannot be.
fn to_result<T: Serialize>(result: &T) -> Result<Box<RawValue>, RpcError> {
    serde_json::value::to_raw_value(result).map_err(|error| {
        RpcError::new(ErrorCode::Internal, format!("cannot write the result: {}", short(&error)))
    })
}

#[derive(Serialize)]
struct WireResponse<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RpcError>,
    id: &'a RequestId,
}

/// The line that answers a batch; none when it held only notifications. A batch whose answers are too long
/// together is answered by one error.
#[must_use]
pub fn batch_line(responses: &[Response]) -> Option<Vec<u8>> {
    if responses.is_empty() {
        return None;
    }
    let mut line = vec![b'['];
    for (at, response) in responses.iter().enumerate() {
        if at > 0 {
            line.push(b',');
        }
        line.extend(response.to_json());
        if line.len() + 2 > MAX_REPLY_BYTES {
            let message =
                format!("the results of the batch are over the limit of {MAX_REPLY_BYTES} bytes; send less");
            let error = RpcError::new(ErrorCode::LimitReached, message);
            return Some(Response::failed(RequestId::null(), error).to_line());
        }
    }
    line.extend(b"]\n");
    Some(line)
}

/// Reads one line, with or without its line break.
#[must_use]
pub fn parse_line(line: &[u8]) -> Incoming {
    if line.len() > MAX_REQUEST_BYTES {
        return Incoming::Single(Err(Response::line_too_long()));
    }
    let refuse = |code, message: String| {
        Incoming::Single(Err(Response::failed(RequestId::null(), RpcError::new(code, message))))
    };
    let Ok(text) = std::str::from_utf8(line) else {
        return refuse(ErrorCode::Parse, "the line is not UTF-8".to_owned());
    };
    let raw: &RawValue = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => return refuse(ErrorCode::Parse, format!("the line is not JSON: {}", short(&error))),
    };
    if !raw.get().starts_with('[') {
        return Incoming::Single(parse_request(raw));
    }
    match serde_json::from_str::<Entries<'_>>(raw.get()) {
        Err(_) => refuse(ErrorCode::InvalidRequest, format!("a batch has at most {MAX_BATCH} entries")),
        Ok(Entries(entries)) if entries.is_empty() => {
            refuse(ErrorCode::InvalidRequest, "a batch has at least one entry".to_owned())
        }
        Ok(Entries(entries)) => Incoming::Batch(entries.into_iter().map(parse_request).collect()),
    }
}

fn parse_request(raw: &RawValue) -> Result<Request, Response> {
    let invalid = |id: Option<RequestId>, message: String| {
        let error = RpcError::new(ErrorCode::InvalidRequest, message);
        Response::failed(id.unwrap_or_else(RequestId::null), error)
    };
    if !raw.get().starts_with('{') {
        return Err(invalid(None, "a request is a JSON object".to_owned()));
    }
    let mut members: Members<'_> =
        serde_json::from_str(raw.get()).map_err(|error| invalid(None, short(&error)))?;
    let id =
        match members.0.remove("id") {
            None => None,
            Some(raw) => Some(RequestId::from_raw(raw).ok_or_else(|| {
                invalid(None, "an id is a string, a number or null, and not long".to_owned())
            })?),
        };
    let take = |members: &mut Members<'_>, name: &str| {
        members.0.remove(name).map(|raw| serde_json::from_str::<String>(raw.get()).ok())
    };
    if take(&mut members, "jsonrpc").flatten().as_deref() != Some(VERSION) {
        return Err(invalid(id, format!("\"jsonrpc\" must be \"{VERSION}\"")));
    }
    let method = match take(&mut members, "method").flatten() {
        Some(method) if method.len() <= MAX_METHOD_BYTES => method,
        _ => return Err(invalid(id, "\"method\" must be a string, and not long".to_owned())),
    };
    let params = members.0.remove("params");
    if params.is_some_and(|params| !params.get().starts_with(['{', '['])) {
        return Err(invalid(id, "\"params\" must be an object or an array".to_owned()));
    }
    if let Some(unknown) = members.0.keys().next() {
        let shown: String = unknown.chars().take(40).collect();
        return Err(invalid(id, format!("unknown member {shown:?}; known are jsonrpc, id, method, params")));
    }
    Ok(Request { id, method, params: Params(params.map(ToOwned::to_owned)) })
}

/// An error's text, cut where it echoes the input.
fn short(error: &serde_json::Error) -> String {
    const SHOWN: usize = 300;
    let text = error.to_string();
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN).chain(['…']).collect() }
}

/// The members of one envelope, each once.
struct Members<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON-RPC object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(Name(name)) = map.next_key()? {
                    if members.len() >= MAX_MEMBERS {
                        return Err(serde::de::Error::custom("too many members in one request"));
                    }
                    if members.insert(name, map.next_value()?).is_some() {
                        return Err(serde::de::Error::custom("a member occurs twice in one request"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A member's name, borrowed where it holds no escape.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The entries of a batch, bounded while they are read.
struct Entries<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a batch")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    if entries.len() >= MAX_BATCH {
                        return Err(serde::de::Error::custom("too many entries in one batch"));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

#[derive(Serialize)]
struct WireCall<'a, T> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RequestId>,
    method: &'a str,
    params: &'a T,
}

fn line<T: Serialize>(id: Option<&RequestId>, method: &str, params: &T) -> Result<Vec<u8>, RpcError> {
    let mut line =
        serde_json::to_vec(&WireCall { jsonrpc: VERSION, id, method, params }).map_err(|error| {
            RpcError::new(ErrorCode::Internal, format!("cannot write {method}: {}", short(&error)))
        })?;
    line.push(b'\n');
    Ok(line)
}

/// The line of a request, for clients; line break included.
///
/// # Errors
/// [`RpcError`] when the parameters cannot be JSON.
pub fn call_line<T: Serialize>(id: &RequestId, method: &str, params: &T) -> Result<Vec<u8>, RpcError> {
    line(Some(id), method, params)
}

/// The line of a notification; line break included.
///
/// # Errors
/// [`RpcError`] when the parameters cannot be JSON.
pub fn notification_line<T: Serialize>(method: &str, params: &T) -> Result<Vec<u8>, RpcError> {
    line(None, method, params)
}

/// A notification of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its method, for example `stream.frame`.
    pub method: String,
    /// Its parameters.
    pub params: Params,
}

/// What a client reads.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerLine {
    /// The answer to a request.
    Response(Response),
    /// The answers to a batch.
    Batch(Vec<Response>),
    /// A notification.
    Notification(Notification),
}

/// The server's line is no JSON-RPC 2.0.
#[derive(Debug, thiserror::Error)]
#[error("the server's line is malformed")]
pub struct ServerLineError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct WireServerLine<'a> {
    jsonrpc: String,
    #[serde(default)]
    id: Option<RequestId>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

/// A member that is there, be it null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one line of the server, for clients.
///
/// # Errors
/// [`ServerLineError`] when it is no response, batch or notification.
pub fn parse_server_line(line: &[u8]) -> Result<ServerLine, ServerLineError> {
    let raw: &RawValue = serde_json::from_slice(line)?;
    if raw.get().starts_with('[') {
        let lines: Vec<&RawValue> = serde_json::from_str(raw.get())?;
        let responses = lines.into_iter().map(|line| match parse_one(line)? {
            ServerLine::Response(response) => Ok(response),
            ServerLine::Batch(_) | ServerLine::Notification(_) => Err(malformed("a batch holds responses")),
        });
        return Ok(ServerLine::Batch(responses.collect::<Result<_, _>>()?));
    }
    parse_one(raw)
}

fn parse_one(raw: &RawValue) -> Result<ServerLine, ServerLineError> {
    let wire: WireServerLine<'_> = serde_json::from_str(raw.get())?;
    if wire.jsonrpc != VERSION {
        return Err(malformed("the version is not 2.0"));
    }
    let id = wire.id.unwrap_or_else(RequestId::null);
    match (wire.method, wire.result, wire.error) {
        (Some(method), None, None) => {
            let params = Params(wire.params.map(ToOwned::to_owned));
            Ok(ServerLine::Notification(Notification { method, params }))
        }
        (None, Some(result), None) => {
            Ok(ServerLine::Response(Response { id, result: Ok(result.to_owned()) }))
        }
        (None, None, Some(error)) => Ok(ServerLine::Response(Response::failed(id, error))),
        _ => Err(malformed("it needs exactly one of method, result and error")),
    }
}

fn malformed(why: &str) -> ServerLineError {
    ServerLineError(serde::de::Error::custom(why))
}
