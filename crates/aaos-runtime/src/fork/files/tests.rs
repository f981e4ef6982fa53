//! What is made of recorded calls, and what is refused.

use aaos_core::capability::{Capability, Constraints};
use aaos_core::effect::{Access, EffectClass, FileRight, Need};
use aaos_core::event::{Entry, Event, Outcome, content_hash};
use aaos_core::grant::GrantRecord;
use aaos_core::id::{AgentId, CallId, EntryId, GrantId, Seq};
use aaos_core::name::ToolName;
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::{Amounts, Bytes, Millis, Quantity, Timestamp};
use aaos_core::tool::{CATALOGUE, FileChanges};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Calls, Files, ForkRefused, Later};

const WORKSPACE: &str = "/state/workspaces/g";
/// Grants of the workspace and of a directory of the user's.
const INSIDE: u128 = 1;
const OUTSIDE: u128 = 2;

/// Entries as a goal records them.
struct Tale(Vec<Entry>);

impl Tale {
    fn new() -> Self {
        let mut tale = Self(Vec::new());
        tale.grant(INSIDE, WORKSPACE, None);
        tale.grant(OUTSIDE, "/home/out", None);
        tale
    }

    fn add(&mut self, event: Event) -> Seq {
        let seq = Seq(self.0.len() as u64 + 1);
        self.0.push(Entry {
            seq,
            id: EntryId::from_uuid(Uuid::from_u128(u128::from(seq.0))),
            timestamp: Timestamp(1),
            goal_id: None,
            agent_id: None,
            trace_id: None,
            parent_event: None,
            event,
            prev_hash: String::new(),
            hash: String::new(),
        });
        seq
    }

    fn grant(&mut self, number: u128, root: &str, spelled: Option<&str>) {
        let below = |root: &str| PathPattern::parse(&format!("{root}/*")).expect("a pattern");
        let grant = GrantRecord {
            id: GrantId::from_uuid(Uuid::from_u128(number)),
            agent: AgentId::from_uuid(Uuid::from_u128(1)),
            parent: None,
            capability: Capability::FileWrite(below(root)),
            spelled: spelled.map(below),
            constraints: Constraints::default(),
            issued_at: Timestamp(1),
            root: None,
            special: None,
        };
        self.add(Event::CapabilityGranted { grant });
    }

    fn begins(&mut self, tool: &str, under: u128, relative: &str, mut input: Value, at: Option<u64>) -> Seq {
        let path = format!("{}/{relative}", if under == INSIDE { WORKSPACE } else { "/home/out" });
        input["path"] = json!(path);
        let need = Need::File { right: FileRight::Write, path: AbsPath::parse(&path).expect("a path") };
        let access = Access {
            need,
            grant: GrantId::from_uuid(Uuid::from_u128(under)),
            relative: Some(relative.to_owned()),
            hosts: Vec::new(),
            public: false,
            through: Vec::new(),
            world: None,
            no_links: false,
        };
        self.add(Event::ToolInvoked {
            call: self.next_call(),
            tool: ToolName::parse(tool).expect("a name"),
            input,
            class: EffectClass::Keyed,
            access: vec![access],
            denied: Vec::new(),
            charges: Vec::new(),
            model_call: None,
            at: at.map(Bytes),
            repeats: 1,
        })
    }

    fn next_call(&self) -> CallId {
        CallId::from_uuid(Uuid::from_u128(self.0.len() as u128 + 100))
    }

    /// The outcome of the call of the last entry.
    fn ends(
        &mut self,
        outcome: Outcome,
        result: Option<Value>,
        failure: Option<ToolFailureKind>,
        files: u64,
    ) -> Seq {
        let call = CallId::from_uuid(Uuid::from_u128(self.0.len() as u128 + 99));
        let result = result.map(|result| result.to_string());
        let text = result.clone().unwrap_or_default();
        self.add(Event::ToolResult {
            call,
            tool: ToolName::parse("file_write").expect("a name"),
            outcome,
            result_hash: content_hash(text.as_bytes()),
            result_bytes: Bytes(text.len() as u64),
            result,
            failure: failure.map(|kind| ToolFailure::new(kind, "no")),
            worker: None,
            spent: Amounts::of(Quantity::Files, files),
            elapsed: Millis(1),
        })
    }

    fn writes(&mut self, under: u128, relative: &str, content: &str) -> Seq {
        self.begins("file_write", under, relative, json!({ "content": content }), None);
        self.ends(Outcome::Done, Some(json!({ "bytes_written": content.len() })), None, 1)
    }

