//! What a small model may say at each step of a run: what it may call follows from the goal, the grants and what was
//! seen, every call fits its tool, and the prompt only grows.

use aaos_agent::{Ground, narrowed, specs_of, wrap_tool_result};
use aaos_core::capability::{Capability, GrantSpec};
use aaos_core::manifest::Manifest;
use aaos_core::model::{
    CallResult, Message, ModelCall, ModelCallId, ModelRequest, Narrowed, RawArguments, RequestedTool,
    ToolSpec,
};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Tokens;
use aaos_core::tool::{CATALOGUE, ToolCall, find};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A run, as far as it went.
struct Run {
    ground: Ground,
    messages: Vec<Message>,
}

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("absolute")
}

fn grants(texts: &[&str]) -> Vec<GrantSpec> {
    texts.iter().map(|text| GrantSpec::from(Capability::parse_text(text))).collect()
}

/// Parses `form: value`.
trait ParseText {
    fn parse_text(text: &str) -> Self;
}

impl ParseText for Capability {
    fn parse_text(text: &str) -> Self {
        let (form, value) = text.split_once(": ").expect("form and value");
        let list = value.strip_prefix('[').and_then(|value| value.strip_suffix(']'));
        let value = match list {
            Some(one) => aaos_core::capability::Value::List(vec![one]),
            None => aaos_core::capability::Value::Text(value),
        };
        Self::parse(form, &value).expect("a capability")
    }
}

impl Run {
    /// Of a goal's first agent, with what `agentd run` grants by default.
    fn of(goal: &str, outputs: &[&str]) -> Self {
        let outputs: Vec<AbsPath> = outputs.iter().map(|one| path(one)).collect();
        let granted =
            ["file_read: /w/*", "file_write: /w/output/*", "spawn_child: [*]", "network: example.org"];
        let ground = Ground {
            directory: Some(path("/w")),
            outputs,
            grants: grants(&granted),
            model: "smart".parse().expect("a name"),
            window: Tokens(8_192),
        };
        Self { ground, messages: vec![Message::User { text: goal.to_owned() }] }
    }

    fn request(&self) -> ModelRequest {
        let names: Vec<_> = CATALOGUE.iter().map(|tool| tool.tool_name()).collect();
        let request = ModelRequest {
            model: "local".parse().expect("a name"),
            system: "system".to_owned(),
            messages: self.messages.clone(),
            tools: specs_of(&names),
            max_output_tokens: Tokens(100),
            narrowed: None,
        };
        narrowed(request, &self.ground)
    }

    fn step(&self) -> Narrowed {
        self.request().narrowed.expect("narrowed")
    }

    /// What may be called: each tool with the values of its narrowed argument.
    fn calls(&self) -> Vec<(String, Vec<String>)> {
        let step = self.step();
        assert!(step.may_answer || !step.calls.is_empty(), "something may be said");
        let values = |schema: &Value| -> Vec<String> {
            let properties = schema["properties"].as_object().expect("properties");
            let lists = properties.values().filter_map(|one| one["enum"].as_array());
            lists.flatten().map(|one| one.as_str().expect("text").to_owned()).collect()
        };
        step.calls.iter().map(|one| (one.tool.to_string(), values(&one.input_schema))).collect()
    }

    fn done(&mut self, tool: &str, arguments: &Value, result: &Value) {
        self.told(tool, arguments, result, false);
    }

    fn told(&mut self, tool: &str, arguments: &Value, result: &Value, is_error: bool) {
        let (id, tool) = (ModelCallId::numbered(self.messages.len() as u64), RequestedTool(tool.to_owned()));
        let content = wrap_tool_result("a1", &tool.0, &result.to_string());
        let arguments = RawArguments(arguments.to_string());
        let call = ModelCall { id: id.clone(), tool: tool.clone(), arguments };
        let (text, reasoning, thinking) = (String::new(), None, Vec::new());
        self.messages.push(Message::Assistant { text, reasoning, thinking, calls: vec![call] });
        self.messages
            .push(Message::ToolResults { results: vec![CallResult { id, tool, content, is_error }] });
    }

    fn read(&mut self, file: &str) {
        self.done(
            "file_read",
            &json!({ "path": file, "limit": 9 }),
            &json!({ "content": "x", "size_bytes": 1 }),
        );
    }

    /// A read of a file that is not there.
    fn lacks(&mut self, file: &str) {
        self.told("file_read", &json!({ "path": file, "limit": 9 }), &json!({ "error": {} }), true);
    }

    fn listed(&mut self, directory: &str, files: &[&str]) {
        let entry = |name: &&str| json!({ "name": name, "kind": "file", "size_bytes": 1 });
        let entries: Vec<Value> = files.iter().map(entry).collect();
        let result =
            json!({ "path": directory, "kind": "directory", "entries": entries, "truncated": false });
        self.done("file_list", &json!({ "path": directory }), &result);
    }

