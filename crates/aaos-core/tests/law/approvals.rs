//! Approvals: when a person is asked, and which effects an answer covers.

use std::borrow::Cow;

use aaos_core::approval::{ApprovalGrant, ApprovalScope, AskedBecause};
use aaos_core::authority::{Admission, Authority, AuthorityLimits, Refusal};
use aaos_core::effect::{Authorized, AuthorizedParts, Charge, Effect, EffectClass, Need, Needs, Subject};
use aaos_core::event::Event;
use aaos_core::id::ApprovalId;
use aaos_core::limits::MAX_APPROVALS_PER_AGENT;
use aaos_core::name::ToolName;
use aaos_core::quantity::Amounts;
use uuid::Uuid;

use crate::support::{NOW, admission, agent, child, denial, fresh_call, grant, read, tool, world, write};

/// A use of one tool with these arguments and needs.
#[derive(Debug, Clone)]
struct Shown {
    tool: &'static str,
    digest: &'static str,
    needs: Needs,
}

impl Effect for Shown {
    type Outcome = ();
    fn needs(&self) -> Cow<'_, Needs> {
        Cow::Borrowed(&self.needs)
    }
    fn class(&self) -> EffectClass {
        EffectClass::Once
    }
    fn label(&self) -> &'static str {
        self.tool
    }
    fn subject(&self) -> Option<Subject> {
        Some(Subject { digest: self.digest.to_owned(), input: serde_json::json!({ "of": self.digest }) })
    }
    fn intent(_: &AuthorizedParts<Self>) -> Event {
        Event::DaemonStopped {}
    }
    fn result(_: &AuthorizedParts<Self>, (): &()) -> Event {
        Event::DaemonStopped {}
    }
}

fn shown(tool_name: &'static str, digest: &'static str, needs: &[Need]) -> Shown {
    let all = std::iter::once(tool(tool_name)).chain(needs.iter().cloned()).collect();
    Shown { tool: tool_name, digest, needs: Needs { all, ..Needs::default() } }
}

fn ask(law: &mut Authority, who: u128, effect: Shown) -> Result<Authorized<Shown>, Refusal> {
    law.authorize(agent(who), fresh_call(), effect, NOW)
}

/// Passes and is done.
fn passes(law: &mut Authority, who: u128, effect: Shown) -> bool {
    match ask(law, who, effect) {
        Ok(granted) => {
            let parts = granted.into_parts();
            law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
            true
        }
        Err(Refusal::Approval(_)) => false,
        Err(other) => panic!("neither passed nor asked: {other:?}"),
    }
}

fn approval(id: u128, holder: u128, scope: ApprovalScope, uses: u32) -> ApprovalGrant {
    ApprovalGrant { id: ApprovalId::from_uuid(Uuid::from_u128(id)), holder: agent(holder), scope, uses }
}

fn any_use(effect: &str, grants: &[u128], below: Option<&str>) -> ApprovalScope {
    ApprovalScope::Tool {
        effect: effect.to_owned(),
        grants: grants.iter().map(|id| grant(*id)).collect(),
        below: below.map(|words| words.to_owned().try_into().expect("a pattern")),
    }
}

fn exactly(digest: &str) -> ApprovalScope {
    ApprovalScope::Exactly { digest: digest.to_owned(), targets: Vec::new() }
}

/// Agent 1 asks for `file_write`; grants 1 `tool: *` and 2 `file_write: /out/*`. Agent 2 below it holds both as 10, 11.
fn asking() -> Authority {
    let mut law = Authority::new(AuthorityLimits::default());
    let asks = vec![ToolName::parse("file_write").expect("a tool")];
    let grants =
        vec![crate::support::request(1, "tool: *"), crate::support::request(2, "file_write: /out/*")];
    law.admit_root(Admission { approval_required: asks.clone(), ..admission(1, None) }, grants, NOW)
        .expect("room");
    let below = Admission { approval_required: asks, ..admission(2, None) };
    let grants = [(1, 10, "tool: *"), (2, 11, "file_write: /out/*")];
    let grants = grants.map(|(from, id, words)| (grant(from), crate::support::request(id, words)));
    law.admit_child(agent(1), below, grants.to_vec(), NOW).expect("a child");
    law
}

