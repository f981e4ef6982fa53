//! A small web server with scripted pages, for what fetches pages.
//!
//! Invariants: an unknown path is a 404; every request is recorded before it is answered.

use crate::Gate;
use crate::http::{Body, Ending, HttpRequest, Reply, Serving};
use crate::ledger::Ledger;
use std::collections::BTreeMap;

/// What a path answers.
#[derive(Debug, Clone)]
pub enum Page {
    /// An HTML page.
    Html(String),
    /// Plain text.
    Text(String),
    /// Any bytes with any status and content type.
    Bytes {
        /// Status code.
        status: u16,
        /// Content type as sent.
        content_type: String,
        /// The body.
        body: Vec<u8>,
    },
    /// Nothing but a status and how long to wait, as sent in `Retry-After`.
    Refused {
        /// Status code.
        status: u16,
        /// Seconds.
        retry_after: u32,
    },
    /// A redirect to a URL or path, as sent in `Location`.
    Redirect {
        /// Status code, such as 302.
        status: u16,
        /// Where to.
        to: String,
    },
    /// A body of this many bytes of text, streamed in pieces.
    Huge {
        /// Size of the body.
        total: u64,
    },
    /// Takes the request and never answers.
    Hang,
    /// Sends this much, then nothing more, without ending the body.
    HangMidBody(String),
    /// Sends this much, then breaks the connection.
    CutMidBody(String),
    /// The inner page, once the test opens the gate.
    Gated(Gate, Box<Page>),
    /// A file, from the byte on that is asked for.
    File {
        /// All of it.
        body: Vec<u8>,
        /// What goes wrong.
        fault: Fault,
    },
    /// One page after the other, each for one request; the last for all further ones.
    InTurn(Vec<Page>),
}

/// What goes wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// All of it comes, whatever was asked for.
    NoRanges,
    /// The connection breaks when the file has come up to this byte.
    CutAt(usize),
    /// Nothing more comes after this byte.
    HangAt(usize),
    /// So many bytes come after its end, and how many there are is not said; nor is it with `Surplus(0)`.
    Surplus(usize),
}

/// One request that came in.
#[derive(Debug, Clone)]
pub struct SeenFetch {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header names in lower case.
    pub headers: Vec<(String, String)>,
    /// What came with it.
    pub body: Vec<u8>,
}

impl SeenFetch {
    /// A header by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A scripted web server on 127.0.0.1.
#[derive(Debug)]
pub struct WebServer {
    serving: Serving,
    seen: Ledger<SeenFetch>,
}

impl WebServer {
    /// Serves `pages` by exact path.
    ///
    /// # Panics
    /// When no loopback listener can be had.
    #[must_use]
    pub fn start<P: Into<String>>(pages: impl IntoIterator<Item = (P, Page)>) -> Self {
        let pages: BTreeMap<String, Page> =
            pages.into_iter().map(|(path, page)| (path.into(), page)).collect();
        let seen = Ledger::new();
        let record = seen.clone();
        let serving = Serving::start(move |request: HttpRequest| {
            let path = path_of(&request.target);
            let turn = record.all().iter().filter(|seen: &&SeenFetch| path_of(&seen.target) == path).count();
            let page = pages.get(path).map(|page| page.at_turn(turn).clone());
            let from = request.header("range").and_then(first_byte);
            record.push(SeenFetch {
                method: request.method,
                target: request.target,
                headers: request.headers,
                body: request.body,
            });
            page.map_or_else(|| Reply::whole(404, "text/plain", "no such page"), |page| render(page, from))
        });
        Self { serving, seen }
    }

    /// The URL of a path that begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.serving.address())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.serving.address()
    }

    /// `127.0.0.1:PORT`, as a `network:` grant names it.
    #[must_use]
    pub fn authority(&self) -> String {
        self.serving.address().to_string()
    }

    /// Requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenFetch> {
        self.seen.all()
    }

    /// Blocks until at least `count` requests have come in.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    #[must_use = "the requests are returned; `requests()` reads them without waiting"]
    pub fn wait_for_requests(&self, count: usize) -> Vec<SeenFetch> {
        self.seen.wait_for(count, "web requests")
    }

    /// Blocks until `count` clients have left an unfinished answer.
    ///
    /// # Panics
    /// After [`crate::PATIENCE`].
    pub fn wait_for_hangups(&self, count: usize) {
        let hangups = self.serving.hangups().wait_for(count, "hang-ups");
        assert!(hangups.len() >= count, "the ledger waits for what it is asked");
    }
}