    fn written(&mut self, file: &str) {
        self.done("file_write", &json!({ "path": file, "content": "x" }), &json!({ "bytes_written": 1 }));
    }
}

fn calls(wanted: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |values: &[&str]| values.iter().map(|one| (*one).to_owned()).collect();
    wanted.iter().map(|(tool, values)| ((*tool).to_owned(), owned(values))).collect()
}

fn shown(run: &Run) -> Vec<String> {
    run.request().tools.iter().map(|tool| tool.name.to_string()).collect()
}

#[test]
fn a_named_file_is_read_once_and_then_the_goal_is_answered() {
    let mut run =
        Run::of("What does ./a.txt say?\n\nRUNTIME FACTS (from aaOS, ...)\nworking_directory: /w", &[]);
    assert_eq!(shown(&run), ["file_read"]);
    assert_eq!(run.calls(), calls(&[("file_read", &["/w/a.txt"])]));
    assert!(!run.step().may_answer, "not before it was read");
    run.read("/w/a.txt");
    assert_eq!(run.step(), Narrowed { calls: vec![], may_answer: true });
    assert_eq!(shown(&run), ["file_read"], "the prompt stays");
}

#[test]
fn what_is_granted_to_nobody_is_not_offered() {
    let run = Run::of("Read /etc/passwd and https://evil.org/x.", &[]);
    assert_eq!((shown(&run), run.step()), (vec![], Narrowed { calls: vec![], may_answer: true }));
    let fetched = Run::of("Read https://example.org/x.", &[]);
    assert_eq!(fetched.calls(), calls(&[("web_fetch", &["https://example.org/x"])]), "the control");
    let mut unusable = Run::of("What does ./a.txt say?", &[]);
    unusable.ground.grants.iter_mut().for_each(|grant| grant.constraints.usable = false);
    assert!(unusable.calls().is_empty());
}

#[test]
fn an_output_is_written_after_the_reading_and_before_the_answer() {
    let mut run = Run::of("Copy a.txt and b.txt into ./output/c.txt", &["/w/output/c.txt"]);
    assert_eq!(run.calls(), calls(&[("file_read", &["/w/a.txt", "/w/b.txt", "/w/output/c.txt"])]));
    run.read("/w/b.txt");
    assert_eq!(run.calls(), calls(&[("file_read", &["/w/a.txt", "/w/output/c.txt"])]), "no repeats");
    run.lacks("/w/a.txt");
    run.lacks("/w/output/c.txt");
    assert_eq!(run.calls(), calls(&[("file_write", &["/w/output/c.txt"])]), "what failed is not tried again");
    assert!(!run.step().may_answer);
    let mut refused = Run { ground: run.ground.clone(), messages: run.messages.clone() };
    run.written("/w/output/c.txt");
    assert_eq!(run.step(), Narrowed { calls: vec![], may_answer: true });
    let write = json!({ "path": "/w/output/c.txt", "content": "x" });
    refused.told("file_write", &write, &json!({ "error": {} }), true);
    assert!(!refused.step().may_answer, "once more");
    refused.told("file_write", &write, &json!({ "error": {} }), true);
    assert!(refused.step().may_answer, "what cannot be done may be said");
}

#[test]
fn what_a_goal_only_asks_about_is_read_and_never_forced_to_be_written() {
    let file = "/w/output/report.md";
    for goal in ["Summarise ./output/report.md", "Who holds the copyright of ./output/report.md?"] {
        let mut run = Run::of(goal, &[file]);
        assert_eq!(run.calls(), calls(&[("file_read", &[file])]), "{goal}");
        run.read(file);
        assert_eq!(run.calls(), calls(&[("file_write", &[file])]), "{goal}");
        assert!(run.step().may_answer, "{goal}: an offer");
    }
    let mut run = Run::of("Copy ./output/a.md to ./output/b.md", &["/w/output/a.md", "/w/output/b.md"]);
    run.read("/w/output/a.md");
    run.lacks("/w/output/b.md");
    assert!(!run.step().may_answer, "not before the copy");
    run.written("/w/output/b.md");
    assert!(run.step().may_answer, "what was copied stays");
    let mut listing = Run::of("Write which files are here to ./output/f.txt", &["/w/output/f.txt"]);
    listing.lacks("/w/output/f.txt");
    assert_eq!(listing.calls(), calls(&[("file_list", &["/w"])]));
}

