//! The command line's end of the control socket.
//!
//! Invariants: a line is bounded; waiting can be broken off at any point without losing what has arrived; an
//! error of the daemon stays typed, so that the exit code can follow from it.

use std::io;
use std::path::Path;

use aaos_core::limits::MAX_ENTRY_BYTES;
use aaos_ipc::{FrameBody, RequestId, ServerLine, StreamFrame, call_line, parse_server_line};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest line taken: a frame holds one entry, escaped once more at worst.
const MAX_LINE_BYTES: usize = 2 * MAX_ENTRY_BYTES;
/// Bytes asked of the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Parameters of a method that takes none.
#[derive(Debug, Serialize)]
pub(crate) struct Nothing {}

/// What a streaming call gives next.
#[derive(Debug)]
pub(crate) enum Streamed {
    /// A frame.
    Frame(Box<FrameBody>),
    /// The reply: the stream is over.
    Reply(Box<RawValue>),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    unread: Vec<u8>,
    last_id: u64,
}

impl Client {
    /// Connects to the daemon at `socket`.
    ///
    /// # Errors
    /// When nobody listens there, or may not be spoken to.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.map_err(|error| refused(socket, error))?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader, writer, unread: Vec::new(), last_id: 0 })
    }

    /// Calls a method and reads its result.
    ///
    /// # Errors
    /// The daemon's [`aaos_ipc::RpcError`], or what is wrong with the connection.
    pub(crate) async fn call<R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<R> {
        let raw = self.call_raw(method, params).await?;
        serde_json::from_str(raw.get()).with_context(|| foreign(method))
    }

    /// Calls a method and returns its result as JSON text.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn call_raw(&mut self, method: &str, params: &impl Serialize) -> Result<Box<RawValue>> {
        let id = self.begin(method, params).await?;
        loop {
            if let Streamed::Reply(result) = self.next(&id).await? {
                return Ok(result);
            }
        }
    }

    /// Sends a request, whose frames and reply [`Self::next`] gives.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) async fn begin(&mut self, method: &str, params: &impl Serialize) -> Result<RequestId> {
        self.last_id += 1;
        let id = RequestId::number(self.last_id);
        let line = call_line(&id, method, params)?;
        self.writer.write_all(&line).await.context("the connection to agentd broke")?;
        Ok(id)
    }

    /// The next frame of a request, or its reply. May be dropped while it waits.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn next(&mut self, id: &RequestId) -> Result<Streamed> {
        loop {
            let line = self.line().await?;
            match parse_server_line(&line)
                .context("agentd answered with something that is no JSON-RPC 2.0")?
            {
                ServerLine::Response(response) if response.id == *id || response.id == RequestId::null() => {
                    return Ok(Streamed::Reply(response.result?));
                }
                ServerLine::Notification(note) if note.method == "stream.frame" => {
                    let frame: StreamFrame = note.params.parse().with_context(|| foreign("stream.frame"))?;
                    if frame.request_id == *id {
                        return Ok(Streamed::Frame(Box::new(frame.body)));
                    }
                }
                ServerLine::Response(_) | ServerLine::Batch(_) | ServerLine::Notification(_) => {}
            }
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(searched + at + 1);
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            searched = self.unread.len();
            if searched > MAX_LINE_BYTES {
                bail!("agentd sent a line of more than {MAX_LINE_BYTES} bytes");
            }
            self.unread.reserve(READ_BYTES);
            let read =
                self.reader.read_buf(&mut self.unread).await.context("the connection to agentd broke")?;
            if read == 0 {
                bail!("agentd closed the connection before it answered; its log or `agentd logs` says why");
            }
        }
    }
}

fn foreign(method: &str) -> String {
    format!(
        "the answer to {method} is not understood; agentd and this command line are of different versions"
    )
}

fn refused(socket: &Path, error: io::Error) -> anyhow::Error {
    let shown = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow::anyhow!("no agentd listens at {shown}; start one with `agentd serve`")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{shown} is not for this user; ask as the user that runs agentd, or as root")
        }
        _ => anyhow::Error::new(error).context(format!("cannot connect to agentd at {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, Nothing, Streamed};
    use crate::exit::Exit;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;

    async fn answer(listener: UnixListener, lines: &'static [&'static str]) {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut request = String::new();
        reader.read_line(&mut request).await.unwrap();
        for line in lines {
            writer.write_all(line.as_bytes()).await.unwrap();
        }
    }

    async fn asked(lines: &'static [&'static str]) -> (anyhow::Result<Vec<u64>>, usize) {
        let home = testkit::scratch();
        let socket = home.path().join("s");
        let server = tokio::spawn(answer(UnixListener::bind(&socket).unwrap(), lines));
        let mut client = Client::connect(&socket).await.unwrap();
        let id = client.begin("m", &Nothing {}).await.unwrap();
        let mut frames = 0;
        let result = loop {
            match client.next(&id).await {
                Ok(Streamed::Frame(_)) => frames += 1,
                Ok(Streamed::Reply(raw)) => break Ok(serde_json::from_str(raw.get()).unwrap()),
                Err(error) => break Err(error),
            }
        };
        server.await.unwrap();
        (result, frames)
    }

    #[tokio::test]
    async fn frames_come_before_the_reply_and_strangers_are_passed_over() {
        let (result, frames) = asked(&[
            r#"{"jsonrpc":"2.0","method":"stream.frame","params":{"request_id":1,"kind":"lag","resume_seq":3}}"#,
            "\n",
            r#"{"jsonrpc":"2.0","method":"stream.frame","params":{"request_id":9,"kind":"lag","resume_seq":3}}"#,
            "\n{\"jsonrpc\":\"2.0\",\"method\":\"other\",\"params\":{}}\n",
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":[1]}\n",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"res",
            "ult\":[4,2]}\n",
        ])
        .await;
        assert_eq!((result.unwrap(), frames), (vec![4, 2], 1));
    }

    #[tokio::test]
    async fn errors_stay_typed_and_ends_are_noticed() {
        let (result, _) =
            asked(&["{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1003,\"message\":\"empty\"}}\n"])
                .await;
        let error = result.expect_err("an error");
        assert_eq!((crate::exit::of_error(&error), error.to_string().as_str()), (Exit::Budget, "empty"));
        assert!(asked(&["rubbish\n"]).await.0.is_err());
        let error = asked(&["{\"jsonrpc\""]).await.0.expect_err("cut off");
        assert!(error.to_string().contains("closed the connection"), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_do() {
        let home = testkit::scratch();
        let error = Client::connect(&home.path().join("none")).await.expect_err("nobody");
        assert!(error.to_string().contains("agentd serve"), "{error}");
    }
}
