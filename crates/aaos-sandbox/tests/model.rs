//! The process of a local model: what it cannot do, with the same attempts outside as the control, and what becomes of
//! it where it or its weights are hostile.
//!
//! The model is a stub; what surrounds it is what surrounds the real one.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use aaos_confine::run_probes;
use aaos_core::confinement::{Boundary, ConfinementPolicy, ProbeResult};
use aaos_core::model::{Message, ModelRequest};
use aaos_core::name::ModelName;
use aaos_core::path::AbsPath;
use aaos_core::quantity::{Bytes, Millis, Tokens};
use aaos_core::wire::{
    LocalSetup, LocalTask, ModelsReply, ModelsRequest, ProbeAttempt, RequestSerial, decode_frame,
    encode_frame, frame_length,
};
use aaos_sandbox::{LocalModel, OutOfMemory, Sandbox, SandboxError, ZygoteSeed};
use tempfile::TempDir;
use testkit::{PATIENCE, scratch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let exe = test.parent().and_then(Path::parent).expect("a profile's folder").join(name);
    assert!(exe.is_file(), "{} is missing: run `cargo build --workspace --examples` first", exe.display());
    exe
}

/// A launcher and weights.
struct Bench {
    sandbox: Sandbox,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let seed = ZygoteSeed::start(&built("aaos-worker"), None).expect("a zygote");
        let seed = seed.with_model(&built("examples/model_stub")).expect("its program");
        let sandbox = Sandbox::adopt(seed, ConfinementPolicy::default()).expect("adopted");
        Self { sandbox, folder: scratch() }
    }

    fn weights(&self, text: &str) -> (OwnedFd, Bytes) {
        let path = self.folder.path().join("weights.gguf");
        fs::write(&path, text).expect("written");
        let file = fs::File::open(&path).expect("opened");
        (file.into(), Bytes(text.len() as u64))
    }

    async fn load(&self, text: &str) -> Result<LocalModel, SandboxError> {
        let (weights, file_bytes) = self.weights(text);
        let locked = self.sandbox.lock_model(file_bytes, 2).await?;
        for boundary in ConfinementPolicy::default().require {
            assert!(locked.receipt().evidence(boundary).is_proof(), "{boundary:?}: {:#?}", locked.receipt());
        }
        let setup = LocalSetup { task: LocalTask::Serve, file_bytes, window: Tokens(4_096), threads: 2 };
        locked.load(weights, &setup).await
    }
}

fn ask(text: &str) -> Vec<u8> {
    let request = ModelRequest {
        model: ModelName::parse("stub").expect("a name"),
        system: String::new(),
        messages: vec![Message::User { text: text.to_owned() }],
        tools: Vec::new(),
        max_output_tokens: Tokens(10),
        narrowed: None,
    };
    let ask =
        ModelsRequest::Ask { serial: RequestSerial(1), request: Box::new(request), time: Millis(60_000) };
    encode_frame(&ask).expect("small")
}

/// The text of its answer; an error where it gives none.
async fn answer(model: &mut LocalModel, text: &str) -> std::io::Result<String> {
    model.stream.write_all(&ask(text)).await?;
    loop {
        let mut header = [0; 4];
        model.stream.read_exact(&mut header).await?;
        let mut body = vec![0; frame_length(header).map_err(std::io::Error::other)?];
        model.stream.read_exact(&mut body).await?;
        if let ModelsReply::Done { reply, .. } = decode_frame(&body).map_err(std::io::Error::other)? {
            return Ok(reply.text);
        }
    }
}

/// A process of the test's own uid that may be traced and signalled.
struct Target(Child);