impl Page {
    fn at_turn(&self, turn: usize) -> &Self {
        match self {
            Self::InTurn(pages) => pages.get(turn).or(pages.last()).expect("a page"),
            page => page,
        }
    }
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// Of `bytes=N-`.
fn first_byte(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn file(body: &[u8], fault: Fault, from: Option<usize>) -> Reply {
    let from = from.filter(|_| fault != Fault::NoRanges);
    let start = from.unwrap_or(0).min(body.len());
    let begun = |until: usize, ending| Body::Begun {
        bytes: body[start..until.clamp(start, body.len())].to_vec(),
        promised: body.len() - start,
        ending,
    };
    let sent = match fault {
        Fault::None | Fault::NoRanges => Body::Whole(body[start..].to_vec()),
        Fault::CutAt(until) => begun(until, Ending::Cut),
        Fault::HangAt(until) => begun(until, Ending::Hang),
        Fault::Surplus(more) => Body::Pieces(vec![body[start..].to_vec(), vec![b'!'; more]], Ending::Proper),
    };
    let status = if from.is_some() { 206 } else { 200 };
    let mut reply = Reply::with_body(status, "application/octet-stream", sent);
    if from.is_some() {
        let range = format!("bytes {start}-{}/{}", body.len().saturating_sub(1), body.len());
        reply.headers.push(("content-range".to_owned(), range));
    }
    reply
}

fn render(page: Page, from: Option<usize>) -> Reply {
    const TEXT: &str = "text/plain; charset=utf-8";
    match page {
        Page::Html(body) => Reply::whole(200, "text/html; charset=utf-8", body),
        Page::Text(body) => Reply::whole(200, TEXT, body),
        Page::Bytes { status, content_type, body } => Reply::whole(status, &content_type, body),
        Page::Redirect { status, to } => {
            let mut reply = Reply::whole(status, TEXT, "");
            reply.headers.push(("location".to_owned(), to));
            reply
        }
        Page::Refused { status, retry_after } => {
            let mut reply = Reply::whole(status, TEXT, "");
            reply.headers.push(("retry-after".to_owned(), retry_after.to_string()));
            reply
        }
        Page::Huge { total } => {
            let piece = b"All work and no play makes a page long. ".repeat(400);
            Reply::with_body(200, TEXT, Body::Repeated { piece, total })
        }
        Page::Hang => Reply::silence(),
        Page::HangMidBody(start) => {
            Reply::with_body(200, TEXT, Body::Pieces(vec![start.into_bytes()], Ending::Hang))
        }
        Page::CutMidBody(start) => {
            Reply::with_body(200, TEXT, Body::Pieces(vec![start.into_bytes()], Ending::Cut))
        }
        Page::Gated(gate, page) => Reply { gate: Some(gate), ..render(*page, from) },
        Page::File { body, fault } => file(&body, fault, from),
        Page::InTurn(_) => unreachable!("one of them was chosen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn connect(server: &WebServer, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(server.authority()).unwrap();
        stream.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream
    }

    fn get(server: &WebServer, path: &str) -> String {
        let mut answer = Vec::new();
        connect(server, path).read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn pages_redirects_and_misses() {
        let redirect = Page::Redirect { status: 302, to: "/page".into() };
        let server = WebServer::start([("/page", Page::Html("<p>hi</p>".into())), ("/old", redirect)]);
        assert!(get(&server, "/page?q=1").ends_with("<p>hi</p>"));
        assert!(get(&server, "/old").contains("location: /page\r\n"));
        assert!(get(&server, "/none").starts_with("HTTP/1.1 404"));
        assert_eq!(server.requests()[0].target, "/page?q=1");
    }

    #[test]
    fn huge_pages_are_as_long_as_promised() {
        let server = WebServer::start([("/huge", Page::Huge { total: 100_000 })]);
        let answer = get(&server, "/huge");
        assert!(answer.len() > 100_000 && answer.ends_with("0\r\n\r\n"));
    }

    #[test]
    fn files_come_from_the_byte_that_is_asked_for_and_pages_in_turn() {
        let whole = Page::File { body: b"0123456789".to_vec(), fault: Fault::None };
        let server = WebServer::start([("/f", Page::InTurn(vec![whole, Page::Text("later".into())]))]);
        let mut stream = TcpStream::connect(server.authority()).unwrap();
        write!(stream, "GET /f HTTP/1.1\r\nRange: bytes=7-\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 206") && answer.ends_with("\r\n\r\n789"), "{answer}");
        assert!(answer.contains("content-range: bytes 7-9/10\r\n"), "{answer}");
        assert!(get(&server, "/f").ends_with("later") && get(&server, "/f").ends_with("later"));
    }

    #[test]
    fn cut_bodies_have_no_end() {
        let server = WebServer::start([("/cut", Page::CutMidBody("half".into()))]);
        let answer = get(&server, "/cut");
        assert!(answer.contains("half") && !answer.ends_with("0\r\n\r\n"));
    }

    #[test]
    fn hanging_pages_hang_until_the_client_leaves() {
        let server = WebServer::start([("/hang", Page::HangMidBody("begin".into()))]);
        let mut stream = TcpStream::connect(server.authority()).unwrap();
        stream.write_all(b"GET /hang HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(server.wait_for_requests(1).len(), 1);
        drop(stream);
        server.wait_for_hangups(1);
    }
}