    fn appends(&mut self, relative: &str, content: &str, at: Option<u64>) -> Seq {
        let input = json!({ "content": content, "append": true });
        self.begins("file_write", INSIDE, relative, input, at);
        self.ends(Outcome::Done, Some(json!({ "bytes_written": content.len() })), None, 1)
    }

    fn edits(&mut self, relative: &str, (old, new): (&str, &str), sizes: [usize; 2]) -> Seq {
        self.begins("file_edit", INSIDE, relative, json!({ "old_string": old, "new_string": new }), None);
        let path = format!("{WORKSPACE}/{relative}");
        let result =
            json!({ "path": path, "replacements": 1, "bytes_before": sizes[0], "bytes_after": sizes[1] });
        self.ends(Outcome::Done, Some(result), None, 1)
    }

    fn files(&self) -> Result<Files, ForkRefused> {
        let mut files = Files::default();
        files.enter(&AbsPath::parse(WORKSPACE).expect("a path"));
        self.0.iter().try_for_each(|entry| files.take(entry))?;
        files.check_unfinished().map(|()| files)
    }
}

fn content(files: &Files) -> Vec<(&str, &str)> {
    files.content().iter().map(|(path, content)| (path.as_str(), content.as_str())).collect()
}

#[test]
fn writes_appends_and_edits_are_made_again_in_their_order() {
    let mut tale = Tale::new();
    tale.writes(INSIDE, "a.md", "one");
    tale.appends("a.md", " two", Some(3));
    tale.appends("deep/b.md", "new", Some(0));
    tale.edits("a.md", ("one", "1"), [7, 5]);
    tale.writes(INSIDE, "deep/../c.md", "old");
    tale.writes(INSIDE, "c.md", "new");
    tale.writes(OUTSIDE, "report.md", "theirs");
    let files = tale.files().expect("they fit");
    assert_eq!(content(&files), [("a.md", "1 two"), ("c.md", "new"), ("deep/b.md", "new")]);
    let wrote = |path: &str| files.has_written(&AbsPath::parse(path).expect("a path"));
    assert!(wrote("/home/out/report.md") && !wrote("/home/out/other.md"));
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |tell: fn(&mut Tale) -> Seq| {
        let mut tale = Tale::new();
        tale.writes(INSIDE, "a.md", "one");
        let expected = tell(&mut tale);
        match tale.files() {
            Err(ForkRefused::DoesNotFit { seq, what }) => assert_eq!(seq, expected, "{what}"),
            other => panic!("{other:?}"),
        }
    };
    refused(|tale| tale.appends("a.md", "two", Some(4)));
    refused(|tale| tale.appends("a.md", "two", None));
    refused(|tale| tale.appends("b.md", "two", Some(4)));
    refused(|tale| tale.edits("a.md", ("one", "1"), [4, 2]));
    refused(|tale| tale.edits("a.md", ("one", "1"), [3, 2]));
    refused(|tale| tale.edits("a.md", ("two", "1"), [3, 1]));
    refused(|tale| tale.edits("b.md", ("one", "1"), [3, 1]));
    refused(|tale| {
        tale.begins("file_write", INSIDE, "a.md", json!({ "content": "two" }), None);
        tale.ends(Outcome::Done, Some(json!({ "bytes_written": 4 })), None, 1)
    });
    let mut tale = Tale::new();
    tale.writes(INSIDE, "a.md", "one");
    tale.appends("a.md", "two", Some(3));
    tale.edits("a.md", ("onetwo", "12"), [6, 2]);
    assert_eq!(content(&tale.files().expect("the control")), [("a.md", "12")]);
}

