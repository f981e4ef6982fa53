//! The installed servers: where they are, their start and their end.
//!
//! Invariant: a server that is not installed fails the test that wants it, with the command that installs it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use testkit::PATIENCE;

/// What belongs to these tests in the checkout.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent");

/// A path below the target directory, which must be there.
pub(crate) fn installed(path: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory");
    let path = target.join(path);
    assert!(
        path.exists(),
        "{} is missing: `cargo xtask independent` installs what these tests need (by {HERE}/install/install.py) and \
         runs them",
        path.display()
    );
    path
}

#[expect(clippy::disallowed_methods, reason = "a test's server is no process of the runtime")]
fn program(path: &Path) -> Command {
    Command::new(path)
}

fn python() -> Command {
    program(&installed("independent/python/bin/python"))
}

/// A server on 127.0.0.1, which ends with the value, and with the test's process whichever way that ends.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// aimock with these fixtures, which are a file's content.
    pub(crate) fn aimock(fixtures: &serde_json::Value) -> Self {
        let home = testkit::scratch();
        let file = home.path().join("fixtures.json");
        std::fs::write(&file, fixtures.to_string()).expect("writes");
        let modules = installed("independent/node_modules");
        let mut node = program(Path::new("node"));
        node.arg(format!("{HERE}/serve_aimock.mjs")).arg(modules.parent().expect("it lies in one")).arg(file);
        Self::start(node)
    }

    /// llama.cpp with the small model of the tests.
    pub(crate) fn llama() -> Self {
        let mut llama = python();
        llama.arg(format!("{HERE}/serve_llama.py")).arg(weights());
        Self::start(llama)
    }

    /// Starts it and waits until it says where it listens.
    fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        let (sender, first_line) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = stdout.read_line(&mut line);
            drop(sender.send(read.map(|_| line)));
            // Whatever comes later is not wanted, but the server must not be stopped by a full pipe.
            drop(std::io::copy(&mut stdout, &mut std::io::sink()));
        });
        let line = first_line.recv_timeout(PATIENCE).expect("it says something in time").expect("reads");
        let url = line.trim().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{command:?} said {line:?} and not where it listens");
        Self { child, url }
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        self.url.strip_prefix("http://").expect("it was looked at when it started")
    }

    /// The base URL in the manner of OpenAI's clients.
    pub(crate) fn openai_url(&self) -> String {
        format!("{}/v1", self.url)
    }

    /// The base URL in the manner of Anthropic's clients.
    pub(crate) fn anthropic_url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// The weights of the tests' small model.
pub(crate) fn weights() -> PathBuf {
    installed("models/smollm2-135m-instruct.gguf")
}

/// What `judge.py` says of each request, given as the line that it reads; nothing where a request is right.
pub(crate) fn judge(requests: &[String]) -> Vec<String> {
    let mut judge = python();
    let judge = judge.arg(format!("{HERE}/judge.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = judge.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let lines = requests.join("\n");
    let feeding = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    feeding.join().expect("no panic").expect("it reads everything");
    assert!(output.status.success(), "judge.py ended with {}", output.status);
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let verdicts: Vec<String> =
        said.lines().map(|line| serde_json::from_str(line).expect("a JSON string")).collect();
    assert_eq!(verdicts.len(), requests.len(), "one for each");
    verdicts
}
