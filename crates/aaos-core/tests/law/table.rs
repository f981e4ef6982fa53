//! The grammar as a table: each form with requests that pass and requests that are refused, and what follows
//! from it for every constraint.
//!
//! Invariant: a form without rows fails the test; a refusal names a grant under which the request passes.

use std::collections::BTreeSet;

use aaos_core::authority::{Authority, AuthorityLimits, Refusal};
use aaos_core::capability::{Capability, Constraints, GrantSpec};
use aaos_core::effect::Need;
use aaos_core::name::{AgentName, ToolName};
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::quantity::Timestamp;
use aaos_core::tool::{CATALOGUE, host_and_port};

use crate::support::{NOW, Wish, act, admission, agent, all, ask, call, denial, host, read, request, write};

/// A request as an agent writes it.
#[derive(Debug, Clone)]
enum Ask {
    Read(String),
    Write(String),
    Tool(String),
    Url(String),
    Spawn(String),
    Message(String),
    Exec(String),
}

impl Ask {
    /// What it needs; `None` where it cannot even be asked.
    fn need(&self) -> Option<Need> {
        match self {
            Self::Read(path) => AbsPath::parse(path).ok().map(|path| read(path.as_str())),
            Self::Write(path) => AbsPath::parse(path).ok().map(|path| write(path.as_str())),
            Self::Tool(name) => ToolName::parse(name).ok().map(Need::Tool),
            Self::Url(url) => host_and_port(url).ok().map(|(name, port)| host(&name, port)),
            Self::Spawn(name) => AgentName::parse(name).ok().map(Need::Spawn),
            Self::Message(name) => AgentName::parse(name).ok().map(Need::Message),
            Self::Exec(path) => AbsPath::parse(path).ok().map(Need::Exec),
        }
    }

    fn wish(&self) -> Wish {
        all([self.need().unwrap_or_else(|| panic!("{self:?} can be asked"))])
    }

    /// Whether the grammar has words for exactly this. What a person cannot see, what is no plain path and what
    /// is no plain host have none.
    fn has_words(&self) -> bool {
        let odd = |c: char| c.is_control() || matches!(c, '*' | '?' | '[');
        match self {
            Self::Read(path) | Self::Write(path) | Self::Exec(path) => {
                let is_root = AbsPath::parse(path).is_ok_and(|path| path.as_str() == "/");
                !(is_root || path.contains(odd) || path.contains("..") || path.trim() != path)
            }
            Self::Url(url) => {
                let odd = url.contains("0x7f.1/") || url.contains("//127.1/");
                !(odd || url.contains("/.") || ODD_LOOPBACKS.contains(&url.as_str()))
            }
            Self::Message(_) => false,
            Self::Tool(_) | Self::Spawn(_) => true,
        }
    }
}

/// One capability, what passes under it (for files with what remains below the root), what is refused, and
/// what cannot even be asked.
struct Row {
    capability: Capability,
    passes: Vec<(Ask, String)>,
    refused: Vec<Ask>,
    unaskable: Vec<Ask>,
}

fn row(words: &str, of: impl Fn(&str) -> Ask, passes: &[&str], refused: &[&str], unaskable: &[&str]) -> Row {
    let capability = GrantSpec::parse(words).unwrap_or_else(|error| panic!("{words}: {error}")).capability;
    let bare = |one: &&str| (of(one), String::new());
    let ask = |list: &[&str]| list.iter().map(|one| of(one)).collect();
    Row {
        capability,
        passes: passes.iter().map(bare).collect(),
        refused: ask(refused),
        unaskable: ask(unaskable),
    }
}

/// Which variant it is. A new one does not compile until it has a place here, and not pass until it has rows.
const fn slot(capability: &Capability) -> usize {
    match capability {
        Capability::FileRead(_) => 0,
        Capability::FileWrite(_) => 1,
        Capability::Tool(_) => 2,
        Capability::WebSearch => 3,
        Capability::Network(_) => 4,
        Capability::SpawnChild(_) => 5,
        Capability::MessageSend(_) => 6,
        Capability::Exec(_) => 7,
    }
}

/// Variants of [`Capability`].
const SLOTS: usize = 8;

/// Paths that no grant is asked about.
const NO_PATHS: [&str; 5] = ["", "data/a", "./data/a", "~/data", "/data/\0"];

