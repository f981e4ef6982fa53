//! What the gateway's tests share: agentd's end of a channel, and a name server that says what a test wants.
//!
//! Invariant: nothing waits longer than testkit's patience.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use aaos_core::wire::{FRAME_HEADER_BYTES, decode_frame, encode_frame, frame_length};
use aaos_gateway::dial::Dialer;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::proto::rr::Name;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// agentd's end.
pub(crate) struct Near(pub(crate) UnixStream);

impl Near {
    /// Sends one frame.
    pub(crate) async fn send<T: Serialize>(&mut self, frame: &T) {
        let bytes = encode_frame(frame).expect("a small frame");
        self.0.write_all(&bytes).await.expect("the gateway listens");
    }

    /// Sends one small frame with a descriptor on its first byte.
    pub(crate) async fn send_with<T: Serialize>(&mut self, frame: &T, descriptor: BorrowedFd<'_>) {
        let bytes = encode_frame(frame).expect("a small frame");
        self.0.writable().await.expect("a live channel");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "room for one");
        let sent = sendmsg(self.0.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.expect("the gateway listens"), bytes.len(), "one small frame goes out whole");
    }

    /// The next frame.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> T {
        self.next().await.expect("the gateway still speaks")
    }

    /// The next frame, or `None` at the end of the channel.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let read = async {
            let mut header = [0; FRAME_HEADER_BYTES];
            if self.0.read_exact(&mut header).await.is_err() {
                return None;
            }
            let mut body = vec![0; frame_length(header).expect("below the limit")];
            self.0.read_exact(&mut body).await.expect("a whole frame");
            Some(decode_frame(&body).expect("the expected frame"))
        };
        tokio::time::timeout(testkit::PATIENCE, read).await.expect("the gateway answers in time")
    }
}

/// A record of the test's name server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Record {
    /// An address, told to those who ask for its family.
    Address(IpAddr),
    /// Another name, which is asked for instead.
    Alias(&'static str),
}

impl From<[u8; 4]> for Record {
    fn from(octets: [u8; 4]) -> Self {
        Self::Address(octets.into())
    }
}

/// Answers every question with the records that `answer` has for its name (lower case, with its final dot), to be kept
/// for no time. Without any the name is one without addresses. Questions are reported in order.
pub(crate) fn name_server(
    answer: impl Fn(&str) -> Vec<Record> + Send + 'static,
) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
    let address = socket.local_addr().expect("bound");
    let (asked, questions) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let Some(reply) = dns_reply(&packet[..length], &answer, &asked) else { continue };
            if socket.send_to(&reply, from).is_err() {
                return;
            }
        }
    });
    (address, questions)
}

/// RFC 1035 §4: the header and question echoed, and the records that fit the question.
fn dns_reply(
    query: &[u8],
    answer: &impl Fn(&str) -> Vec<Record>,
    asked: &std::sync::mpsc::Sender<String>,
) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = 12;
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        name.push_str(std::str::from_utf8(query.get(at + 1..at + 1 + length)?).ok()?);
        name.push('.');
        at += 1 + length;
    }
    let asked_type = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let data: Vec<(u16, Vec<u8>)> = answer(&name.to_ascii_lowercase()).into_iter().map(data_of).collect();
    let fits: Vec<_> = data.into_iter().filter(|(kind, _)| *kind == asked_type || *kind == ALIAS).collect();
    asked.send(name).unwrap_or(());
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::try_from(fits.len()).ok()?, 0, 0, 0, 0]);
    reply.extend(query.get(12..at + 5)?);
    for (kind, data) in fits {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0]);
        reply.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

/// The type number of an alias record.
const ALIAS: u16 = 5;

fn data_of(record: Record) -> (u16, Vec<u8>) {
    match record {
        Record::Address(IpAddr::V4(ip)) => (1, ip.octets().to_vec()),
        Record::Address(IpAddr::V6(ip)) => (28, ip.octets().to_vec()),
        Record::Alias(name) => {
            let mut data = Vec::new();
            for label in name.trim_end_matches('.').split('.') {
                data.push(u8::try_from(label.len()).expect("a short label"));
                data.extend(label.as_bytes());
            }
            data.push(0);
            (ALIAS, data)
        }
    }
}

/// A dialer that asks only this name server, with a search list as `resolv.conf` may hold one, and trusts only these authorities.
pub(crate) fn dialer(server: SocketAddr, authorities: Vec<CertificateDer<'static>>) -> Dialer {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let names = NameServerConfig::new(server.ip(), true, vec![connection]);
    let mut config = ResolverConfig::from_name_servers(vec![names]);
    config.add_search(Name::from_ascii("search.").expect("a name"));
    Dialer::with(config, authorities)
}

/// Every page of this server is `secret`; it shows a certificate that names `names` and was signed by itself.
pub(crate) async fn tls_server(names: &[&str]) -> (SocketAddr, CertificateDer<'static>) {
    tls_server_saying(names, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret".to_owned()).await
}

/// The same with another answer.
pub(crate) async fn tls_server_saying(
    names: &[&str],
    answer: String,
) -> (SocketAddr, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a usable pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let asked = stream.read(&mut request).await.is_ok();
            assert!(
                asked && stream.write_all(answer.as_bytes()).await.is_ok(),
                "the client asks and listens"
            );
        }
    });
    (address, certificate)
}
