//! The root grant and the outputs that flags and a goal's text lead to.

use std::path::Path;

use aaos_core::manifest::Manifest;
use aaos_core::path::AbsPath;
use aaos_core::quantity::{MicroUsd, Tokens};

use super::{Budget, GoalFlags, GoalPlan, LoadedManifest, Place, WireGrant};

fn place(directory: &Path) -> Place {
    let directory = AbsPath::parse(directory.to_str().expect("UTF-8")).expect("absolute");
    let programs =
        vec![AbsPath::parse("/usr/bin").expect("absolute"), AbsPath::parse("/bin").expect("absolute")];
    Place { directory, home: Some(AbsPath::parse("/home/u").expect("absolute")), programs }
}

fn flags(goal: &str) -> GoalFlags {
    GoalFlags { goal: goal.to_owned(), ..GoalFlags::default() }
}

fn own(text: &[&str]) -> Vec<String> {
    text.iter().map(|one| (*one).to_owned()).collect()
}

fn grants(plan: &GoalPlan) -> Vec<String> {
    plan.grants.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_those_of_the_specification() {
    let plan = GoalPlan::new(&flags("Read it"), &place(Path::new("/p")), None).expect("plans");
    assert_eq!(grants(&plan), ["file_read: /p/*", "file_write: /p/output/*", "tool: *", "spawn_child: [*]"]);
    assert!(plan.outputs.is_empty() && plan.notices.is_empty());
}

#[test]
fn flags_replace_defaults_and_web_adds() {
    let home = testkit::scratch();
    let directory = home.path();
    std::fs::create_dir(directory.join("docs")).unwrap();
    std::fs::write(directory.join("one.txt"), "x").unwrap();
    let root = directory.display();
    let flags = GoalFlags {
        read: own(&["docs", "./one.txt", "docs/../docs/*"]),
        write: own(&["out"]),
        network: own(&["127.0.0.1:8080", "*.example.org"]),
        web: true,
        budget_tokens: Some(7),
        budget_usd: super::dollars("1.50").ok(),
        budget_seconds: Some(9),
        ..flags("go")
    };
    let plan = GoalPlan::new(&flags, &place(directory), None).expect("plans");
    assert_eq!(
        grants(&plan),
        [
            format!("file_read: {root}/docs/*"),
            format!("file_read: {root}/one.txt"),
            format!("file_read: {root}/docs/*"),
            format!("file_write: {root}/out/*"),
            "network: 127.0.0.1:8080, *.example.org".to_owned(),
            "web_search".to_owned(),
            "tool: *".to_owned(),
            "spawn_child: [*]".to_owned(),
        ]
    );
    let budget = Budget { tokens: Some(Tokens(7)), usd: Some(MicroUsd(1_500_000)), seconds: Some(9) };
    assert_eq!(plan.budget, budget);
}

#[test]
fn programs_are_granted_by_their_path_or_by_name() {
    let planned = |exec: &[&str]| {
        let told = GoalFlags { exec: own(exec), ..flags("go") };
        GoalPlan::new(&told, &place(Path::new("/p")), None)
    };
    let plan = planned(&["env", "/bin/sh", "/bin/../bin/sh"]).expect("all are there");
    let programs: Vec<String> = grants(&plan).into_iter().filter(|grant| grant.starts_with("exec")).collect();
    assert_eq!(programs, ["exec: /usr/bin/env", "exec: /bin/sh", "exec: /bin/sh"]);
    let json = serde_json::to_string(&WireGrant(&plan.grants[2])).expect("JSON");
    assert_eq!(json, r#"{"exec":"/usr/bin/env"}"#);
    for bad in ["no-such-program", "/bin/no-such-program", "/bin", "", "./sh"] {
        assert!(planned(&[bad]).is_err_and(|error| error.0.contains("--exec")), "{bad}");
    }
}

#[test]
fn dollars_are_decimal_text_above_zero() {
    assert_eq!(super::dollars("0.000001"), Ok(MicroUsd(1)));
    for bad in ["0", "0.00", "-1", "1,50", "1e3", "$1", "0.0000001", ""] {
        assert!(super::dollars(bad).is_err_and(|why| why.contains("1.50")), "{bad}");
    }
}

#[test]
fn the_root_and_the_home_directory_are_not_read_by_default() {
    for (directory, what) in [("/", "whole file system"), ("/home/u", "home directory")] {
        let error = GoalPlan::new(&flags("go"), &place(Path::new(directory)), None).expect_err("too much");
        assert!(error.0.contains(what) && error.0.contains("--read"), "{error}");
        let told = GoalFlags { read: own(&["/"]), ..flags("go") };
        let plan = GoalPlan::new(&told, &place(Path::new(directory)), None).expect("the operator said so");
        assert_eq!(grants(&plan)[0], "file_read: /*");
    }
    assert!(GoalPlan::new(&flags("go"), &place(Path::new("/home/u/p")), None).is_ok());
}

#[test]
fn loopback_is_granted_only_by_a_flag_and_never_by_prose() {
    let goal = "Fetch http://127.0.0.1:8080/a and https://example.org/b";
    let plan = GoalPlan::new(&flags(goal), &place(Path::new("/p")), None).expect("plans");
    assert!(grants(&plan).contains(&"network: example.org".to_owned()), "{:?}", plan.grants);
    assert!(plan.notices[0].contains("--network 127.0.0.1:8080"), "{:?}", plan.notices);
    let told = GoalFlags { network: own(&["127.0.0.1:8080"]), ..flags(goal) };
    let plan = GoalPlan::new(&told, &place(Path::new("/p")), None).expect("plans");
    assert!(grants(&plan).contains(&"network: 127.0.0.1:8080, example.org".to_owned()), "{:?}", plan.grants);
    assert!(plan.notices.is_empty(), "{:?}", plan.notices);
    let other_port = GoalFlags { network: own(&["127.0.0.1:9"]), ..flags(goal) };
    let plan = GoalPlan::new(&other_port, &place(Path::new("/p")), None).expect("plans");
    assert_eq!(plan.notices.len(), 1, "another port is another grant");
}

#[test]
fn a_manifest_s_own_capabilities_replace_the_defaults() {
    let text = "name: a\nmodel: fast\nsystem_prompt: x\ncapabilities:\n  - \"tool: web_fetch\"\n  - \
                \"network: 127.0.0.1:80\"\n  - \"file_write: /p/out/*\"\n";
    let manifest =
        || Some(LoadedManifest { text: text.to_owned(), parsed: Manifest::parse(text).expect("parses") });
    let goal = "Fetch http://127.0.0.1:80/ and https://example.org/ to ./out/a.md";
    let plan = GoalPlan::new(&flags(goal), &place(Path::new("/p")), manifest()).expect("plans");
    assert_eq!(grants(&plan), [""; 0], "nothing beside the manifest's own");
    assert_eq!(plan.own_grants.len(), 3);
    assert_eq!(plan.outputs, [AbsPath::parse("/p/out/a.md").expect("absolute")]);
    assert!(plan.notices.is_empty(), "the manifest grants it: {:?}", plan.notices);
    let more = GoalFlags { write: own(&["/q"]), ..flags(goal) };
    let plan = GoalPlan::new(&more, &place(Path::new("/p")), manifest()).expect("plans");
    assert_eq!(grants(&plan), ["file_write: /q/*"]);
}

#[test]
fn declared_outputs_stand_over_those_in_the_text() {
    let told = GoalFlags { output: own(&["./output/b.md", "output/b.md"]), ..flags("write ./output/a.md") };
    let plan = GoalPlan::new(&told, &place(Path::new("/p")), None).expect("plans");
    assert_eq!(plan.outputs, [AbsPath::parse("/p/output/b.md").expect("absolute")]);
}

#[test]
fn what_cannot_be_used_says_what_to_write_instead() {
    let rows: &[(GoalFlags, &str)] = &[
        (flags("  "), "empty"),
        (GoalFlags { read: own(&["/no/such/place"]), ..flags("go") }, "there is no"),
        (GoalFlags { read: own(&[""]), ..flags("go") }, "name a directory"),
        (GoalFlags { read: own(&["/a/**"]), ..flags("go") }, "patterns are not supported"),
        (GoalFlags { write: own(&["/a\0b"]), ..flags("go") }, "no usable path"),
        (GoalFlags { write: own(&["/a\nb"]), ..flags("go") }, "control character"),
        (GoalFlags { network: own(&["https://example.org/"]), ..flags("go") }, "example.org"),
        (GoalFlags { network: own(&["*"]), ..flags("go") }, "web_search"),
        (GoalFlags { output: own(&["/etc/x.md"]), ..flags("go") }, "--write /etc"),
        (GoalFlags { output: own(&["./output/../x.md"]), ..flags("go") }, "--write /p"),
        (GoalFlags { output: own(&["./output/"]), ..flags("go") }, "is a directory"),
        (GoalFlags { output: own(&["./output"]), ..flags("go") }, "--write"),
    ];
    for (flags, expected) in rows {
        let error = GoalPlan::new(flags, &place(Path::new("/p")), None).expect_err(expected);
        assert!(error.0.contains(expected), "{error} should say {expected:?}");
    }
}

#[test]
fn grants_travel_in_the_manifest_s_grammar() {
    for (text, json) in [
        ("file_read: /a b/*", "{\"file_read\":\"/a b/*\"}"),
        ("file_write: /a: \"b\"", "{\"file_write\":\"/a: \\\"b\\\"\"}"),
        ("web_search", "\"web_search\""),
        ("network: [::1]:80, *.a.org", "{\"network\":[\"[::1]:80\",\"*.a.org\"]}"),
        ("tool: echo", "{\"tool\":\"echo\"}"),
        ("spawn_child: [a, b]", "{\"spawn_child\":[\"a\",\"b\"]}"),
        ("spawn_child: [*]", "{\"spawn_child\":[\"*\"]}"),
    ] {
        let spec = aaos_core::capability::GrantSpec::parse(text).expect(text);
        let written = serde_json::to_value(WireGrant(&spec)).expect("JSON");
        let sent = written.as_str().map_or_else(|| written.to_string(), ToOwned::to_owned);
        assert_eq!(
            aaos_core::capability::GrantSpec::parse(&sent).expect("the daemon takes it"),
            spec,
            "{sent}"
        );
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).expect("JSON"), "{text}");
    }
}