fn writing(digest: &'static str, path: &str) -> Shown {
    shown("file_write", digest, &[write(path)])
}

#[test]
fn a_question_says_what_the_runtime_knows_and_charges_nothing() {
    let mut law = asking();
    let call = fresh_call();
    let refused = law.authorize(agent(2), call, writing("w", "/out/a"), NOW);
    let Err(Refusal::Approval(question)) = refused else { panic!("not asked: {refused:?}") };
    assert_eq!((question.agent, question.call), (agent(2), call));
    assert_eq!((question.effect.as_str(), question.digest.as_str()), ("file_write", "w"));
    assert_eq!(question.because, AskedBecause::Tool);
    assert_eq!(question.needs, [tool("file_write"), write("/out/a")]);
    assert_eq!(question.grants, [grant(10), grant(11)]);
    assert_eq!(question.input, serde_json::json!({ "of": "w" }));
    assert!(passes(&mut law, 2, shown("echo", "e", &[])), "another tool is not asked about");

    let mut law = world(&["{ tool: echo, approval_required: true, max_invocations: 1 }"]);
    child(&mut law, 1, 2, &[(1, 10, "tool: echo")]).expect("a child");
    for (who, through) in [(1, 1), (2, 10), (1, 1)] {
        match ask(&mut law, who, shown("echo", "e", &[])) {
            Err(Refusal::Approval(question)) => {
                assert_eq!(question.because, AskedBecause::Grant(grant(through)));
            }
            other => panic!("not asked: {other:?}"),
        }
    }
    law.approve(approval(5, 1, any_use("echo", &[1], None), 1)).expect("alive");
    assert!(passes(&mut law, 2, shown("echo", "e", &[])), "the one use is still there after three questions");
}

#[test]
fn a_wider_grant_is_no_way_round_one_that_asks() {
    let mut law =
        world(&["tool: *", "file_write: /out/*", "{ file_write: /out/keep/*, approval_required: true }"]);
    assert!(passes(&mut law, 1, writing("w", "/out/a")), "the control: nothing asks here");
    assert!(!passes(&mut law, 1, writing("w", "/out/keep/a")));
    let given = [(1, 10, "tool: *"), (2, 11, "file_write: /out/*")];
    child(&mut law, 1, 2, &given).expect("a child that was given the wider one alone");
    assert!(!passes(&mut law, 2, writing("w", "/out/keep/a")), "an ancestor's grant asks for it");
    assert!(passes(&mut law, 2, writing("w", "/out/b")));
}

/// How a file is reached when the call passes: whether links are forbidden on the way. `None` when a person is asked.
fn reached(law: &mut Authority, digest: &'static str, need: Need) -> Option<bool> {
    let granted = match ask(law, 1, shown("file_write", digest, &[need])) {
        Ok(granted) => granted,
        Err(Refusal::Approval(_)) => return None,
        Err(other) => panic!("neither passed nor asked: {other:?}"),
    };
    let parts = granted.into_parts();
    law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
    Some(parts.all.iter().any(|access| access.no_links))
}

#[test]
fn no_spelling_and_no_walk_goes_round_a_place_that_asks() {
    let mut linked = crate::support::request(2, "file_write: /w/*");
    linked.spelled = Some("/link/*".to_owned().try_into().expect("a pattern"));
    let asks = crate::support::request(3, "{ file_write: /w/secret/*, approval_required: true }");
    let reads = crate::support::request(4, "file_read: /w/*");
    let mut law = Authority::new(AuthorityLimits::default());
    let grants = vec![crate::support::request(1, "tool: *"), linked, asks, reads];
    law.admit_root(admission(1, None), grants, NOW).expect("room");
    assert_eq!(reached(&mut law, "plain", write("/w/a")), Some(true), "and no link below leads there");
    assert_eq!(reached(&mut law, "link", write("/link/a")), Some(true), "the control of the next");
    assert_eq!(reached(&mut law, "alias", write("/link/secret/f")), None, "the same place by its link");
    assert_eq!(reached(&mut law, "dots", write("/w/x/../secret/f")), None);
    assert_eq!(reached(&mut law, "above", write("/w")), None, "a walk from above meets it");
    assert_eq!(
        reached(&mut law, "read", read("/w/secret/f")),
        Some(false),
        "the other right is not asked about"
    );
    let mut free = world(&["tool: *", "file_write: /w/*"]);
    for path in ["/w/x/../secret/f", "/w"] {
        assert_eq!(reached(&mut free, "free", write(path)), Some(false), "control: {path}");
    }
}

