//! agentd's side of one `egress` role, and a network that leads wherever a test says.
//!
//! Invariant: what is dialled is noted before the connection is made, whether or not it then stands.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use crate::common::{Near, Record, dialer, name_server};
use aaos_core::capability::HostRule;
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::ToolFailure;
use aaos_core::wire::{EgressReply, EgressRequest, RequestSerial};
use aaos_gateway::dial::Dialer;
use tokio::net::UnixStream;
use tokio_rustls::rustls::pki_types::CertificateDer;

pub(crate) const LONG: Millis = Millis(30_000);

/// The role under test.
pub(crate) struct Egress {
    pub(crate) near: Near,
    pub(crate) serial: u64,
    pub(crate) questions: Receiver<String>,
}

/// The addresses that were dialled since the last look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dialled(Arc<Mutex<Vec<SocketAddr>>>);

impl Dialled {
    pub(crate) fn take(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// What came of a fetch, with the body as text.
pub(crate) type Fetched = Result<(u16, String, String, bool), ToolFailure>;

impl Egress {
    /// A gateway for which every name that begins with `loop` or is completed from the search list is 127.0.0.1, `private` is 10.0.0.1, and no other exists.
    pub(crate) fn start() -> Self {
        Self::trusting(Vec::new())
    }

    pub(crate) fn trusting(authorities: Vec<CertificateDer<'static>>) -> Self {
        let (server, questions) = name_server(|name| match name {
            "private.test." => vec![[10, 0, 0, 1].into(), [169, 254, 169, 254].into()],
            _ if name.starts_with("loop") || name.ends_with(".search.") => vec![[127, 0, 0, 1].into()],
            _ => Vec::new(),
        });
        Self::over(dialer(server, authorities), questions)
    }

    /// With names of the test's own and a network in which every address leads to `server`.
    pub(crate) fn played(
        names: impl Fn(&str) -> Vec<Record> + Send + 'static,
        server: SocketAddr,
    ) -> (Self, Dialled) {
        Self::played_by(names, move |_| server)
    }

    /// With names of the test's own and a network in which an address leads where `way` says.
    pub(crate) fn played_by(
        names: impl Fn(&str) -> Vec<Record> + Send + 'static,
        way: impl Fn(SocketAddr) -> SocketAddr + Send + Sync + 'static,
    ) -> (Self, Dialled) {
        let (server, questions) = name_server(names);
        let dialled = Dialled::default();
        let noted = dialled.clone();
        let dialer = dialer(server, Vec::new()).by_way_of(move |address| {
            noted.0.lock().expect("no panic").push(address);
            way(address)
        });
        (Self::over(dialer, questions), dialled)
    }

    fn over(dialer: Dialer, questions: Receiver<String>) -> Self {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        tokio::spawn(aaos_gateway::egress::serve(far, dialer));
        Self { near: Near(near), serial: 0, questions }
    }

    pub(crate) async fn begin(
        &mut self,
        url: &str,
        rules: &[&str],
        public: bool,
        cap: u64,
        time: Millis,
    ) -> File {
        self.serial += 1;
        let page =
            File::from(rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd"));
        let fetch = EgressRequest::Fetch {
            serial: RequestSerial(self.serial),
            url: url.to_owned(),
            max_bytes: Bytes(cap),
            hosts: rules.iter().map(|rule| parse_rule(rule)).collect(),
            public,
            time,
        };
        self.near.send_with(&fetch, page.as_fd()).await;
        page
    }

    pub(crate) async fn fetch(&mut self, url: &str, rules: &[&str], public: bool) -> Fetched {
        self.fetch_up_to(url, rules, public, 50_000).await
    }

    pub(crate) async fn fetch_up_to(&mut self, url: &str, rules: &[&str], public: bool, cap: u64) -> Fetched {
        let mut page = self.begin(url, rules, public, cap, LONG).await;
        let reply = loop {
            match self.near.receive().await {
                EgressReply::Redirected { serial, .. } => assert_eq!(serial, RequestSerial(self.serial)),
                reply => break reply,
            }
        };
        match reply {
            EgressReply::Fetched { serial, status, final_url, bytes, truncated, .. } => {
                assert_eq!(serial, RequestSerial(self.serial));
                let mut body = Vec::new();
                page.rewind().expect("a memfd");
                page.read_to_end(&mut body).expect("a memfd");
                assert_eq!(body.len() as u64, bytes.0, "the memfd holds what is said");
                Ok((status, String::from_utf8(body).expect("text"), final_url, truncated))
            }
            EgressReply::Failed { serial, failure } => {
                assert_eq!(serial, RequestSerial(self.serial));
                Err(failure)
            }
            other => panic!("not about a page: {other:?}"),
        }
    }
}

pub(crate) fn parse_rule(text: &str) -> HostRule {
    let (host, port) = text.rsplit_once(':').expect("host:port");
    HostRule { host: host.to_owned(), subdomains: false, port: Some(port.parse().expect("a port")) }
}