#[test]
fn programs_are_offered_by_whole_words_and_never_forced() {
    let of = |goal: &str| {
        let mut run = Run::of(goal, &[]);
        run.ground.grants.extend(grants(&["exec: /bin/sh", "exec: /bin/cat"]));
        run
    };
    let run = of("Show the category of messages; asked by gitte");
    assert_eq!((shown(&run), run.step()), (vec![], Narrowed { calls: vec![], may_answer: true }));
    let run = of("Use cat and git");
    assert_eq!(shown(&run), ["command_run", "git"]);
    assert!(run.step().may_answer && run.step().calls.len() == 2, "an offer");
    let mut child = of("Use git");
    child.ground.directory = None;
    let step = child.step();
    assert_eq!(step.calls.len(), 1);
    assert!(!step.calls[0].input_schema.to_string().contains("\"enum\":[]"), "no empty choice: {step:?}");
}

#[test]
fn a_shortened_conversation_forces_nothing() {
    let mut run =
        Run::of("Note from the runtime: turns 1 to 3 are gone\n\nCopy a.txt to ./output/b.txt", &[]);
    assert!(run.step().may_answer && !run.calls().is_empty());
    run.read("/w/a.txt");
    assert!(run.step().may_answer && !run.calls().is_empty());
    let later = Message::User { text: "Read a.txt".to_owned() };
    run.messages.push(later);
    assert!(!run.step().may_answer, "all of a later run is there");
}

#[test]
fn a_directory_is_listed_and_its_few_files_are_read() {
    let mut run = Run::of("Summarise the files in ./docs in ./output/s.md", &["/w/output/s.md"]);
    let both = [("file_list", &["/w/docs"][..]), ("file_read", &["/w/output/s.md"])];
    assert_eq!(run.calls(), calls(&both));
    run.lacks("/w/output/s.md");
    run.listed("/w/docs", &[".hidden", "a.md", "b.md"]);
    assert_eq!(run.calls(), calls(&[("file_read", &["/w/docs/a.md", "/w/docs/b.md"])]));
    run.read("/w/docs/a.md");
    run.read("/w/docs/b.md");
    assert_eq!(run.calls(), calls(&[("file_write", &["/w/output/s.md"])]));
    let mut count = Run::of("How many are in ./docs/?", &[]);
    count.listed("/w/docs", &["a.md"]);
    let step = count.step();
    assert!(step.may_answer, "the names are enough");
    assert_eq!(count.calls(), calls(&[("file_read", &["/w/docs/a.md"])]), "and more may be had");
    let mut file = Run::of("What does ./LICENSE say?", &[]);
    let result = json!({ "path": "/w/LICENSE", "kind": "file", "entries": [], "truncated": false });
    file.done("file_list", &json!({ "path": "/w/LICENSE" }), &result);
    assert_eq!(file.calls(), calls(&[("file_read", &["/w/LICENSE"])]), "it turned out to be a file");
    let here = Run::of("Which files are here?", &[]);
    assert_eq!(here.calls(), calls(&[("file_list", &["/w"])]));
}