/// What passes below `/data/*`, and what remains.
const BELOW: &[(&str, &str)] = &[
    ("/data", ""),
    ("/data/", ""),
    ("/data/a", "a"),
    ("/data/a/b/c", "a/b/c"),
    ("/data/data", "data"),
    ("//data//a", "a"),
    ("/data/./a", "a"),
    ("/./data/a/.", "a"),
    ("/data/...", "..."),
    ("/data/a b", "a b"),
    ("/data/*", "*"),
    ("/data/line\nbreak", "line\nbreak"),
    ("/data/bell\u{7}", "bell\u{7}"),
    ("/data/\u{202e}txt.exe", "\u{202e}txt.exe"),
    ("/data/\u{fffd}", "\u{fffd}"),
    // Spelled below it; where it leads is the kernel's to judge, beneath the root's descriptor.
    ("/data/..", ".."),
    ("/data/../etc/passwd", "../etc/passwd"),
    ("/data/a/../../etc", "a/../../etc"),
];

/// What is not spelled below `/data/*`.
const BESIDE: &[&str] = &[
    "/",
    "//",
    "/data-x",
    "/data-x/a",
    "/datafile",
    "/dat",
    "/data.",
    "/data ",
    "/data\n",
    "/data\n/a",
    "/data\u{200b}/a",
    "/d\u{430}ta/a",
    "/DATA/a",
    "/etc/passwd",
    "/x/data/a",
    "/x/../data/a",
    "/../data/a",
    "/*",
    "/dat?/a",
];

fn files(words: &str, of: fn(String) -> Ask, passes: &[(&str, &str)], refused: &[&str]) -> Row {
    let mut row = row(words, |path| of(path.to_owned()), &[], refused, &NO_PATHS);
    row.passes = passes.iter().map(|(path, rest)| (of((*path).to_owned()), (*rest).to_owned())).collect();
    let endless = format!("/data/{}", "x".repeat(4096));
    row.unaskable.push(of(endless));
    row
}

fn file_rows(form: &str, of: fn(String) -> Ask, other: fn(String) -> Ask) -> Vec<Row> {
    let words = |pattern: &str| format!("{form}: {pattern}");
    let mut below = files(&words("/data/*"), of, BELOW, BESIDE);
    let long = "x".repeat(4000);
    below.passes.push((of(format!("/data/{long}")), long));
    let exact = files(
        &words("/data/f"),
        of,
        &[("/data/f", ""), ("/data/f/", ""), ("//data/./f", "")],
        &[
            "/data/f2",
            "/data/F",
            "/data/f.bak",
            "/data",
            "/",
            "/data/f/below",
            "/data/f/../f",
            "/data/x/../f",
        ],
    );
    let everything =
        &[("/", ""), ("/data/a", "data/a"), ("/etc/passwd", "etc/passwd"), ("/../x", "../x"), ("//", "")];
    let mut rows = vec![
        below,
        exact,
        files(&words("/*"), of, everything, &[]),
        files(&words("*"), of, everything, &[]),
        // Other spellings of the same pattern.
        files(&words("//data/./*"), of, &BELOW[..4], &["/data-x", "/"]),
        files(&words("/data/a b/*"), of, &[("/data/a b/c", "c")], &["/data/a", "/data/ab/c"]),
    ];
    for row in &mut rows {
        // One right is not the other.
        let others = row.passes.iter().map(|(one, _)| match one {
            Ask::Read(path) | Ask::Write(path) => other(path.clone()),
            _ => unreachable!("a file"),
        });
        row.refused.extend(others.collect::<Vec<_>>());
    }
    rows
}

fn tool_rows() -> Vec<Row> {
    let of = |name: &str| Ask::Tool(name.to_owned());
    let every: Vec<&str> = CATALOGUE.iter().map(|tool| tool.name).collect();
    let others: Vec<&str> = every.iter().filter(|name| **name != "echo").copied().collect();
    let unaskable = ["", "Echo", "echo ", "echo\n", "*", "e*", "../echo"];
    vec![row("tool: echo", of, &["echo"], &others, &unaskable), row("tool: *", of, &every, &[], &unaskable)]
}

/// Spellings of loopback that only a careless resolver reads.
const ODD_LOOPBACKS: [&str; 4] =
    ["http://0x7f.1:8080/", "http://127.1:8080/", "http://2130706433:8080/", "http://0177.0.0.1:8080/"];
/// Others that mean the same machine.
const LOOPBACKS: [&str; 2] = ["http://[::ffff:127.0.0.1]:8080/", "http://localhost:8080/"];