#[test]
fn an_effect_that_nobody_knows_the_end_of_refuses() {
    let told = |outcome, failure, files| {
        let mut tale = Tale::new();
        let begun = tale.begins("file_write", INSIDE, "a.md", json!({ "content": "one" }), None);
        tale.ends(outcome, None, Some(failure), files);
        match tale.files() {
            Ok(files) => {
                assert!(files.content().is_empty(), "nothing was written");
                false
            }
            Err(ForkRefused::UnknownOutcome { seq, .. }) => seq == begun,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(told(Outcome::Unknown, ToolFailureKind::WorkerLost, 0));
    assert!(told(Outcome::Failed, ToolFailureKind::Revoked, 0), "it may have been written before");
    assert!(told(Outcome::Failed, ToolFailureKind::Io, 1), "a file was written, and then something failed");
    assert!(!told(Outcome::Failed, ToolFailureKind::Io, 0), "the control: it changed nothing");
    assert!(!told(Outcome::Denied, ToolFailureKind::OutsideRoot, 0), "the control: it was not begun");
    let mut tale = Tale::new();
    let begun = tale.begins("file_write", INSIDE, "a.md", json!({ "content": "one" }), None);
    assert!(
        matches!(tale.files(), Err(ForkRefused::UnknownOutcome { seq, .. }) if seq == begun),
        "it is under way"
    );
}

#[test]
fn a_tool_whose_changes_are_not_recorded_refuses_unless_it_was_denied() {
    let told = |outcome| {
        let mut tale = Tale::new();
        let begun = tale.begins("command_run", INSIDE, "a.md", json!({}), None);
        tale.ends(outcome, Some(json!({})), None, 0);
        match tale.files() {
            Ok(_) => false,
            Err(ForkRefused::Unrecorded { seq, tool }) => seq == begun && tool == "command_run",
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(told(Outcome::Done) && told(Outcome::Unknown) && told(Outcome::Failed));
    assert!(!told(Outcome::Denied), "the control: nothing of it ran");
    let mut tale = Tale::new();
    tale.begins("file_list", INSIDE, "a.md", json!({}), None);
    tale.ends(Outcome::Done, Some(json!({})), None, 0);
    assert!(tale.files().is_ok(), "the control: a tool that changes nothing");
}

#[test]
fn every_tool_that_claims_to_be_recorded_is_known_here() {
    let recorded = CATALOGUE.iter().filter(|tool| tool.file_changes == FileChanges::Recorded);
    for tool in recorded {
        let mut tale = Tale::new();
        let input = json!({ "content": "", "old_string": "a", "new_string": "b" });
        let mut input = input.as_object().cloned().expect("an object");
        let schema = tool.input_schema();
        input.retain(|name, _| schema["properties"].get(name).is_some());
        tale.begins(tool.name, INSIDE, "a.md", Value::Object(input), None);
        let mut calls = Calls::default();
        for entry in &tale.0 {
            calls.take(entry).unwrap_or_else(|refused| panic!("{}: {refused}", tool.name));
        }
        assert!(calls.begun.values().all(|begun| begun.change.is_some()), "{}", tool.name);
        assert_eq!(calls.begun.len(), 1);
    }
}

#[test]
fn erased_bodies_refuse_where_they_may_have_told_of_files() {
    for (original, needed) in
        [("tool_invoked", true), ("capability_granted", true), ("usage_reported", false)]
    {
        let mut tale = Tale::new();
        let seq = tale.add(Event::BodyErased { original: original.to_owned() });
        match tale.files() {
            Err(refused) => assert!(needed && refused == ForkRefused::Erased(seq), "{original}: {refused}"),
            Ok(_) => assert!(!needed, "{original}"),
        }
    }
}

#[test]
fn a_workspace_behind_a_link_is_found() {
    let mut tale = Tale(Vec::new());
    tale.grant(INSIDE, "/real/workspaces/g", Some(WORKSPACE));
    tale.writes(INSIDE, "a.md", "one");
    assert_eq!(content(&tale.files().expect("it fits")), [("a.md", "one")]);
}

#[test]
fn later_changes_outside_are_listed_and_those_inside_are_not() {
    let mut tale = Tale::new();
    tale.writes(INSIDE, "a.md", "one");
    let mut files = tale.files().expect("they fit");
    let told = tale.0.len();
    tale.writes(INSIDE, "a.md", "later");
    let report = tale.begins("file_write", OUTSIDE, "report.md", json!({ "content": "x" }), None);
    tale.ends(Outcome::Done, Some(json!({ "bytes_written": 1 })), None, 1);
    tale.begins("file_write", OUTSIDE, "denied.md", json!({ "content": "x" }), None);
    tale.ends(Outcome::Denied, None, Some(ToolFailureKind::OutsideRoot), 0);
    let open = tale.begins("file_write", OUTSIDE, "open.md", json!({ "content": "x" }), None);
    let mut later = Later::default();
    tale.0[told..].iter().for_each(|entry| later.take(&mut files, entry));
    later.finish(&mut files);
    let expected =
        [format!("/home/out/open.md (entry {open})"), format!("/home/out/report.md (entry {report})")];
    assert_eq!(later.list(), expected);
    assert_eq!(content(&files), [("a.md", "one")], "the files stay those of the step");
    let wrote = |path: &str| later.has_written(&AbsPath::parse(path).expect("a path"));
    assert!(wrote("/home/out/report.md") && !wrote("/home/out/denied.md"));
}
