//! What a program is shown of its agent's grants.
//!
//! Invariant: nothing that its agent could not use, any number of times and unasked; and whatever it is shown ends it
//! when it is revoked.

use aaos_core::authority::{Admission, Authority, AuthorityLimits};
use aaos_core::budget::Budget;
use aaos_core::effect::{FileRight, Need};
use aaos_core::known::KnownProgram;
use aaos_core::name::ToolName;
use aaos_core::path::PathPattern;
use aaos_core::quantity::{Millis, Quantity};
use aaos_core::world::World;

use crate::support::{
    NOW, act, admission, agent, all, ask, child, denial, exec, fresh_call, grant, host, request, world,
};

/// The world of /bin/a for an agent, and the grants that it is made of beside the one of /bin/a.
fn seen(law: &mut Authority, who: u128) -> (World, Vec<aaos_core::id::GrantId>) {
    let parts = ask(law, who, all([exec("/bin/a")])).expect("granted").into_parts();
    let access = parts.all[0].clone();
    law.refund(parts.call, parts.charges);
    (*access.world.expect("a program has a world"), access.through)
}

fn words(world: &World) -> Vec<String> {
    let root = |root: &aaos_core::world::SharedRoot| match root.right {
        FileRight::Read => format!("read {}", root.pattern),
        FileRight::Write => format!("write {}", root.pattern),
    };
    world.programs.iter().map(ToString::to_string).chain(world.roots.iter().map(root)).collect()
}

/// The words of agent 1's world under these grants.
fn shown(grants: &[&str]) -> Vec<String> {
    words(&seen(&mut world(grants), 1).0)
}

fn holding(grants: &[&str], approval_required: &[&str], budget: Budget) -> Authority {
    let mut law = Authority::new(AuthorityLimits::default());
    let grants = grants.iter().zip(1..).map(|(words, id)| request(id, words)).collect();
    let asked = approval_required.iter().map(|tool| ToolName::parse(tool).expect("a tool")).collect();
    let admission = Admission { approval_required: asked, budget, ..admission(1, None) };
    law.admit_root(admission, grants, NOW).expect("there is room");
    law
}

#[test]
fn a_program_is_shown_what_its_agent_may_use() {
    let grants =
        ["exec: /bin/a", "exec: /bin/b", "file_read: /r/*", "file_write: /w/*", "tool: *", "network: a.org"];
    let (world, through) = seen(&mut world(&grants), 1);
    assert_eq!(words(&world), ["/bin/a", "/bin/b", "read /r/*", "write /w/*"]);
    assert_eq!(through, [grant(2), grant(3), grant(4)], "and each of these ends it");
    assert_eq!(world.roots[1].grant, grant(4));
}

#[test]
fn a_missing_program_is_named_as_the_grant_that_would_do_and_else_in_words() {
    for (program, missing) in [
        ("/bin/a", "exec: /bin/a"),
        ("/bin/a ", "an exec grant of \"/bin/a \""),
        ("/bin/*", "an exec grant of \"/bin/*\""),
    ] {
        let mut law = world(&["tool: *"]);
        assert_eq!(denial(ask(&mut law, 1, all([exec(program)]))).0, missing);
    }
}

#[test]
fn a_place_is_shown_as_it_is_and_as_it_is_spelled() {
    let mut law = Authority::new(AuthorityLimits::default());
    let mut linked = request(2, "file_read: /real/*");
    linked.spelled = Some(PathPattern::parse("/link/*").expect("a pattern"));
    law.admit_root(admission(1, None), vec![request(1, "exec: /bin/a"), linked], NOW).expect("room");
    let roots = seen(&mut law, 1).0.roots;
    let words = |pattern: &PathPattern| pattern.to_string();
    assert_eq!((words(&roots[0].pattern).as_str(), roots.len()), ("/real/*", 1), "shown once");
    assert_eq!(roots[0].spelled.as_ref().map(words).as_deref(), Some("/link/*"));
}

#[test]
fn a_program_that_is_not_granted_has_no_world() {
    let mut law = world(&["exec: /bin/b", "file_read: /r/*"]);
    assert_eq!(denial(ask(&mut law, 1, all([exec("/bin/a")]))).0, "exec: /bin/a");
    let parts = ask(&mut law, 1, all([crate::support::read("/r/x")])).expect("granted").into_parts();
    assert_eq!(parts.all[0].world, None, "only a program has one");
}