fn network_rows() -> Vec<Row> {
    let of = |url: &str| Ask::Url(url.to_owned());
    let unaskable =
        ["", "example.org", "//example.org/", "ftp://example.org/", "https://", "https://example.org:/"];
    let fooled = [
        "https://a.org@example.org/",
        "https://example.org\\@evil.org/",
        "https://example.org\n/",
        "https://ex\u{430}mple.org/",
    ];
    let unaskable: Vec<&str> = unaskable.into_iter().chain(fooled).collect();
    let apex = [
        "https://example.org",
        "http://example.org/a?b#c",
        "https://EXAMPLE.org/",
        "https://example.org./",
        "https://example.org:443/",
        "http://example.org:80/",
    ];
    let not_apex = [
        "https://example.org:8443/",
        "https://www.example.org/",
        "https://badexample.org/",
        "https://example.org.evil.com/",
        "https://example.com/",
        "https://example.orgs/",
        "https://evil.org/?https://example.org/",
        "https://evil.org/#example.org",
        "https://93.184.216.34/",
    ];
    let subdomains = ["https://a.example.org/", "https://a.b.Example.org./", "http://x.example.org/"];
    let not_sub = [
        "https://example.org/",
        "https://badexample.org/",
        "https://.example.org/",
        "https://a.example.org:81/",
    ];
    let mut not_v4 = vec!["http://127.0.0.1/", "http://127.0.0.2:8080/", "http://[::1]:8080/"];
    not_v4.extend(ODD_LOOPBACKS.into_iter().chain(LOOPBACKS));
    let v6 = ["http://[::1]:8080/", "http://[0:0:0:0:0:0:0:1]:8080/"];
    let not_v6 = ["http://[::1]/", "http://[::2]:8080/", "http://127.0.0.1:8080/", "http://localhost:8080/"];
    vec![
        row("network: example.org", of, &apex, &not_apex, &unaskable),
        row("network: Example.ORG.", of, &apex, &not_apex, &unaskable),
        row("network: *.example.org", of, &subdomains, &not_sub, &unaskable),
        row("network: example.org:8443", of, &["https://example.org:8443/"], &apex, &unaskable),
        row("network: 127.0.0.1:8080", of, &["http://127.0.0.1:8080/x"], &not_v4, &unaskable),
        row("network: [::1]:8080", of, &v6, &not_v6, &unaskable),
        row("network: a.org, *.b.org", of, &["https://a.org/", "https://x.b.org/"], &["https://b.org/"], &[]),
    ]
}

fn web_rows() -> Vec<Row> {
    let of = |url: &str| Ask::Url(url.to_owned());
    let public = ["https://example.org/", "http://a.b.example.org/x", "https://93.184.216.34/"];
    let mut private = vec![
        // Neither an address by RFC 3986 nor a host name; some resolvers read this machine in it.
        "http://0x7f.1/",
        "http://127.1/",
        "https://example.org:8443/",
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd00::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://localhost/",
        "http://a.localhost./",
        "http://printer.local/",
    ];
    private.extend(ODD_LOOPBACKS.into_iter().chain(LOOPBACKS));
    vec![row("web_search", of, &public, &private, &["gopher://example.org/", "https://u:p@example.org/"])]
}

fn name_rows() -> Vec<Row> {
    let spawn = |name: &str| Ask::Spawn(name.to_owned());
    let message = |name: &str| Ask::Message(name.to_owned());
    let listed = ["reader", "writer"];
    let others = ["read", "readers", "reader-2", "a", "writer0"];
    let unaskable = ["", "Reader", "reader ", "reader\n", "*", "[reader]", "-reader", "r/w"];
    let any: Vec<&str> = listed.into_iter().chain(others).collect();
    vec![
        row("spawn_child: [reader, writer]", spawn, &listed, &others, &unaskable),
        row("spawn_child: [*]", spawn, &any, &[], &unaskable),
        row("message_send: [reader, writer]", message, &listed, &others, &unaskable),
        row("message_send: [*]", message, &any, &[], &unaskable),
    ]
}

fn program_rows() -> Vec<Row> {
    let of = |path: &str| Ask::Exec(path.to_owned());
    let same = ["/usr/bin/wc", "//usr/bin/wc", "/usr/./bin/wc"];
    let others = [
        "/usr/bin",
        "/usr/bin/wc2",
        "/usr/bin/w",
        "/bin/wc",
        "/usr/bin/wc/x",
        "/usr/bin/../bin/wc",
        "/",
        "/usr/bin/*",
    ];
    vec![row("exec: /usr/bin/wc", of, &same, &others, &NO_PATHS)]
}