#[test]
fn a_redirect_leads_to_no_host_that_a_person_is_asked_about() {
    let fetch = |law: &mut Authority| {
        let effect = shown("web_fetch", "f", &[crate::support::host("a.example.org", 443)]);
        let parts = ask(law, 1, effect).expect("granted").into_parts();
        law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
        let access = parts.all.into_iter().next_back().expect("the host");
        let hosts: Vec<String> = access.hosts.iter().map(ToString::to_string).collect();
        (hosts, access.public, access.through)
    };
    let plain = ["tool: *", "network: a.example.org", "web_search", "network: b.example.org"];
    let (hosts, public, through) = fetch(&mut world(&plain));
    assert_eq!(hosts, ["a.example.org", "b.example.org"], "the control: redirects go on");
    assert!(public);
    assert_eq!(through, [grant(4), grant(3)]);
    let asks = [
        "tool: *",
        "network: a.example.org",
        "web_search",
        "{ network: b.example.org, approval_required: true }",
    ];
    assert_eq!(fetch(&mut world(&asks)), (vec!["a.example.org".to_owned()], false, Vec::new()));
}

#[test]
fn where_any_host_is_asked_about_a_redirect_stays_at_the_very_host_and_port() {
    for (rule, name, port, stays) in [
        ("*.example.org", "a.example.org", 443, "a.example.org"),
        ("*.example.org", "a.example.org", 80, "a.example.org"),
        ("*.example.org:8443", "a.example.org", 8443, "a.example.org:8443"),
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
    ] {
        let hosts = |more: &str| {
            let mut law = world(&["tool: *", &format!("network: {rule}"), more]);
            let effect = shown("web_fetch", "f", &[crate::support::host(name, port)]);
            let parts = ask(&mut law, 1, effect).expect("granted").into_parts();
            let access = parts.all.into_iter().next_back().expect("the host");
            access.hosts.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(hosts("{ network: b.org, approval_required: true }"), [stays]);
        assert_eq!(
            hosts("{ file_write: /out/*, approval_required: true }"),
            [rule],
            "no host is asked about"
        );
    }
}

#[test]
fn a_revocation_cuts_what_a_redirect_may_go_through() {
    let mut law = world(&["tool: *", "network: a.example.org", "network: b.example.org", "tool: echo"]);
    let effect = shown("web_fetch", "f", &[crate::support::host("a.example.org", 443)]);
    let granted = ask(&mut law, 1, effect).expect("granted");
    assert_eq!(law.revoke(grant(4)).calls, [], "the control: a grant that has no part in it");
    assert_eq!(law.revoke(grant(3)).calls, [granted.call()]);
}

#[test]
fn what_cannot_be_shown_is_denied_and_not_passed() {
    let mut law = world(&["{ tool: echo, approval_required: true }"]);
    let (missing, reason) = denial(crate::support::ask(&mut law, 1, crate::support::all([tool("echo")])));
    assert_eq!(missing, "an approval");
    assert!(reason.contains("cannot be shown"), "{reason}");
}

#[test]
fn this_very_effect_is_the_askers_own() {
    let mut law = asking();
    law.approve(approval(5, 1, exactly("w"), 1)).expect("alive");
    assert!(!passes(&mut law, 1, writing("x", "/out/a")), "another effect");
    assert!(!passes(&mut law, 2, writing("w", "/out/a")), "another agent, even a descendant");
    assert!(passes(&mut law, 1, writing("w", "/out/a")));
    assert!(!passes(&mut law, 1, writing("w", "/out/a")), "once");
    assert_eq!(law.approvals_of(agent(1)), []);
}

#[test]
fn an_answer_covers_one_tool_through_the_grants_that_it_names() {
    let mut law = asking();
    law.approve(approval(5, 1, any_use("file_write", &[1, 2], None), 3)).expect("alive");
    assert!(passes(&mut law, 1, writing("a", "/out/a")) && passes(&mut law, 2, writing("b", "/out/b")));
    law.approve(approval(6, 1, any_use("file_edit", &[1, 2], None), 9)).expect("alive");
    law.approve(approval(7, 1, any_use("file_write", &[1], None), 9)).expect("alive");
    law.approve(approval(8, 1, any_use("file_write", &[], None), 9)).expect("alive");
    assert!(passes(&mut law, 1, writing("c", "/out/c")));
    assert!(!passes(&mut law, 1, writing("d", "/out/d")), "used up; another tool's, or not of every grant");
    // A grant of another root, though it covers the same place.
    let foreign = Admission {
        approval_required: vec![ToolName::parse("file_write").expect("a tool")],
        ..admission(3, None)
    };
    let own = vec![crate::support::request(30, "tool: *"), crate::support::request(31, "file_write: /out/*")];
    law.admit_root(foreign, own, NOW).expect("room");
    law.approve(approval(9, 1, any_use("file_write", &[1, 2, 30, 31], None), 9)).expect("alive");
    assert!(!passes(&mut law, 3, writing("e", "/out/e")), "its holder is no ancestor");
    assert!(passes(&mut law, 2, writing("e", "/out/e")), "the control");
    law.approve(approval(10, 2, any_use("file_write", &[10, 11], None), 1)).expect("alive");
    law.withdraw(ApprovalId::from_uuid(Uuid::from_u128(9)));
    assert!(!passes(&mut law, 1, writing("f", "/out/f")), "a child's approval is not its parent's");
    assert!(passes(&mut law, 2, writing("f", "/out/f")));
}

#[test]
fn an_answer_for_a_place_covers_only_what_surely_lies_there() {
    let mut law = world(&["tool: *", "{ file_write: /out/*, approval_required: true }", "file_read: /in/*"]);
    law.approve(approval(5, 1, any_use("file_write", &[1, 2, 3], Some("/out/a/*")), 99)).expect("alive");
    let mut may = |needs: &[Need]| passes(&mut law, 1, shown("file_write", "w", needs));
    assert!(may(&[write("/out/a/x")]) && may(&[write("/out/a/b/c")]) && may(&[write("/out/a")]));
    for beside in ["/out/b", "/out/ab", "/out/a/../b", "/out/a/x/..", "/out/b/../a/x"] {
        assert!(!may(&[write(beside)]), "{beside}");
    }
    assert!(!may(&[write("/out/a/x"), write("/out/b")]), "one of two lies beside");
    assert!(!may(&[write("/out/a/x"), read("/in/x")]), "what it reads lies elsewhere");
    let links = ask(&mut law, 1, writing("w", "/out/a/x")).expect("approved");
    assert!(links.parts().all.iter().all(|access| access.no_links), "a link below the place leads elsewhere");
    drop(links);
    law.approve(approval(6, 1, exactly("v"), 1)).expect("alive");
    let exact = ask(&mut law, 1, writing("v", "/out/a/x")).expect("approved");
    assert!(exact.parts().all.iter().all(|access| !access.no_links), "this very effect was shown");
    // Nothing but a tool lies nowhere, so a place never covers it.
    let mut law = world(&["{ tool: echo, approval_required: true }"]);
    law.approve(approval(5, 1, any_use("echo", &[1], Some("/out/*")), 9)).expect("alive");
    assert!(!passes(&mut law, 1, shown("echo", "e", &[])));
}

#[test]
fn the_narrowest_answer_is_used_and_comes_back_with_a_refund() {
    let mut law = asking();
    law.approve(approval(5, 1, any_use("file_write", &[1, 2], None), 1)).expect("alive");
    law.approve(approval(6, 1, exactly("w"), 1)).expect("alive");
    let granted = ask(&mut law, 1, writing("w", "/out/a")).expect("approved");
    let exact = Charge::Approval { approval: ApprovalId::from_uuid(Uuid::from_u128(6)) };
    assert_eq!(granted.parts().charges, [exact]);
    drop(granted);
    assert!(passes(&mut law, 1, writing("w", "/out/a")), "given back by the drop");
    let parts = ask(&mut law, 1, writing("w", "/out/a")).expect("the scoped one").into_parts();
    assert!(!passes(&mut law, 1, writing("x", "/out/a")), "in use");
    law.refund(parts.call, parts.charges);
    let parts = ask(&mut law, 1, writing("x", "/out/a")).expect("given back").into_parts();
    law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
    assert_eq!(law.approvals_of(agent(1)), [], "what is used up is forgotten");
    let late = vec![Charge::Approval { approval: ApprovalId::from_uuid(Uuid::from_u128(5)) }];
    law.refund(fresh_call(), late);
    assert!(!passes(&mut law, 1, writing("x", "/out/a")), "what is forgotten does not come back");
}

#[test]
fn two_effects_in_flight_share_the_uses_of_one_answer() {
    let mut law = asking();
    law.approve(approval(5, 1, any_use("file_write", &[1, 2], None), 2)).expect("alive");
    let first = ask(&mut law, 1, writing("a", "/out/a")).expect("1").into_parts();
    let second = ask(&mut law, 2, writing("b", "/out/b")).expect("2").into_parts();
    assert!(!passes(&mut law, 1, writing("c", "/out/c")));
    law.settle(first.call, &first.charges, &Amounts::NONE, NOW);
    law.refund(second.call, second.charges);
    assert_eq!(law.approvals_of(agent(1)).iter().map(|one| one.uses).collect::<Vec<_>>(), [1]);
    assert!(passes(&mut law, 1, writing("c", "/out/c")) && !passes(&mut law, 1, writing("d", "/out/d")));
}

#[test]
fn answers_end_with_their_holder_and_are_bounded() {
    let mut law = asking();
    law.approve(approval(5, 2, any_use("file_write", &[10, 11], None), 5)).expect("alive");
    let parts = ask(&mut law, 2, writing("a", "/out/a")).expect("approved").into_parts();
    law.remove(agent(2));
    assert_eq!(law.approval(ApprovalId::from_uuid(Uuid::from_u128(5))), None);
    law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
    assert!(matches!(law.approve(approval(6, 2, exactly("w"), 1)), Err(Refusal::UnknownAgent(_))));
    for id in 0..MAX_APPROVALS_PER_AGENT as u128 {
        law.approve(approval(100 + id, 1, exactly("w"), 1)).expect("room");
    }
    assert!(matches!(law.approve(approval(9_999, 1, exactly("w"), 1)), Err(Refusal::Limit(_))));
    law.remove(agent(1));
    let kept = format!("{law:?}");
    assert!(
        kept.contains("agents: {}") && kept.contains("approvals: {}"),
        "nothing is kept for ever: {kept}"
    );
}

#[test]
fn an_answer_is_found_by_its_id_until_it_is_used_up_or_withdrawn() {
    let id = |number| ApprovalId::from_uuid(Uuid::from_u128(number));
    let mut law = asking();
    for (number, digest) in [(5, "v"), (6, "w"), (7, "x")] {
        law.approve(approval(number, 1, exactly(digest), 1)).expect("alive");
    }
    assert_eq!(law.approval(id(6)), Some(&approval(6, 1, exactly("w"), 1)));
    assert_eq!(law.approval(id(9)), None);
    let parts = ask(&mut law, 1, writing("w", "/out/a")).expect("approved").into_parts();
    assert_eq!(law.approval(id(6)).map(|one| one.uses), Some(0), "in use");
    law.settle(parts.call, &parts.charges, &Amounts::NONE, NOW);
    assert_eq!(law.approval(id(6)), None, "used up");
    law.withdraw(id(5));
    assert_eq!(law.approval(id(5)), None);
    assert_eq!(law.approvals_of(agent(1)), [approval(7, 1, exactly("x"), 1)], "the others stand");
}
