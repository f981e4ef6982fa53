//! The real binary: it locks itself, says so, and can still do its work and nothing else.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Child, Command, Stdio};

use aaos_core::capability::HostRule;
use aaos_core::confinement::LockedReport;
use aaos_core::model::{ModelFailure, ModelFailureKind, ModelReply, ModelRequest};
use aaos_core::name::ProviderName;
use aaos_core::observe::Snapshot;
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::ToolFailureKind;
use aaos_core::wire::{
    EgressReply, EgressRequest, ModelsReply, ModelsRequest, ModelsSetup, ProviderSetup, RequestSerial,
    WireFormat,
};
use testkit::{ModelServer, Page, Script, Turn, WebServer};
use tokio::net::UnixStream;

use crate::common::{Near, tls_server};
use crate::metrics::read_answered;
use crate::models::{LONG, model, provider, request};

/// How a shell becomes the gateway.
const EXECUTED: &str = "exec \"$0\" --role \"$1\" 3<&0 </dev/null";

pub(crate) struct Gateway {
    pub(crate) near: Near,
    pub(crate) child: Child,
    serial: u64,
}

impl Gateway {
    /// Starts a role as the zygote does: the channel on descriptor 3, an empty environment.
    pub(crate) fn start(role: &str) -> Self {
        Self::start_by(EXECUTED, role)
    }

    /// The same, stopped before it is executed: SIGCONT has it go on.
    pub(crate) fn start_stopped(role: &str) -> Self {
        Self::start_by(&format!("kill -STOP $$; {EXECUTED}"), role)
    }

