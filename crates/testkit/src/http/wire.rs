//! Reading a request and writing a reply, byte by byte.
//!
//! Invariants: a head is at most [`HEAD_MAX`] and a body at most [`BODY_MAX`] bytes; only content-length bodies are
//! read, which is what the clients under test send.

use super::{Body, Ending, HttpRequest, Reply};
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const HEAD_MAX: u64 = 64 * 1024;
const BODY_MAX: usize = 32 * 1024 * 1024;

/// What the connection is good for after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    KeepAlive,
    Close,
    /// The rest is withheld; the client should give up.
    Withheld,
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// One request; `None` at a clean end of the connection.
pub(super) async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<HttpRequest>> {
    let Some(start) = read_head_line(stream).await? else { return Ok(None) };
    let mut words = start.split(' ');
    let (Some(method), Some(target), Some(_)) = (words.next(), words.next(), words.next()) else {
        return Err(broken("request line without three words"));
    };
    let mut request = HttpRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    while let Some(line) = read_head_line(stream).await? {
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken("header without a colon"))?;
        request.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.header("transfer-encoding").is_some() {
        return Err(broken("chunked request bodies are not read here"));
    }
    let length =
        request.header("content-length").map_or(Ok(0), str::parse).map_err(|_| broken("bad length"))?;
    if length > BODY_MAX {
        return Err(broken("request body too large"));
    }
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await?;
    Ok(Some(request))
}

async fn read_head_line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.take(HEAD_MAX).read_line(&mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') {
        return Err(broken("head line cut or too long"));
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn head(reply: &Reply, framing: &str) -> Vec<u8> {
    use std::fmt::Write;
    let mut head = format!("HTTP/1.1 {} scripted\r\n{framing}\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").expect("writing to a String cannot fail");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Writes the reply as scripted.
pub(super) async fn write_reply(stream: &mut BufReader<TcpStream>, reply: Reply) -> io::Result<Written> {
    const CHUNKED: &str = "transfer-encoding: chunked";
    match &reply.body {
        Body::Silence => Ok(Written::Withheld),
        Body::Whole(bytes) => {
            let mut message = head(&reply, &format!("content-length: {}", bytes.len()));
            message.extend_from_slice(bytes);
            stream.write_all(&message).await?;
            stream.flush().await?;
            Ok(Written::KeepAlive)
        }
        Body::Begun { bytes, promised, ending } => {
            assert!(*ending != Ending::Proper, "what was begun has no proper end");
            let mut message = head(&reply, &format!("content-length: {promised}"));
            message.extend_from_slice(bytes);
            stream.write_all(&message).await?;
            stream.flush().await?;
            end_pieces(stream, *ending).await
        }
        Body::Pieces(pieces, ending) => {
            stream.write_all(&head(&reply, CHUNKED)).await?;
            for piece in pieces {
                write_chunk(stream, piece).await?;
            }
            end_pieces(stream, *ending).await
        }
        Body::Repeated { piece, total } => {
            stream.write_all(&head(&reply, CHUNKED)).await?;
            let mut left = *total;
            while left > 0 {
                let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                write_chunk(stream, &piece[..take]).await?;
                left -= take as u64;
            }
            end_pieces(stream, Ending::Proper).await
        }
    }
}

async fn write_chunk(stream: &mut BufReader<TcpStream>, piece: &[u8]) -> io::Result<()> {
    if piece.is_empty() {
        // An empty chunk would end the body.
        return Ok(());
    }
    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
    chunk.extend_from_slice(piece);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk).await?;
    stream.flush().await
}

async fn end_pieces(stream: &mut BufReader<TcpStream>, ending: Ending) -> io::Result<Written> {
    match ending {
        Ending::Proper => {
            stream.write_all(b"0\r\n\r\n").await?;
            stream.flush().await?;
            Ok(Written::KeepAlive)
        }
        Ending::Cut => Ok(Written::Close),
        Ending::Hang => Ok(Written::Withheld),
    }
}