#[test]
fn what_is_counted_asked_about_or_only_handed_on_is_not_shown() {
    for bound in ["max_invocations: 9", "max_per_minute: 9", "use: false", "approval_required: true"] {
        let bounded = |form: &str| format!("{{ {form}, {bound} }}");
        let (program, read, write) =
            (bounded("exec: /bin/b"), bounded("file_read: \"/r/*\""), bounded("file_write: \"/w/*\""));
        assert_eq!(shown(&["exec: /bin/a", &program, &read, &write]), ["/bin/a"], "{bound}");
    }
    let expiring = "{ file_read: \"/r/*\", expires_in_seconds: 60 }";
    assert_eq!(shown(&["exec: /bin/a", expiring]), ["/bin/a", "read /r/*"], "the control");
    // The program that is started is in its own world, however it is bounded.
    assert_eq!(shown(&["{ exec: /bin/a, max_invocations: 2 }", "file_read: /r/*"]), ["/bin/a", "read /r/*"]);
}

#[test]
fn a_world_lasts_as_long_as_the_first_of_its_grants() {
    let until = |grants: &[&str]| seen(&mut world(grants), 1).0.until;
    let after = |seconds: u64| Some(NOW.after(Millis(seconds * 1000)));
    let (plain, long) = ("exec: /bin/a", "{ exec: /bin/a, expires_in_seconds: 90 }");
    assert_eq!(until(&[plain, "exec: /bin/b", "file_read: /r/*"]), None);
    assert_eq!(until(&[long, "exec: /bin/b"]), after(90));
    for beside in ["exec: /bin/b", "file_read: /r/*", "file_write: /w/*"] {
        let (form, words) = beside.split_once(": ").expect("a form");
        let short = format!("{{ {form}: \"{words}\", expires_in_seconds: 60 }}");
        assert_eq!(until(&[plain, &short]), after(60), "{beside}");
        assert_eq!(until(&[long, &short]), after(60), "{beside}");
        let later = short.replace("60", "120");
        assert_eq!(until(&[long, &later]), after(90), "{beside}");
    }
    let not_shown = "{ file_read: \"/r/*\", expires_in_seconds: 60, max_invocations: 1 }";
    assert_eq!(until(&[long, not_shown]), after(90), "what is not shown ends nothing");
    let mut law = world(&[plain, "{ file_read: \"/r/*\", expires_in_seconds: 60 }"]);
    child(&mut law, 1, 2, &[(1, 10, plain), (2, 11, "file_read: /r/*")]).expect("narrower");
    assert_eq!(seen(&mut law, 2).0.until, after(60), "no longer than what it derives from");
}

#[test]
fn a_wider_grant_is_no_way_round_one_that_asks() {
    let asking = "{ file_read: \"/r/secret/*\", approval_required: true }";
    assert_eq!(shown(&["exec: /bin/a", "file_read: /r/*", asking]), ["/bin/a"]);
    assert_eq!(shown(&["exec: /bin/a", "file_read: /r/secret/deep/*", asking]), ["/bin/a"]);
    let beside = ["exec: /bin/a", "file_read: /r/plain/*", asking, "file_write: /r/*"];
    assert_eq!(shown(&beside), ["/bin/a", "read /r/plain/*", "write /r/*"], "the control");
    let mut law = world(&["exec: /bin/a", "file_read: /r/*", asking, "tool: *"]);
    child(&mut law, 1, 2, &[(1, 10, "exec: /bin/a"), (2, 11, "file_read: /r/*")]).expect("narrower");
    assert_eq!(words(&seen(&mut law, 2).0), ["/bin/a"], "an ancestor's question holds for its descendants");
}

#[test]
fn where_a_person_is_asked_about_files_a_program_does_not_go_past_them() {
    let grants = ["exec: /bin/a", "file_read: /r/*", "file_write: /w/*"];
    let under = |tools: &[&str]| {
        let mut law = holding(&grants, tools, Budget::default());
        words(&seen(&mut law, 1).0)
    };
    let (reads, writes) = ("read /r/*", "write /w/*");
    for tool in ["file_read", "file_read_many", "file_list", "grep"] {
        assert_eq!(under(&[tool]), ["/bin/a", writes], "{tool}");
    }
    for tool in ["file_write", "file_edit"] {
        assert_eq!(under(&[tool]), ["/bin/a", reads], "{tool}");
    }
    assert_eq!(under(&["echo", "web_fetch"]), ["/bin/a", reads, writes], "the control");
    let all = ["file_read", "grep", "file_write", "file_edit", "command_run"];
    assert_eq!(
        under(&all),
        ["/bin/a", reads, writes],
        "the question about the program is the one that is asked"
    );
}