impl Target {
    #[expect(clippy::disallowed_methods, reason = "the test starts and kills a whole process")]
    fn start() -> Self {
        Self(Command::new("/bin/sleep").arg("1000").spawn().expect("sleep starts"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.0.kill().expect("it still runs");
        self.0.wait().expect("reaped");
    }
}

fn attempts(victim: u32, neighbour: &Path) -> Vec<ProbeAttempt> {
    let path = |text: &str| AbsPath::parse(text).expect("an absolute path");
    vec![
        ProbeAttempt::Open(path("/etc/passwd")),
        ProbeAttempt::Open(path(neighbour.to_str().expect("a plain path"))),
        ProbeAttempt::Open(path("/")),
        ProbeAttempt::Stat(path("/")),
        ProbeAttempt::UnixSocket,
        ProbeAttempt::UnixDatagramPair,
        ProbeAttempt::InetSocket,
        ProbeAttempt::Exec(path("/bin/true")),
        ProbeAttempt::Ptrace(victim),
        ProbeAttempt::Signal(victim),
        ProbeAttempt::Fork,
        ProbeAttempt::UserNamespace,
        ProbeAttempt::Bpf,
        ProbeAttempt::SetUid,
        ProbeAttempt::ExtraDescriptors,
    ]
}

/// What an ordinary user may not do outside either: no control is possible.
fn is_roots_alone(control: &ProbeResult) -> bool {
    let by_user = ["bpf(MAP_CREATE)", "setuid(0)", "unshare(CLONE_NEWUSER)"];
    !rustix::process::geteuid().is_root() && by_user.contains(&control.attempt.as_str())
}

#[tokio::test]
async fn a_model_has_no_socket_no_path_and_no_other_process() {
    let bench = Bench::new();
    let victim = Target::start();
    let neighbour = bench.folder.path().join("weights.gguf");
    let mut model = bench.load("GGUF plain").await.expect("loaded");
    assert_eq!(model.facts.name.as_deref(), Some("stub\\u{1b}[2J of 2 threads"), "made harmless");
    let attempts = attempts(victim.0.id(), &neighbour);
    let outside = run_probes(&attempts);
    let words = format!("{} [probe]", serde_json::to_string(&attempts).expect("plain"));
    let inside = answer(&mut model, &words).await.expect("answered");
    let inside: Vec<ProbeResult> = serde_json::from_str(&inside).expect("results");
    assert_eq!(inside.len(), outside.len());
    for (inside, outside) in inside.iter().zip(&outside) {
        assert!(inside.refused, "{inside:?}");
        assert!(!outside.refused || is_roots_alone(outside), "the control must succeed: {outside:?}");
    }
    let evidence = |boundary| model.receipt.evidence(boundary);
    let given = bench.sandbox.abilities().await.expect("known").namespaces;
    for boundary in given.boundaries() {
        assert!(evidence(boundary).is_proof(), "{boundary:?}: {:#?}", model.receipt);
    }
    assert!(!rustix::process::geteuid().is_root() || evidence(Boundary::OwnUid).is_proof());
    assert_eq!(answer(&mut model, "and goes on").await.expect("answered"), "and goes on");
    bench.sandbox.shutdown().await;
}

#[tokio::test]
async fn weights_that_do_harm_end_in_an_error_that_says_how() {
    let bench = Bench::new();
    let error = bench.load("GGUF [unusable]").await.expect_err("refused");
    let words = error.to_string();
    assert!(matches!(error, SandboxError::Weights(_)), "{error:?}");
    assert!(words.contains("mamba is not known") && !words.contains('\x1b'), "{words}");
    let died = bench.load("GGUF [die]").await.expect_err("died");
    assert!(matches!(died, SandboxError::DiedLoading { .. }), "{died:?}");
    assert!(died.to_string().contains("as it was told to"), "{died}");
    let garbage = bench.load("GGUF [garbage]").await.expect_err("no frame");
    assert!(matches!(garbage, SandboxError::Frame(_)), "{garbage:?}");
    let giant = bench.load("GGUF [giant]").await.expect_err("too long a frame");
    assert!(matches!(giant, SandboxError::Frame(_)), "{giant:?}");
    let twice = bench.load("GGUF [twice]").await.expect_err("out of turn");
    assert!(matches!(twice, SandboxError::Protocol { .. }), "{twice:?}");
    let mut fine = bench.load("GGUF plain").await.expect("the control");
    assert_eq!(answer(&mut fine, "hello").await.expect("answered"), "hello");
    bench.sandbox.shutdown().await;
}

/// Where the machine has control groups the kernel ends it, else the daemon's watch.
#[tokio::test]
async fn a_model_over_its_memory_is_ended_and_that_is_told() {
    for how in ["[grow]", "[hide]"] {
        let bench = Bench::new();
        let mut model = bench.load("GGUF plain").await.expect("loaded");
        assert_eq!(answer(&mut model, "little").await.expect("answered"), "little", "the control");
        let lost = tokio::time::timeout(PATIENCE, answer(&mut model, how)).await.expect("ended");
        assert!(lost.is_err(), "{lost:?}");
        let end = model.process.stop().await;
        assert!(matches!(end.out_of_memory, Some(OutOfMemory::Limit(_))), "{how}: {end:?}");
        assert!(end.reason.contains("out of memory: limit 128 MiB"), "{how}: {end:?}");
        bench.sandbox.shutdown().await;
    }
}

#[tokio::test]
async fn without_a_program_there_is_no_model() {
    let seed = ZygoteSeed::start(&built("aaos-worker"), None).expect("a zygote");
    let sandbox = Sandbox::adopt(seed, ConfinementPolicy::default()).expect("adopted");
    assert!(!sandbox.has_model_program());
    let error = sandbox.lock_model(Bytes(1), 1).await.expect_err("no program");
    assert!(error.to_string().contains("no program of local models"), "{error}");
    sandbox.shutdown().await;
    let bench = Bench::new();
    assert!(bench.sandbox.has_model_program());
    let error = bench.sandbox.lock_model(Bytes(u64::MAX), 1).await.expect_err("too large");
    assert!(error.to_string().contains("larger than any"), "{error}");
    bench.sandbox.shutdown().await;
}
