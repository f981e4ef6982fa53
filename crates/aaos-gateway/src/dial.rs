//! Names to addresses and addresses to HTTP exchanges, for both roles.
//!
//! Written over hyper and tokio-rustls and not over reqwest: a connection is made to exactly the address that
//! the caller checked, so pinning does not depend on a resolver hook that IP-literal URLs bypass; there is no
//! proxy from the environment, no redirect, no cookie, no decompression and no pool to switch off: a caller keeps
//! a connection or does not; and header sizes can be capped, which reqwest does not offer.
//!
//! Invariants: everything read from disk (TLS roots, `resolv.conf`, `hosts`) is read by [`Dialer::from_system`],
//! before the process locks itself; every wait is inside its caller's time limit; headers are capped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Longest status line and headers of an answer together, bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Most header lines of an answer.
const MAX_HEADERS: usize = 128;
/// Largest read buffer of a connection, bytes.
const MAX_BUFFER_BYTES: usize = 128 * 1024;
/// Time for one address to accept a connection before the next is tried.
const CONNECT_TIME: Duration = Duration::from_secs(8);
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Answers kept by the resolver.
const CACHED_NAMES: u64 = 256;

/// Why there is no answer from a host.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Names cannot be resolved here at all.
    #[error("names cannot be resolved: {0}")]
    NoResolver(String),
    /// The name has no address.
    #[error("the name {host} has no address")]
    NoSuchName {
        /// The name.
        host: String,
    },
    /// The name servers did not answer.
    #[error("looking up {host} failed: {why}")]
    Lookup {
        /// The name.
        host: String,
        /// In words.
        why: String,
    },
    /// No connection.
    #[error("connecting to {address} failed: {source}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// TLS cannot be used here at all.
    #[error("https cannot be used: {0}")]
    NoTls(String),
    /// The TLS handshake failed.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// The name.
        host: String,
        /// The library's error.
        source: io::Error,
    },
    /// The other side does not speak HTTP as it should, or the connection was lost before its answer.
    #[error("{}", describe(.0))]
    Http(#[source] hyper::Error),
}

impl DialError {
    /// Whether the other side's certificate is the reason: asking again cannot help.
    #[must_use]
    pub fn is_certificate(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
    }
}

impl DialError {
    /// Whether a connection was lost before any answer, as one is that the other side closed while nothing was asked.
    #[must_use]
    pub fn is_lost_line(&self) -> bool {
        let Self::Http(error) = self else { return false };
        let broken = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
        let broken = broken.map(io::Error::kind);
        error.is_incomplete_message()
            || error.is_closed()
            || error.is_canceled()
            || matches!(
                broken,
                Some(
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
                )
            )
    }
}

fn describe(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        "the connection was closed before an answer came".to_owned()
    } else if error.is_parse() {
        format!("the answer is not HTTP as it should be: {error}")
    } else {
        format!("the HTTP exchange failed: {error}")
    }
}

/// How a name is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameScope {
    /// Exactly as written: the search list of `resolv.conf` is not applied, so the name that was authorised is the
    /// name that is asked for.
    Absolute,
    /// As other programs of this machine would: for names that the operator configured.
    Searched,
}

/// Whether TLS is spoken, and with which name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// Plain HTTP.
    Plain,
    /// TLS for this name or address.
    Tls(String),
}

/// Where the connection to an address really goes.
type Way = Box<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>;

/// All that is needed to reach hosts; holds no keys.
pub struct Dialer {
    resolver: Result<TokioResolver, String>,
    tls: Result<TlsConnector, String>,
    /// `None` for the network itself.
    way: Option<Way>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("resolver", &self.resolver.as_ref().map(|_| "ready"))
            .field("tls", &self.tls.as_ref().map(|_| "ready"))
            .finish()
    }
}