    #[expect(clippy::disallowed_methods, reason = "the test stands in for the zygote")]
    fn start_by(script: &str, role: &str) -> Self {
        let (near, far) = StdStream::pair().expect("a socket pair");
        near.set_nonblocking(true).expect("a socket");
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .args([env!("CARGO_BIN_EXE_aaos-gateway"), role])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(far)))
            .spawn()
            .expect("a shell");
        Self { near: Near(UnixStream::from_std(near).expect("in a runtime")), child, serial: 0 }
    }

    fn next(&mut self) -> RequestSerial {
        self.serial += 1;
        RequestSerial(self.serial)
    }

    /// What the kernel says of the process, beside what it says of itself.
    fn assert_locked(&self, report: &LockedReport) {
        assert!(report.landlock_abi >= 4, "{report:?}");
        assert!(report.seccomp_filter_hash.len() == 64, "{report:?}");
        assert!(report.probes.iter().any(|probe| probe.attempt.contains("open")), "{report:?}");
        assert!(report.probes.iter().all(|probe| probe.refused), "{report:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a field of status");
            line.trim().to_owned()
        };
        assert_eq!((value("NoNewPrivs:").as_str(), value("Seccomp:").as_str()), ("1", "2"));
        assert_eq!(u64::from_str_radix(&value("CapEff:"), 16), Ok(0));
    }

    /// The channel ends, and so does the process, properly.
    pub(crate) fn end(self) {
        let Self { near, mut child, .. } = self;
        drop(near);
        let status = child.wait().expect("our child");
        assert!(status.success(), "{status}");
    }

    pub(crate) async fn ask(&mut self, request: ModelRequest) -> Result<ModelReply, ModelFailure> {
        self.ask_within(request, LONG).await
    }

    async fn ask_within(&mut self, request: ModelRequest, time: Millis) -> Result<ModelReply, ModelFailure> {
        let serial = self.next();
        self.near.send(&ModelsRequest::Ask { serial, request: Box::new(request), time }).await;
        loop {
            match self.near.receive().await {
                ModelsReply::Begun { .. } | ModelsReply::Delta { .. } => {}
                ModelsReply::Done { reply, .. } => return Ok(*reply),
                ModelsReply::Failed { failure, .. } => return Err(failure),
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    async fn begin(&mut self, url: &str, host: &str, port: u16, max_bytes: Bytes) -> File {
        let serial = self.next();
        let page =
            File::from(rustix::fs::memfd_create("page", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd"));
        let hosts = vec![HostRule { host: host.into(), subdomains: false, port: Some(port) }];
        let fetch =
            EgressRequest::Fetch { serial, url: url.into(), max_bytes, hosts, public: false, time: LONG };
        self.near.send_with(&fetch, page.as_fd()).await;
        page
    }

    /// The most memory that the process ever held, bytes.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a field of status");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    async fn fetch(&mut self, url: &str, host: &str, port: u16) -> Result<String, ToolFailureKind> {
        let mut page = self.begin(url, host, port, Bytes(1000)).await;
        match self.near.receive().await {
            EgressReply::Fetched { .. } => {
                let mut body = String::new();
                page.rewind().expect("a memfd");
                page.read_to_string(&mut body).expect("text");
                Ok(body)
            }
            EgressReply::Failed { failure, .. } => Err(failure.kind),
            other => panic!("not about a page: {other:?}"),
        }
    }
}

fn named(name: &str, setup: ProviderSetup) -> ProviderSetup {
    ProviderSetup { name: ProviderName::parse(name).expect("a name"), any_model: true, ..setup }
}

fn to(provider: &str) -> ModelRequest {
    ModelRequest { model: model(&format!("{provider}::m")), ..request() }
}

/// Has the locked `models` role ask every kind of provider.
pub(crate) async fn ask_everybody(gateway: &mut Gateway) {
    let server = ModelServer::start(Script::dynamic(|_| Turn::say("hi")));
    let (tls, _unknown) = tls_server(&["127.0.0.1"]).await;
    let by_name = format!("http://localhost:{}/v1", server.address().port());
    let setup = ModelsSetup {
        providers: vec![
            named("openai", provider(WireFormat::OpenAi, server.openai_url())),
            named("by-name", provider(WireFormat::OpenAi, by_name)),
            named("anthropic", provider(WireFormat::Anthropic, server.anthropic_url())),
            named("secure", provider(WireFormat::OpenAi, format!("https://{tls}/v1"))),
            named("nowhere", provider(WireFormat::OpenAi, "http://no-such-host.aaos.test/v1".into())),
            named("builtin", provider(WireFormat::Builtin, String::new())),
        ],
        aliases: Vec::new(),
        cassette: None,
        metrics: true,
        spans: None,
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let readers = listener.local_addr().expect("it is bound");
    gateway.near.send_with(&setup, listener.as_fd()).await;
    let serial = gateway.next();
    gateway.near.send(&ModelsRequest::Show { serial, snapshot: Box::default() }).await;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let told = read_answered(&mut gateway.near, readers, request, &Snapshot::default()).await;
    assert!(told.starts_with("HTTP/1.1 200 OK"), "{told}");
    for provider in ["openai", "by-name", "anthropic"] {
        assert_eq!(gateway.ask(to(provider)).await.expect("a reply").text, "hi", "{provider}");
    }
    let failure = gateway.ask(to("secure")).await.expect_err("an unknown authority");
    assert_eq!(failure.kind, ModelFailureKind::Rejected, "{failure}");
    // Whoever answers for this machine's name server, asking it is not what the lock-down forbids.
    let failure = gateway.ask_within(to("nowhere"), Millis(3_000)).await.expect_err("no such host");
    assert!(!failure.message.contains("permitted"), "{failure}");
    assert!(matches!(failure.kind, ModelFailureKind::Unavailable | ModelFailureKind::Timeout), "{failure}");
    let planned = gateway.ask(to("builtin")).await;
    let broke_off = |failure: &ModelFailure| failure.kind == ModelFailureKind::MalformedReply;
    assert!(!planned.as_ref().is_err_and(broke_off), "the planner's thread starts: {planned:?}");
}

/// Has the locked `egress` role fetch whatever there is to be had.
pub(crate) async fn fetch_everything(gateway: &mut Gateway) {
    let server = WebServer::start([("/a", Page::Text("page".into()))]);
    let port = server.authority().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let (tls, _unknown) = tls_server(&["127.0.0.1"]).await;
    assert_eq!(gateway.fetch(&server.url("/a"), "127.0.0.1", port).await.as_deref(), Ok("page"));
    let by_name = format!("http://localhost:{port}/a");
    assert_eq!(gateway.fetch(&by_name, "localhost", port).await.as_deref(), Ok("page"));
    let secure = gateway.fetch(&format!("https://{tls}/"), "127.0.0.1", tls.port()).await;
    assert_eq!(secure, Err(ToolFailureKind::Network));
    assert_eq!(gateway.fetch(&server.url("/a"), "127.0.0.1", 1).await, Err(ToolFailureKind::Denied));
}

#[tokio::test]
async fn the_locked_models_role_still_asks_every_kind_of_provider() {
    let mut gateway = Gateway::start("models");
    // It locks itself while nothing was sent to it: a key that it cannot have yet, it cannot lose.
    let ModelsReply::Locked(report) = gateway.near.receive().await else { panic!("not locked") };
    gateway.assert_locked(&report);
    ask_everybody(&mut gateway).await;
    gateway.end();
}

#[tokio::test]
async fn the_locked_egress_role_still_fetches() {
    let mut gateway = Gateway::start("egress");
    let EgressReply::Locked(report) = gateway.near.receive().await else { panic!("not locked") };
    gateway.assert_locked(&report);
    fetch_everything(&mut gateway).await;
    gateway.end();
}

#[tokio::test]
async fn bodies_without_end_take_bounded_memory() {
    const AT_ONCE: u64 = 16;
    const MOST: Bytes = Bytes(2 * 1024 * 1024);
    let server = WebServer::start([("/endless", Page::Huge { total: u64::MAX })]);
    let mut gateway = Gateway::start("egress");
    assert!(matches!(gateway.near.receive().await, EgressReply::Locked(_)));
    let before = gateway.peak_memory();
    let mut pages = Vec::new();
    for _ in 0..AT_ONCE {
        let (url, port) = (server.url("/endless"), server.address().port());
        pages.push(gateway.begin(&url, "127.0.0.1", port, MOST).await);
    }
    let mut received = 0;
    for _ in 0..AT_ONCE {
        let EgressReply::Fetched { bytes, truncated: true, .. } = gateway.near.receive().await else {
            panic!("each body is cut at its cap")
        };
        received += bytes.0;
    }
    // The control: all of it went through, and is held by whoever made the memfds.
    assert_eq!(received, AT_ONCE * MOST.0);
    let grown = gateway.peak_memory() - before;
    assert!(grown < received / 2, "{grown} bytes for bodies of {received}");
    gateway.end();
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test stands in for a person")]
async fn by_hand_it_does_nothing() {
    for arguments in [&[][..], &["--role", "console"], &["--role"], &["models"]] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_aaos-gateway")).args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("started by agentd"));
    }
}