fn rows() -> Vec<Row> {
    let mut rows = file_rows("file_read", Ask::Read, Ask::Write);
    rows.extend(file_rows("file_write", Ask::Write, Ask::Read));
    rows.extend(tool_rows());
    rows.extend(network_rows());
    rows.extend(web_rows());
    rows.extend(name_rows());
    rows.extend(program_rows());
    rows
}

/// Agent 1 with this one grant.
fn holding(capability: &Capability, constraints: Constraints) -> Authority {
    let mut grant = request(1, "web_search");
    grant.capability = capability.clone();
    grant.constraints = constraints;
    let mut law = Authority::new(AuthorityLimits::default());
    law.admit_root(admission(1, None), vec![grant], NOW).expect("there is room");
    law
}

fn plain(capability: &Capability) -> Authority {
    holding(capability, Constraints::default())
}

#[test]
fn every_form_has_rows_that_pass_and_rows_that_are_refused() {
    let covered = |part: fn(&Row) -> bool| -> BTreeSet<usize> {
        rows().iter().filter(|row| part(row)).map(|row| slot(&row.capability)).collect()
    };
    let every: BTreeSet<usize> = (0..SLOTS).collect();
    assert_eq!(covered(|row| !row.passes.is_empty()), every);
    assert_eq!(covered(|row| !row.refused.is_empty()), every);
    assert_eq!(covered(|row| !row.unaskable.is_empty()), every);
}

#[test]
fn what_the_table_says_passes_passes_and_nothing_else() {
    for row in rows() {
        let Row { capability, passes, refused, unaskable } = &row;
        for (one, rest) in passes {
            let met = ask(&mut plain(capability), 1, one.wish());
            let met = met.unwrap_or_else(|refusal| panic!("{capability} refuses {one:?}: {refusal}"));
            let relative = met.into_parts().all[0].relative.clone();
            let is_file = matches!(one, Ask::Read(_) | Ask::Write(_));
            assert_eq!(relative.as_deref(), is_file.then_some(rest.as_str()), "{capability}: {one:?}");
        }
        for one in refused {
            let (missing, reason) = denial(ask(&mut plain(capability), 1, one.wish()));
            assert_eq!(reason, "no grant covers it", "{capability}: {one:?}");
            // The control: it is exactly the named grant that is missing. What the grammar has no words for is never
            // given those of another grant.
            let named = GrantSpec::parse(&missing);
            assert!(named.is_ok() || !one.has_words(), "{missing:?} is no grant: {named:?}");
            if let Ok(named) = named {
                let met = ask(&mut plain(&named.capability), 1, one.wish());
                assert!(met.is_ok(), "{missing} does not help {one:?}: {met:?}");
                let exact = |pattern: &PathPattern| pattern.to_string() == *pattern.root().as_str();
                assert!(named.capability.file_pattern().is_none_or(exact), "{missing} is wider than {one:?}");
            }
        }
        for one in unaskable {
            assert_eq!(one.need(), None, "{one:?} can be asked");
        }
    }
}

#[test]
fn no_form_stands_in_for_another() {
    let reaches_hosts = |one: &Capability| matches!(one, Capability::WebSearch | Capability::Network(_));
    let rows = rows();
    for asking in &rows {
        for held in &rows {
            let (wanted, have) = (&asking.capability, &held.capability);
            if slot(wanted) == slot(have) || (reaches_hosts(wanted) && reaches_hosts(have)) {
                continue;
            }
            let mut law = plain(have);
            for (one, _) in &asking.passes {
                assert!(ask(&mut law, 1, one.wish()).is_err(), "{have} let {one:?} pass");
            }
        }
    }
}

/// Constraints that a test of their own shows beside every form's rows.
const SHOWN_ELSEWHERE: [&str; 1] = ["approval_required"];

/// A constraint, and what becomes of one request that is made twice under it.
struct Bound {
    name: &'static str,
    constraints: Constraints,
    first_passes: bool,
    /// Milliseconds until the second.
    wait: u64,
    second_passes: bool,
}