impl Dialer {
    /// Reads what this machine has. What is missing is an error of the request that needs it.
    #[must_use]
    pub fn from_system() -> Self {
        let resolver = hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| format!("/etc/resolv.conf: {error}"))
            .and_then(|(config, options)| resolver(config, options));
        Self { resolver, tls: tls_from_system(), way: None }
    }

    /// With these name servers and certificate authorities instead of the machine's.
    #[must_use]
    pub fn with(names: ResolverConfig, authorities: Vec<CertificateDer<'static>>) -> Self {
        Self { resolver: resolver(names, ResolverOpts::default()), tls: connector(authorities), way: None }
    }

    /// With another network than the machine's: a connection to an address goes where `way` says. It is asked after
    /// every check, so that a test sees which addresses are dialled, and public ones can be played on loopback.
    #[must_use]
    pub fn by_way_of(self, way: impl Fn(SocketAddr) -> SocketAddr + Send + Sync + 'static) -> Self {
        Self { way: Some(Box::new(way)), ..self }
    }

    /// Every address of a name (at most eight), IPv4 first.
    ///
    /// # Errors
    /// [`DialError`] when it has none or nobody answers.
    pub async fn resolve(&self, host: &str, scope: NameScope) -> Result<Vec<IpAddr>, DialError> {
        let resolver = self.resolver.as_ref().map_err(|why| DialError::NoResolver(why.clone()))?;
        let name = match scope {
            NameScope::Absolute => format!("{host}."),
            NameScope::Searched => host.to_owned(),
        };
        match resolver.lookup_ip(name.as_str()).await {
            Ok(found) => Ok(found.iter().take(MAX_ADDRESSES).collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                Err(DialError::NoSuchName { host: host.to_owned() })
            }
            Err(error) => Err(DialError::Lookup { host: host.to_owned(), why: error.to_string() }),
        }
    }

    /// Sends one request to the first of `addresses` that accepts a connection; gives the head of the answer.
    ///
    /// # Errors
    /// [`DialError`] when no connection, no handshake or no answer is to be had.
    pub async fn exchange(
        &self,
        addresses: &[SocketAddr],
        layer: &Layer,
        request: hyper::Request<Full<Bytes>>,
    ) -> Result<Answer, DialError> {
        self.open(addresses, layer).await?.ask(request).await
    }

    /// Opens a connection that one request after the other can be sent over.
    ///
    /// # Errors
    /// [`DialError`] when no connection or no handshake is to be had.
    pub async fn open(&self, addresses: &[SocketAddr], layer: &Layer) -> Result<Line, DialError> {
        let stream = self.connect(addresses).await?;
        // Over a connection that is kept, the end of a request would otherwise wait for the receipt of its beginning.
        stream.set_nodelay(true).map_err(|source| DialError::Connect { address: addresses[0], source })?;
        let host = match layer {
            Layer::Plain => return shake(stream).await,
            Layer::Tls(host) => host,
        };
        let tls = self.tls.as_ref().map_err(|why| DialError::NoTls(why.clone()))?;
        let failed = |source| DialError::Tls { host: host.clone(), source };
        let name = ServerName::try_from(host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = tls.connect(name, stream).await.map_err(failed)?;
        shake(stream).await
    }

    /// A connection to the first of `addresses` that accepts one.
    ///
    /// # Errors
    /// [`DialError::Connect`] of the last one, when none does.
    pub async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        assert!(!addresses.is_empty(), "the caller has an address or an error");
        let mut last = None;
        for address in addresses.iter().copied().take(MAX_ADDRESSES) {
            let end = self.way.as_ref().map_or(address, |way| way(address));
            let attempt = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(end)).await;
            match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(source) => last = Some(DialError::Connect { address, source }),
            }
        }
        Err(last.unwrap_or_else(|| unreachable!("at least one address was tried")))
    }
}

fn resolver(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, String> {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = CACHED_NAMES;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| error.to_string())
}

fn tls_from_system() -> Result<TlsConnector, String> {
    connector(rustls_native_certs::load_native_certs().certs)
}

fn connector(authorities: Vec<CertificateDer<'static>>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let (added, _unusable) = roots.add_parsable_certificates(authorities);
    if added == 0 {
        return Err("this machine has no certificate authorities; install the package ca-certificates".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn shake<S>(stream: S) -> Result<Line, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER_BYTES).max_headers(MAX_HEADERS).max_header_size(MAX_HEADER_BYTES);
    let received = Arc::new(AtomicU64::new(0));
    let stream = Counted { stream, received: Arc::clone(&received) };
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(DialError::Http)?;
    // What ends the connection also ends the answer's body, where it is reported.
    let connection = Connection(tokio::spawn(async move { connection.await.unwrap_or(()) }));
    Ok(Line { sender, received, connection })
}

/// A connection over which nothing is under way.
#[derive(Debug)]
pub struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    received: Arc<AtomicU64>,
    connection: Connection,
}

impl Line {
    /// Sends a request; gives the head of the answer.
    ///
    /// # Errors
    /// [`DialError::Http`] when the connection is lost before that.
    pub async fn ask(self, request: hyper::Request<Full<Bytes>>) -> Result<Answer, DialError> {
        let Self { mut sender, received, connection } = self;
        let response = sender.send_request(request).await.map_err(DialError::Http)?;
        let (head, body) = response.into_parts();
        Ok(Answer { head, body, received, sender, connection })
    }

    /// Whether the other side has closed it, as far as is known.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Counts what is read through it.
#[derive(Debug)]
struct Counted<S> {
    stream: S,
    received: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let more = u64::try_from(buffer.filled().len() - before).unwrap_or(u64::MAX);
        self.received.fetch_add(more, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Drives one connection; dropping it closes the connection.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The head of an answer; the body is taken piece by piece, so the caller's cap is the only buffer.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: hyper::http::response::Parts,
    body: Incoming,
    received: Arc<AtomicU64>,
    sender: http1::SendRequest<Full<Bytes>>,
    connection: Connection,
}

impl Answer {
    /// The connection, once the rest of the body has come, if that is no more than `most` bytes and ends properly.
    pub async fn into_line(mut self, most: usize) -> Option<Line> {
        let mut rest = 0_usize;
        while let Some(piece) = self.chunk().await.ok()? {
            rest = rest.saturating_add(piece.len());
            if rest > most {
                return None;
            }
        }
        self.sender.ready().await.ok()?;
        Some(Line { sender: self.sender, received: self.received, connection: self.connection })
    }

    /// The next piece of the body; `None` at its proper end.
    ///
    /// # Errors
    /// [`DialError::Http`] when the body was cut.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, DialError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(DialError::Http(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Bytes that have come so far, the head's included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A header as text; `None` when it is absent or not visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Both loopback addresses.
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
