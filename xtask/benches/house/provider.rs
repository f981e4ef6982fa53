//! A provider that takes no time, or a fixed one, and knows when each request had come and each answer had gone.
//!
//! Invariants: it runs on a thread of its own and parses nothing that it does not need; connections are kept as long as
//! the client likes; a reply is a call of a tool that nobody has until a conversation has so many replies as are asked
//! for, and then a text.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What every reply of a model begins with in a request.
const REPLY: &[u8] = b"\"role\":\"assistant\"";
/// Longest line of a request's head.
const MAX_LINE: u64 = 64 * 1024;

/// How it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Time between a request and its answer.
    pub(crate) latency: Duration,
    /// Replies of one conversation, the last one a text.
    pub(crate) replies: usize,
    /// Whether requests are kept.
    pub(crate) keeps: bool,
}

/// One exchange.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// When the request had come whole.
    pub(crate) asked: Instant,
    /// When its answer was about to be sent.
    pub(crate) answered: Instant,
    /// The request's body, if it is kept.
    pub(crate) body: Vec<u8>,
}

type Exchanges = Arc<Mutex<Vec<Exchange>>>;

/// The provider; its thread ends with it.
pub(crate) struct Provider {
    address: SocketAddr,
    exchanges: Exchanges,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Provider {
    pub(crate) fn start(manner: Manner) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("bind the provider's port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let exchanges = Exchanges::default();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let noted = Arc::clone(&exchanges);
        let serve = async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                drop(tokio::spawn(converse(stream, manner, Arc::clone(&noted))));
            }
        };
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, exchanges, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What was exchanged since the last time, in the order of answers.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.exchanges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the provider's thread panicked");
        }
    }
}

async fn converse(stream: TcpStream, manner: Manner, exchanges: Exchanges) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut stream = BufReader::new(stream);
    while let Some(body) = request(&mut stream).await {
        let asked = Instant::now();
        if !manner.latency.is_zero() {
            tokio::time::sleep(manner.latency).await;
        }
        let replies = body.windows(REPLY.len()).filter(|window| *window == REPLY).count();
        let answer = answer(replies, manner.replies);
        let answered = Instant::now();
        // Without a body it is no model call: whoever starts asks what is served.
        if !body.is_empty() {
            let body = if manner.keeps { body } else { Vec::new() };
            exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(Exchange { asked, answered, body });
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The body of the next request; none at the end of the connection.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if (&mut *stream).take(MAX_LINE).read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// A whole answer, as a stream of events with a length.
fn answer(replies: usize, wanted: usize) -> String {
    let event = |delta: serde_json::Value, reason: Option<&str>| {
        let chunk = serde_json::json!({
            "id": "bench", "object": "chat.completion.chunk", "created": 1, "model": "bench",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": reason }],
            "usage": { "prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20 },
        });
        format!("data: {chunk}\n\n")
    };
    let body = if replies + 1 < wanted {
        let arguments = serde_json::json!({ "step": replies, "text": "x".repeat(200) }).to_string();
        let call = serde_json::json!({ "index": 0, "id": format!("call-{replies}"), "type": "function",
            "function": { "name": "nobody_has_this_tool", "arguments": arguments } });
        event(serde_json::json!({ "role": "assistant", "tool_calls": [call] }), None)
            + &event(serde_json::json!({}), Some("tool_calls"))
    } else {
        event(serde_json::json!({ "role": "assistant", "content": "done" }), None)
            + &event(serde_json::json!({}), Some("stop"))
    };
    let body = body + "data: [DONE]\n\n";
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n{body}")
}