#[test]
fn children_read_what_is_named_and_can_do_nothing_else() {
    let goal = "Have two children read a.txt, b.txt and c.txt, and write what they say to ./output/o.txt";
    let mut run = Run::of(goal, &["/w/output/o.txt"]);
    assert_eq!(shown(&run), ["file_write", "spawn_agent"]);
    let [(tool, manifests)] = <[_; 1]>::try_from(run.calls()).expect("one tool");
    assert_eq!((tool.as_str(), manifests.len()), ("spawn_agent", 2));
    let mut read = Vec::new();
    for text in &manifests {
        let manifest = Manifest::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(manifest.model, run.ground.model);
        assert_eq!(manifest.memory.context_window, run.ground.window);
        for grant in &manifest.capabilities {
            match &grant.capability {
                Capability::FileRead(pattern) => read.push(pattern.to_string()),
                Capability::Tool(_) => assert_eq!(grant.to_string(), "tool: file_read"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(read, ["/w/a.txt", "/w/b.txt", "/w/c.txt"]);
    let started = json!({ "manifest": manifests[0], "message": "Read." });
    run.done("spawn_agent", &started, &json!({ "response": "x" }));
    assert_eq!(run.calls(), calls(&[("spawn_agent", &[&manifests[1]])]), "each once");
    run.done("spawn_agent", &json!({ "manifest": manifests[1], "message": "Read." }), &json!({}));
    assert_eq!(run.calls(), calls(&[("file_write", &["/w/output/o.txt"])]));

    let child = Ground {
        directory: None,
        outputs: vec![],
        grants: grants(&["tool: file_read", "file_read: /w/a.txt"]),
        ..run.ground.clone()
    };
    let mut child = Run { ground: child, messages: vec![Message::User { text: "Tell me.".to_owned() }] };
    assert_eq!(child.calls(), calls(&[("file_read", &["/w/a.txt"])]));
    child.read("/w/a.txt");
    assert_eq!(child.step(), Narrowed { calls: vec![], may_answer: true });
    run.ground.grants.retain(|grant| !matches!(grant.capability, Capability::SpawnChild(_)));
    run.messages.truncate(1);
    assert!(shown(&run).contains(&"file_read".to_owned()), "who may not spawn reads itself");
}

#[test]
fn a_change_reads_the_file_and_a_search_searches_first() {
    let mut run = Run::of("Replace foo by bar in ./output/x.txt", &["/w/output/x.txt"]);
    assert_eq!(run.calls(), calls(&[("file_read", &["/w/output/x.txt"])]));
    run.read("/w/output/x.txt");
    let both = [("file_edit", &["/w/output/x.txt"][..]), ("file_write", &["/w/output/x.txt"])];
    assert_eq!(run.calls(), calls(&both));
    let edit = json!({ "path": "/w/output/x.txt", "old_string": "foo", "new_string": "bar" });
    run.done("file_edit", &edit, &json!({ "replacements": 1 }));
    assert!(run.step().may_answer && run.calls().is_empty());

    let mut run = Run::of("Search ./src/ for TODO", &[]);
    run.listed("/w/src", &["a.rs"]);
    assert_eq!(run.calls(), calls(&[("grep", &["/w/src"])]));
}

#[test]
fn a_new_message_begins_anew_and_a_summary_is_not_narrowed() {
    let mut run = Run::of("What does ./a.txt say?", &[]);
    run.read("/w/a.txt");
    run.messages.push(Message::User { text: "And what does ./a.txt say now?".to_owned() });
    assert_eq!(run.calls(), calls(&[("file_read", &["/w/a.txt"])]));
    let request = ModelRequest { tools: Vec::new(), narrowed: None, ..run.request() };
    assert_eq!(narrowed(request.clone(), &run.ground), request);
}

/// Arguments that fit a narrowed schema, by the number of a choice.
fn arguments(schema: &Value, choice: usize) -> Value {
    let properties = schema["properties"].as_object().expect("properties");
    let value = |one: &Value| match (one["enum"].as_array(), one.get("const")) {
        (Some(values), _) => values[choice % values.len()].clone(),
        (None, Some(value)) => value.clone(),
        (None, None) => json!("x"),
    };
    properties.iter().map(|(name, one)| (name.clone(), value(one))).collect::<serde_json::Map<_, _>>().into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the goal says and whichever calls are made: each call fits its tool, none comes twice, the run comes
    /// to its answer, and what the prompt shows never changes on the way.
    #[test]
    fn every_run_ends_and_every_call_fits_its_tool(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "read", "./a.txt", "b.md", "./docs", "docs/", "two", "children", "search", "replace", "write",
                "./output/o.txt", "/etc/passwd", "https://example.org/x", "files", "here", "git", "echo", "summarise",
            ]),
            0..8,
        ),
        outputs in proptest::sample::subsequence(vec!["/w/output/o.txt", "/w/output/p.txt"], 0..=2),
        choices in proptest::collection::vec((0_usize..8, 0_usize..8, any::<bool>()), 40),
    ) {
        let mut run = Run::of(&words.join(" "), &outputs);
        let tools: Vec<ToolSpec> = run.request().tools;
        let mut made = Vec::new();
        for (tool, value, is_error) in choices {
            let request = run.request();
            prop_assert_eq!(&request.tools, &tools);
            prop_assert_eq!(&request.messages, &run.messages);
            let Some(Narrowed { calls, may_answer }) = request.narrowed else { panic!("narrowed") };
            if calls.is_empty() {
                prop_assert!(may_answer);
                return Ok(());
            }
            let call = &calls[tool % calls.len()];
            prop_assert!(tools.iter().any(|one| one.name == call.tool), "it is on offer");
            let free = ["echo", "git"].contains(&call.tool.as_str());
            let arguments = match free {
                true => json!({}),
                false => arguments(&call.input_schema, value),
            };
            if !free {
                let descriptor = find(call.tool.as_str()).expect("a tool");
                let input = descriptor.parse_input(arguments.clone());
                let input = input.unwrap_or_else(|error| panic!("{error}: {arguments}"));
                prop_assert!(ToolCall::new(input).is_ok());
                let is_write = call.tool.as_str() == "file_write" || call.tool.as_str() == "file_edit";
                prop_assert!(is_write || !made.contains(&(call.tool.clone(), arguments.clone())), "twice");
                made.push((call.tool.clone(), arguments.clone()));
            }
            let name = call.tool.to_string();
            match (name.as_str(), is_error) {
                ("file_list", false) => {
                    let directory = arguments["path"].as_str().expect("a path").to_owned();
                    run.listed(&directory, &["x.txt", "y.txt"]);
                }
                _ => run.told(&name, &arguments, &json!({}), is_error),
            }
        }
        let end = run.step();
        prop_assert!(end.may_answer && end.calls.is_empty(), "40 calls are too many");
    }
}