#[test]
fn where_a_purse_bounds_what_is_written_a_program_writes_nothing() {
    let grants = ["exec: /bin/a", "file_read: /r/*", "file_write: /w/*"];
    let under = |quantity| {
        let mut law = holding(&grants, &[], Budget::of(quantity, 1_000_000));
        words(&seen(&mut law, 1).0)
    };
    for quantity in [Quantity::WrittenBytes, Quantity::Files] {
        assert_eq!(under(quantity), ["/bin/a", "read /r/*"], "{quantity:?}");
    }
    assert_eq!(under(Quantity::Tokens), ["/bin/a", "read /r/*", "write /w/*"], "the control");
}

#[test]
fn a_revocation_of_anything_that_is_shown_cuts_the_program() {
    let grants = ["exec: /bin/a", "exec: /bin/b", "file_read: /r/*", "file_write: /w/*"];
    for revoked in 1..=4 {
        let mut law = world(&grants);
        let call = fresh_call();
        let parts = law.authorize(agent(1), call, all([exec("/bin/a")]), NOW).expect("granted").into_parts();
        assert_eq!(law.revoke(grant(revoked)).calls, [call], "grant {revoked}");
        assert!(law.is_cut(parts.call));
    }
    let mut law = world(&["exec: /bin/a", "{ file_read: \"/o/*\", max_invocations: 1 }"]);
    let parts = ask(&mut law, 1, all([exec("/bin/a")])).expect("granted").into_parts();
    assert_eq!(law.revoke(grant(2)).calls, [], "the control: it is not shown");
    assert!(!law.is_cut(parts.call));
}

/// The access of git's program for agent 1, or why there is none.
fn git(law: &mut Authority) -> Result<aaos_core::effect::Access, (String, String)> {
    match ask(law, 1, all([Need::Program(KnownProgram::Git)])) {
        Ok(granted) => {
            let parts = granted.into_parts();
            law.refund(parts.call, parts.charges);
            Ok(parts.all[0].clone())
        }
        Err(refusal) => Err(denial(Err(refusal))),
    }
}

#[test]
fn git_is_the_granted_program_of_that_name() {
    let mut law = world(&["exec: /opt/gitk", "{ exec: /opt/git, use: false }", "exec: /usr/bin/git"]);
    let access = git(&mut law).expect("granted");
    assert_eq!(access.need, exec("/usr/bin/git"), "from here on it is known which one");
    assert_eq!(access.grant, grant(3));
    let (missing, why) = git(&mut world(&["exec: /opt/gitk", "tool: *"])).expect_err("there is none");
    assert_eq!(missing, "an exec grant of a program called git");
    assert!(why.contains("no grant covers it"), "{why}");
    let mut used = world(&["{ exec: /usr/bin/git, max_invocations: 1 }"]);
    act(&mut used, 1, Need::Program(KnownProgram::Git)).expect("one use");
    assert!(git(&mut used).expect_err("no second").1.contains("used up"));
}

#[test]
fn git_is_shown_what_may_be_read_and_no_other_program() {
    let mut reaching = world(&["exec: /usr/bin/git", "exec: /bin/a", "network: a.org"]);
    let world_of_git = git(&mut reaching).expect("granted").world.expect("a world");
    assert!(
        !world_of_git.network && seen(&mut reaching, 1).0.network,
        "git reaches no host, another program does"
    );
    let grants =
        ["exec: /usr/bin/git", "exec: /bin/b", "file_read: /r/*", "file_write: /w/*", "file_read: /w/*"];
    let access = git(&mut world(&grants)).expect("granted");
    let seen = *access.world.expect("a world");
    assert_eq!(words(&seen), ["/usr/bin/git", "read /r/*", "read /w/*"]);
    assert_eq!(access.through, [grant(3), grant(5)], "a revocation of what it is not shown is nothing to it");
    let control = shown(&["exec: /bin/a", "exec: /usr/bin/git", "file_write: /w/*"]);
    assert_eq!(control, ["/bin/a", "/usr/bin/git", "write /w/*"]);
}

#[test]
fn cargo_is_shown_what_any_program_is_shown() {
    let grants = ["exec: /t/cargo", "exec: /t/rustc", "file_read: /r/*", "file_write: /w/*"];
    let mut law = holding(&grants, &["file_read", "cargo"], Budget::default());
    for (known, program) in [(KnownProgram::Cargo, "/t/cargo"), (KnownProgram::Rustc, "/t/rustc")] {
        let parts = ask(&mut law, 1, all([Need::Program(known)])).expect("granted").into_parts();
        let access = parts.all[0].clone();
        law.refund(parts.call, parts.charges);
        assert_eq!(access.need, exec(program));
        let seen = *access.world.expect("a world");
        assert_eq!(words(&seen), ["/t/cargo", "/t/rustc", "read /r/*", "write /w/*"], "{known:?}");
    }
    assert!(
        denial(ask(&mut world(&["exec: /t/cargo"]), 1, all([Need::Program(KnownProgram::Rustc)])))
            .0
            .contains("rustc")
    );
}

