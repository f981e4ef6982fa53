//! A JSON-RPC client that a test can bend: typed calls, and raw lines where the test wants to break the rules.
//!
//! Invariants: a read never waits longer than [`PATIENCE`]; replies and notifications that come in while another
//! reply is awaited are kept, none is dropped.

use crate::PATIENCE;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An error object that the daemon sent.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcFailure {
    /// The code of SPEC §3.
    pub code: i64,
    /// For people.
    pub message: String,
    /// The typed reason; null when there is none.
    pub data: Value,
}

/// Why no reply came.
#[derive(Debug, thiserror::Error)]
pub enum RpcTrouble {
    /// The socket failed or the read took too long.
    #[error("talk on the control socket: {0}")]
    Io(#[from] std::io::Error),
    /// The daemon closed the connection.
    #[error("the daemon closed the connection")]
    Closed,
    /// A line that is not JSON.
    #[error("a line that is not JSON: {line}")]
    NotJson {
        /// The line.
        line: String,
    },
}

/// One connection to the daemon.
#[derive(Debug)]
pub struct Client {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    next_id: u64,
    replies: Vec<Value>,
    notifications: VecDeque<Value>,
}

impl Client {
    /// Connects once.
    ///
    /// # Errors
    /// When nobody listens, or the socket refuses.
    pub fn connect(socket: &Path) -> Result<Self, RpcTrouble> {
        let writer = UnixStream::connect(socket)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        writer.set_write_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { writer, reader, next_id: 1, replies: Vec::new(), notifications: VecDeque::new() })
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// The error object that came back.
    ///
    /// # Panics
    /// When no reply comes: the daemon owes one.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, RpcFailure> {
        let id = self.send(method, params);
        self.reply_to(id)
    }

    /// Sends a request and waits for its reply, where the daemon may be gone at any moment.
    ///
    /// # Errors
    /// When no reply comes any more; the error object that came back is inside.
    #[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
    pub fn try_call(&mut self, method: &str, params: Value) -> Result<Result<Value, RpcFailure>, RpcTrouble> {
        let id = self.try_send(method, &params)?;
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply["id"] == id) {
                return Ok(outcome(self.replies.swap_remove(at)));
            }
            self.take_message()?;
        }
    }

    /// Sends a request and returns its id, for a reply to be read later.
    ///
    /// # Panics
    /// When the socket takes no more.
    #[expect(clippy::needless_pass_by_value, reason = "tests write json!() in place")]
    pub fn send(&mut self, method: &str, params: Value) -> u64 {
        self.try_send(method, &params).expect("the daemon takes a request")
    }

    fn try_send(&mut self, method: &str, params: &Value) -> Result<u64, RpcTrouble> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send_line(&request.to_string())?;
        Ok(id)
    }

    /// Waits for the reply to a request that was sent.
    ///
    /// # Errors
    /// The error object that came back.
    ///
    /// # Panics
    /// When no reply comes: the daemon owes one.
    pub fn reply_to(&mut self, id: u64) -> Result<Value, RpcFailure> {
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply["id"] == id) {
                return outcome(self.replies.swap_remove(at));
            }
            self.take_message().unwrap_or_else(|trouble| panic!("request {id} got no reply: {trouble}"));
        }
    }

    /// The next notification, such as a `stream.frame`.
    ///
    /// # Errors
    /// When the connection ends or stays silent first.
    pub fn notification(&mut self) -> Result<Value, RpcTrouble> {
        loop {
            if let Some(notification) = self.notifications.pop_front() {
                return Ok(notification);
            }
            self.take_message()?;
        }
    }

    /// Sends a streaming request and reads until its reply: all notifications, and the reply.
    ///
    /// # Panics
    /// When no reply comes.
    pub fn call_streaming(&mut self, method: &str, params: Value) -> (Vec<Value>, Result<Value, RpcFailure>) {
        let id = self.send(method, params);
        let reply = self.reply_to(id);
        (self.notifications.drain(..).collect(), reply)
    }

    /// Writes one line as it is.
    ///
    /// # Errors
    /// When the daemon has closed or reads nothing.
    pub fn send_line(&mut self, line: &str) -> Result<(), RpcTrouble> {
        self.send_bytes(line.as_bytes())?;
        self.send_bytes(b"\n")
    }

    /// Writes bytes as they are, without a newline.
    ///
    /// # Errors
    /// When the daemon has closed or reads nothing.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), RpcTrouble> {
        self.writer.write_all(bytes)?;
        Ok(())
    }

    /// Reads one line as JSON, whatever it is.
    ///
    /// # Errors
    /// When the connection ended, stays silent, or the line is not JSON.
    pub fn read_message(&mut self) -> Result<Value, RpcTrouble> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(RpcTrouble::Closed);
        }
        serde_json::from_str(&line).map_err(|_| RpcTrouble::NotJson { line })
    }

    fn take_message(&mut self) -> Result<(), RpcTrouble> {
        let message = self.read_message()?;
        if message.get("method").is_some() {
            self.notifications.push_back(message);
        } else {
            self.replies.push(message);
        }
        Ok(())
    }
}

fn outcome(mut reply: Value) -> Result<Value, RpcFailure> {
    assert_eq!(reply["jsonrpc"], "2.0", "every reply names the protocol: {reply}");
    if let Some(error) = reply.get_mut("error").map(Value::take).filter(|error| !error.is_null()) {
        return Err(RpcFailure {
            code: error["code"].as_i64().expect("an error has a code"),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            data: error["data"].clone(),
        });
    }
    Ok(reply["result"].take())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Answers two requests out of order, with a notification between.
    fn serve(listener: &UnixListener) {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut stream = stream;
        for _ in 0..2 {
            lines.next().unwrap().unwrap();
        }
        let error = json!({ "code": 1001, "message": "not found", "data": { "kind": "agent" } });
        for message in [
            json!({ "jsonrpc": "2.0", "id": 2, "error": error }),
            json!({ "jsonrpc": "2.0", "method": "stream.frame", "params": { "kind": "event" } }),
            json!({ "jsonrpc": "2.0", "id": 1, "result": { "ok": true } }),
        ] {
            writeln!(stream, "{message}").unwrap();
        }
    }

    #[test]
    fn replies_are_matched_by_id_and_notifications_kept() {
        let home = crate::scratch();
        let socket = home.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener));
            let mut client = Client::connect(&socket).unwrap();
            let first = client.send("a", json!({}));
            let second = client.send("b", json!({}));
            assert_eq!(client.reply_to(first).unwrap(), json!({ "ok": true }));
            let failure = client.reply_to(second).unwrap_err();
            assert_eq!((failure.code, failure.data["kind"].as_str()), (1001, Some("agent")));
            assert_eq!(client.notification().unwrap()["params"]["kind"], "event");
            assert!(matches!(client.read_message(), Err(RpcTrouble::Closed)), "the server has closed");
        });
    }
}
