//! What a person can answer, and what is shown.

use aaos_core::approval::Target;
use aaos_core::id::{AgentId, ApprovalId};
use aaos_core::name::AgentName;
use aaos_core::path::AbsPath;
use aaos_core::quantity::Timestamp;
use aaos_runtime::ApprovalView;
use serde_json::json;
use uuid::Uuid;

use super::{Answer, Dialogue, Respond, Scope, Step, details};

fn dialogue() -> Dialogue {
    Dialogue::new(AbsPath::parse("/here").expect("absolute"))
}

fn talk(lines: &[&str]) -> Step {
    let mut dialogue = dialogue();
    let mut steps = lines.iter().map(|line| dialogue.take(line)).collect::<Vec<_>>();
    steps.pop().expect("a line")
}

fn scoped(below: Option<&str>, uses: u32) -> Step {
    let scope = Scope { below: below.map(str::to_owned), uses: Some(uses), for_goal: false };
    Step::Answer(Answer::Scoped(scope), None)
}

pub(crate) fn asked(number: u128) -> ApprovalView {
    ApprovalView {
        id: ApprovalId::from_uuid(Uuid::from_u128(number)),
        agent_id: AgentId::from_uuid(Uuid::from_u128(1)),
        agent_name: AgentName::parse("writer").expect("a name"),
        goal_id: None,
        description: "agent writer wants to use file_write".to_owned(),
        because: "the manifest asks".to_owned(),
        tool: "file_write".to_owned(),
        input: Some(json!({ "path": "/out/a\u{1b}[2J", "content": "evil\u{202e}txt" })),
        grants: vec!["file_write: /out/*".to_owned()],
        targets: vec![Target {
            path: "/out/a".to_owned(),
            root: "/out".to_owned(),
            place: "/real/a".to_owned(),
            content_hash: Some("ab12".to_owned()),
        }],
        timestamp: Timestamp(1_000),
        deadline: Timestamp(61_000),
    }
}

#[test]
fn only_a_plain_yes_or_a_scope_approves() {
    for yes in ["y", "Y", "yes", " y "] {
        assert_eq!(talk(&[yes]), Step::Answer(Answer::Once, None), "{yes}");
    }
    for not in ["", "ye", "yy", "y please", "ok", "1", "\u{1b}[A", "approve", "yes!", "s /out/*", "Yn"] {
        assert!(matches!(talk(&[not]), Step::Ask(Some(_))), "{not:?}");
    }
    assert_eq!(talk(&["n"]), Step::Answer(Answer::Deny, None));
    assert_eq!(talk(&["no  too much "]), Step::Answer(Answer::Deny, Some("too much".to_owned())));
    assert_eq!(
        [talk(&["d"]), talk(&["l"]), talk(&["q"])],
        [Step::Details, Step::Later, Step::Quit],
        "none of these answers"
    );
}

#[test]
fn a_scope_asks_for_a_place_and_a_number() {
    assert_eq!(talk(&["s"]), Step::Ask(None));
    assert_eq!(talk(&["s", "/out/*", "3"]), scoped(Some("/out/*"), 3));
    assert_eq!(talk(&["s", "out/*", ""]), scoped(Some("/here/out/*"), 1), "relative to where one is");
    assert_eq!(talk(&["s", "", "2"]), scoped(None, 2));
    for wrong in
        [&["s", "/o*t"][..], &["s", "", "0"], &["s", "", "-1"], &["s", "", "y"], &["s", "/out/*", "many"]]
    {
        assert!(matches!(talk(wrong), Step::Ask(Some(_))), "{wrong:?}");
    }
    let mut dialogue = dialogue();
    let prompts = ["s", "/x/*", "nonsense"].map(|typed| {
        dialogue.take(typed);
        dialogue.prompt()
    });
    assert!(prompts[0].contains("path") && prompts[1].contains("uses"), "{prompts:?}");
    assert!(prompts[2].starts_with("approve?"), "a wrong number goes back to the start: {prompts:?}");
}

#[test]
fn an_answer_is_what_the_daemon_takes() {
    let id = asked(7).id;
    let sent = |answer: &Answer, reason: Option<&str>| {
        serde_json::to_value(Respond::new(id, answer, reason.map(str::to_owned))).expect("JSON")
    };
    assert_eq!(sent(&Answer::Once, None), json!({ "id": id, "decision": "approve" }));
    assert_eq!(sent(&Answer::Deny, Some("no")), json!({ "id": id, "decision": "deny", "reason": "no" }));
    let scope = Scope { below: Some("/out/*".to_owned()), uses: Some(2), for_goal: true };
    assert_eq!(
        sent(&Answer::Scoped(scope), None),
        json!({ "id": id, "decision": "approve",
                "scope": { "below": "/out/*", "uses": 2, "for_goal": true } })
    );
}

#[test]
fn everything_is_shown_and_nothing_is_obeyed() {
    let shown = details(&asked(7)).join("\n");
    for part in [
        "00000007",
        "agent writer (",
        "wants to use file_write",
        "the manifest asks",
        "\"content\": \"evil\\u{202e}txt\"",
        "file_write: /out/*",
        "/out/a, in fact /real/a: holds ab12",
        "1970-01-01T00:00:01.000Z, denied unless answered by 1970-01-01T00:01:01.000Z",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown}");
    let mut long = asked(7);
    (long.input, long.targets[0].content_hash) = (None, None);
    let shown = details(&long).join("\n");
    assert!(shown.contains("too long") && shown.contains("nothing stands there"), "{shown}");
}