fn bounds() -> Vec<Bound> {
    let none = Constraints::default();
    let bound = |name, constraints, first_passes, wait, second_passes| Bound {
        name,
        constraints,
        first_passes,
        wait,
        second_passes,
    };
    vec![
        bound("max_invocations", Constraints { max_invocations: Some(1), ..none }, true, 0, false),
        bound("max_invocations", Constraints { max_invocations: Some(2), ..none }, true, 0, true),
        bound("max_per_minute", Constraints { max_per_minute: Some(1), ..none }, true, 59_999, false),
        bound("max_per_minute", Constraints { max_per_minute: Some(1), ..none }, true, 60_000, true),
        bound("expires_in_seconds", Constraints { expires_in_seconds: Some(1), ..none }, true, 999, true),
        bound("expires_in_seconds", Constraints { expires_in_seconds: Some(1), ..none }, true, 1_000, false),
        bound("delegate", Constraints { delegate: false, ..none }, true, 0, true),
        bound("use", Constraints { usable: false, ..none }, false, 0, false),
    ]
}

#[test]
fn every_constraint_has_rows() {
    let json = serde_json::to_value(Constraints::default()).expect("JSON");
    let there: BTreeSet<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    let shown: BTreeSet<&str> = bounds().iter().map(|bound| bound.name).chain(SHOWN_ELSEWHERE).collect();
    assert_eq!(there.difference(&shown).collect::<Vec<_>>(), Vec::<&&str>::new(), "constraints without rows");
}

#[test]
fn constraints_bound_what_passes_and_widen_nothing() {
    for row in rows() {
        for Bound { name, constraints, first_passes, wait, second_passes } in bounds() {
            let capability = &row.capability;
            for (one, _) in &row.passes {
                let mut law = holding(capability, constraints);
                let used = act(&mut law, 1, one.need().expect("can be asked"));
                assert_eq!(used.is_ok(), first_passes, "{capability} with {name}: {one:?}: {used:?}");
                let later = Timestamp(NOW.0 + wait);
                let again = law.authorize(agent(1), call(1), one.wish(), later);
                assert_eq!(
                    again.is_ok(),
                    second_passes,
                    "{capability} with {name}, again after {wait} ms: {one:?}"
                );
                assert!(
                    matches!(again, Ok(_) | Err(Refusal::Denied(_))),
                    "{capability} with {name}: a denial, not {again:?}"
                );
            }
            let mut law = holding(capability, constraints);
            for one in &row.refused {
                assert!(ask(&mut law, 1, one.wish()).is_err(), "{capability} with {name} let {one:?} pass");
            }
        }
    }
}

/// What is no pattern, with what the refusal says of it.
const NO_PATTERNS: [(&str, &str); 18] = [
    ("/data/**", "nearest: \"/data/*\""),
    ("/**", "nearest: \"/*\""),
    ("**", "nearest: \"/*\""),
    ("/data/*/x", "nearest: \"/data/*\""),
    ("/*/x", "nearest: \"/*\""),
    ("/data/x*", "nearest: \"/data/*\""),
    ("/data*", "nearest: \"/*\""),
    ("/data/?", "nearest: \"/data/*\""),
    ("/data/[ab]", "nearest: \"/data/*\""),
    ("data", "not absolute"),
    ("./data/*", "not absolute"),
    ("~/data", "not absolute"),
    ("/data/", "write \"/data/*\""),
    ("/data//*", "ends with '/'"),
    ("/", "write \"/*\""),
    ("/data/../etc/*", "holds '..'"),
    ("/..", "holds '..'"),
    ("/data/line\nbreak", "control character"),
];

#[test]
fn what_is_no_pattern_is_refused_when_it_is_read() {
    for form in ["file_read", "file_write"] {
        for (pattern, why) in NO_PATTERNS {
            let words = format!("{form}: {pattern}");
            let error = GrantSpec::parse(&words).map(|spec| spec.to_string()).expect_err(&words).to_string();
            assert!(error.contains(why), "{words:?}: {error}");
        }
        for empty in [form.to_owned(), format!("{form}:"), format!("{form}: ")] {
            assert!(GrantSpec::parse(&empty).is_err(), "{empty:?}");
        }
        let endless = format!("{form}: /{}", "x".repeat(4096));
        assert!(GrantSpec::parse(&endless).is_err_and(|error| error.to_string().contains("longer than")));
        // The controls: `*` is `/*`, and the nearest spelling that a refusal names is one.
        let everything = |words: &str| GrantSpec::parse(&format!("{form}: {words}")).expect(words);
        assert_eq!(everything("*"), everything("/*"));
        assert_eq!(everything("/data/*").to_string(), format!("{form}: /data/*"));
    }
}