#[test]
fn git_reads_past_a_question_about_files_only_where_it_is_asked_about_itself() {
    let grants = ["exec: /usr/bin/git", "file_read: /r/*"];
    let under = |tools: &[&str]| {
        let access = git(&mut holding(&grants, tools, Budget::default())).expect("granted");
        words(&access.world.expect("a world"))
    };
    assert_eq!(under(&["file_read", "command_run"]), ["/usr/bin/git"]);
    assert_eq!(under(&["file_read", "git"]), ["/usr/bin/git", "read /r/*"]);
    assert_eq!(under(&["file_write"]), ["/usr/bin/git", "read /r/*"]);
    let mut law = holding(&["exec: /bin/a", "file_read: /r/*"], &["file_read", "git"], Budget::default());
    assert_eq!(words(&seen(&mut law, 1).0), ["/bin/a"], "a question about git is none about other programs");
}

#[test]
fn a_program_finds_a_proxy_where_some_host_can_be_reached() {
    let finds = |grants: &[&str]| {
        let all: Vec<&str> = [&["exec: /bin/a"], grants].concat();
        seen(&mut world(&all), 1)
    };
    for none in [&[][..], &["tool: *", "file_read: /r/*"], &["{ network: a.org, use: false }"]] {
        assert!(!finds(none).0.network, "{none:?}");
    }
    for one in ["network: a.org", "web_search"] {
        let (world, through) = finds(&[one]);
        assert!(world.network, "{one}");
        assert_eq!(through, [], "a revocation cuts connections, not the program");
        assert!(finds(&["{ network: b.org, use: false }", one]).0.network, "one is enough: {one}");
    }
    // Each connection is counted and asked about by itself.
    for bound in ["max_invocations: 1", "approval_required: true"] {
        assert!(finds(&[&format!("{{ network: a.org, {bound} }}")]).0.network, "{bound}");
    }
    let mut law = world(&["exec: /bin/a", "{ network: a.org, max_invocations: 1 }"]);
    act(&mut law, 1, host("a.org", 443)).expect("one use");
    assert!(!seen(&mut law, 1).0.network, "used up");
}

#[test]
fn where_a_person_is_asked_about_pages_a_program_does_not_go_past_them() {
    let grants = ["exec: /bin/a", "network: a.org"];
    let under = |tools: &[&str]| seen(&mut holding(&grants, tools, Budget::default()), 1).0.network;
    assert!(!under(&["web_fetch"]));
    assert!(under(&["file_read", "file_write", "echo"]), "the control");
    assert!(under(&["web_fetch", "command_run"]), "the question about the program is the one that is asked");
}

#[test]
fn a_child_is_given_no_other_program() {
    let mut law = world(&["exec: /bin/a", "{ exec: /bin/b, delegate: false }"]);
    for wider in ["exec: /bin/b", "exec: /bin/c", "file_read: /bin/a"] {
        assert!(child(&mut law, 1, 9, &[(1, 90, wider)]).is_err(), "{wider}");
    }
    assert!(child(&mut law, 1, 9, &[(2, 90, "exec: /bin/b")]).is_err(), "held back");
    child(&mut law, 1, 2, &[(1, 10, "{ exec: /bin/a, max_invocations: 1 }")]).expect("narrower");
    act(&mut law, 2, exec("/bin/a")).expect("one use");
    assert!(denial(ask(&mut law, 2, all([exec("/bin/a")]))).1.contains("used up"));
    act(&mut law, 1, exec("/bin/a")).expect("the parent's own is not bounded");
}

#[test]
fn a_grant_ends_by_itself_no_later_than_those_that_it_derives_from() {
    let mut law = world(&["{ network: a.org, expires_in_seconds: 60 }", "network: b.org"]);
    child(&mut law, 1, 2, &[(1, 10, "network: a.org"), (2, 11, "{ network: b.org, expires_in_seconds: 9 }")])
        .expect("narrower");
    let after = |seconds: u64| Some(NOW.after(Millis(1000 * seconds)));
    let ends = [1, 2, 10, 11, 99].map(|id| law.expiry(grant(id)));
    assert_eq!(ends, [after(60), None, after(60), after(9), None]);
}
