//! The goal of the matrix: three children at once, one more that asks a person, appends, a plain write, and an agent
//! with a mailbox beside it, to which the goal writes and whose reply it waits for.
//!
//! Invariant: what the model says depends on the conversation alone, so that asking again gives the same.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tempfile::TempDir;
use testkit::{DaemonBuilder, ModelServer, Script, SeenRequest, Turn, scratch};

/// Children of the one batch.
const PARTS: usize = 3;
/// Names the lead's system prompt.
const LEAD_MARK: &str = "You are the lead.";
/// Names the keeper's system prompt.
const KEEPER_MARK: &str = "You are the keeper.";

/// What the goal writes to the keeper.
pub(crate) const ASKED: &str = "what time is it?";

/// The agent with a mailbox.
pub(crate) const KEEPER: &str = "name: keeper\nmodel: fast\nsystem_prompt: You are the keeper.\nlifecycle: \
                                 persistent\ncapabilities: [\"tool: echo\"]\n";

/// A working directory, a model, and a daemon to be started on them.
pub(crate) struct Stage {
    pub(crate) work: TempDir,
    pub(crate) models: ModelServer,
}

impl Stage {
    pub(crate) fn new() -> (Self, DaemonBuilder) {
        let work = scratch();
        let at = |name: &str| work.path().join("out").join(name);
        std::fs::create_dir(work.path().join("out")).expect("makes it");
        for n in 0..PARTS {
            std::fs::write(at(&format!("part-{n}")), "head\n").expect("writes");
        }
        std::fs::write(at("log"), "log\n").expect("writes");
        let models = ModelServer::start(script(&work));
        let builder = DaemonBuilder::openai(&models);
        (Self { work, models }, builder)
    }

    /// What `goal.submit` is sent; its key makes it the same goal however often.
    pub(crate) fn goal(&self) -> Value {
        let work = self.work.path().display();
        let grants = [
            format!("file_read: {work}/*"),
            format!("file_write: {work}/out/*"),
            "tool: *".into(),
            "spawn_child: [*]".into(),
            "message_send: [keeper]".into(),
        ];
        let manifest = "name: lead\nmodel: smart\nchild_models: [fast]\nsystem_prompt: You are the lead.\n";
        json!({ "goal": "do it", "client_key": "matrix", "manifest": manifest, "grants": grants,
                "outputs": [format!("{work}/out/report")], "working_directory": work.to_string() })
    }

    /// What lies in `out`, by name.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let listing = std::fs::read_dir(self.work.path().join("out")).expect("lists");
        let paths: Vec<PathBuf> = listing.map(|entry| entry.expect("reads").path()).collect();
        let read = |path: &PathBuf| std::fs::read_to_string(path).expect("reads");
        let name = |path: &PathBuf| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        paths.iter().map(|path| (name(path), read(path))).collect()
    }
}

fn child(name: &str, path: &str, more: &str, message: &str) -> Value {
    let manifest = format!(
        "name: {name}\nmodel: fast\nsystem_prompt: You are the {name}.\n{more}capabilities: [\"tool: file_write\", \
         \"file_write: {path}\"]\n"
    );
    json!({ "manifest": manifest, "message": message })
}

fn script(work: &TempDir) -> Script {
    let below = format!("{}/out/*", work.path().display());
    let at = |name: &str| format!("{}/out/{name}", work.path().display());
    let parts: Vec<Value> =
        (0..PARTS).map(|n| child(&format!("part-{n}"), &below, "", "Append your part.")).collect();
    let asker = child("asker", &below, "approval_required: [file_write]\n", "Ask, then write.");
    let write = |name: &str, content: &str, append: bool| {
        Turn::call("file_write", json!({ "path": at(name), "content": content, "append": append }))
    };
    let lead = [
        Turn::call("spawn_agents", json!({ "children": parts })),
        Turn::call("spawn_agent", asker),
        // Longer than any case may take, so that the reply is always in the result.
        Turn::call("send_message", json!({ "to": "keeper", "message": ASKED, "wait_seconds": 600 })),
        write("log", "appended\n", true),
        write("report", "the report\n", false),
    ];
    let parts: Vec<Turn> =
        (0..PARTS).map(|n| write(&format!("part-{n}"), &format!("line {n}\n"), true)).collect();
    let asked = write("asked", "approved\n", false);
    Script::dynamic(move |seen: &SeenRequest| {
        let said = seen.replies_so_far();
        if seen.system.contains(LEAD_MARK) {
            return lead.get(said).cloned().unwrap_or_else(|| Turn::say("all is done"));
        }
        if seen.system.contains(KEEPER_MARK) {
            return keep(seen);
        }
        let part = (0..PARTS).find(|n| seen.system.contains(&format!("part-{n}")));
        match said {
            0 => part.map_or(asked.clone(), |n| parts[n].clone()),
            _ => Turn::say("written"),
        }
    })
}

/// Echoes a message by the tool, then answers it.
fn keep(seen: &SeenRequest) -> Turn {
    let message = seen.messages.iter().rfind(|message| message.role == "user").expect("a message");
    let lines: Vec<&str> = message.text.lines().collect();
    // An agent's message stands between two lines of the runtime.
    let words = match lines.as_slice() {
        [first, .., words, _] if first.starts_with("BEGIN AGENT MESSAGE") => *words,
        _ => message.text.as_str(),
    };
    match seen.messages.last() {
        Some(last) if last.role == "user" => Turn::call("echo", json!({ "message": words })),
        _ => Turn::say(format!("re: {words}")),
    }
}
