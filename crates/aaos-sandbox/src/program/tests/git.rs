//! git in a hostile repository: what its configuration names is not started, by either of two reasons alone.
//!
//! Invariant: each thing that a repository can have started is started in the control, by the same git with the same
//! words; inside too, where a sandbox lets its program execute others.

use std::collections::BTreeSet;

use aaos_core::git::{GitDrivers, GitInput};
use serde_json::json;

use super::{CommandRunInput, Executes, FileRight, PermissionsExt, ProgramCall, Rig, fs, input, text_of};
use crate::program::tests::abs;

fn real_git() -> &'static str {
    let places = ["/usr/bin/git", "/usr/local/bin/git"];
    places.into_iter().find(|path| fs::metadata(path).is_ok()).expect("git is installed")
}

/// A repository whose configuration names a program for everything, and where the marks of these programs go.
struct Hostile {
    rig: Rig,
    repository: String,
    tools: String,
    marks: String,
}

/// What a repository can have started, and which words of git have it started.
const CASES: [(&str, &[&str]); 10] = [
    ("fsmonitor", &["status"]),
    ("hook", &["status"]),
    ("external", &["diff"]),
    ("driver", &["diff", "HEAD", "--", "driven.txt"]),
    ("textconv", &["show"]),
    ("clean", &["diff"]),
    ("smudge", &["cat-file", "--filters", "HEAD:a.txt"]),
    ("pager", &["grep", "-O", "changed"]),
    ("gpg", &["log", "--show-signature"]),
    ("remote", &["cat-file", "-p", "1111111111111111111111111111111111111111"]),
];

/// A commit with a signature that only a program could check.
const SIGNED: &str = "author n <n@localhost> 1 +0000\ncommitter n <n@localhost> 1 +0000\n\
    gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\nsigned\n";

impl Hostile {
    fn new() -> Self {
        let mut rig = Rig::new(&[real_git(), "/bin/sh", "/bin/cat"]);
        let repository = rig.grant(FileRight::Read, "repository");
        rig.grant(FileRight::Write, "repository");
        let (tools, marks) = (rig.grant(FileRight::Read, "tools"), rig.grant(FileRight::Write, "marks"));
        let hostile = Self { rig, repository, tools, marks };
        hostile.git(&["init", "-q", "-b", "main"]);
        hostile.write(".gitattributes", "a.txt filter=f diff=d\ndriven.txt diff=e\n");
        hostile.write("a.txt", "first\n");
        hostile.write("driven.txt", "first\n");
        hostile.git(&["add", "."]);
        hostile.git(&["commit", "-q", "-m", "one"]);
        let tree = hostile.git(&["rev-parse", "HEAD^{tree}"]);
        hostile.write("commit", &format!("tree {}\n{SIGNED}", tree.trim()));
        let commit = hostile.git(&["hash-object", "-t", "commit", "-w", "commit"]);
        hostile.git(&["update-ref", "refs/heads/main", commit.trim()]);
        fs::remove_file(format!("{}/commit", hostile.repository)).expect("removed");
        hostile.configure();
        hostile
    }

    fn configure(&self) {
        let set = |key: &str, value: &str| drop(self.git(&["config", key, value]));
        // Some of it stands in a file that the configuration includes.
        self.write(".git/more", &format!("[core]\n\tfsmonitor = {}\n", self.tool("fsmonitor")));
        set("include.path", "more");
        set("diff.external", &self.tool("external"));
        set("diff.d.textconv", &self.tool("textconv"));
        set("diff.e.command", &self.tool("driver"));
        set("filter.f.clean", &self.tool("clean"));
        set("filter.f.smudge", &self.tool("smudge"));
        set("filter.f.required", "true");
        set("core.pager", &self.tool("pager"));
        set("gpg.program", &self.tool("gpg"));
        set("core.hooksPath", &self.tools);
        fs::rename(self.tool("hook"), format!("{}/post-index-change", self.tools)).expect("moved");
        set("extensions.partialClone", "origin");
        set("remote.origin.promisor", "true");
        set("remote.origin.url", &format!("ext::{}", self.tool("remote")));
        set("protocol.ext.allow", "always");
    }

    /// A program that leaves a mark of its name.
    fn tool(&self, name: &str) -> String {
        let path = format!("{}/{name}", self.tools);
        // A transport that answered itself would never end.
        let answer = if name == "remote" { "exit 1" } else { "exec /bin/cat" };
        fs::write(&path, format!("#!/bin/sh\n: > {}/{name}\n{answer}\n", self.marks)).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        path
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(format!("{}/{name}", self.repository), text).expect("written");
    }

    /// The state in which every case applies: files that differ from the index, and no marks.
    fn arm(&self) {
        self.write("a.txt", "changed\n");
        self.write("driven.txt", "changed\n");
        // With it the index is written anew, where that is possible.
        let index = fs::File::open(format!("{}/.git/index", self.repository)).expect("an index");
        index.set_modified(std::time::UNIX_EPOCH).expect("set");
        for mark in self.marks() {
            fs::remove_file(format!("{}/{mark}", self.marks)).expect("removed");
        }
    }

    fn marks(&self) -> BTreeSet<String> {
        let names = fs::read_dir(&self.marks).expect("a directory");
        names.map(|name| name.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
    }

    /// git outside, as anybody would call it in this repository.
    fn git(&self, args: &[&str]) -> String {
        let settings = ["user.name=n", "user.email=n@localhost", "commit.gpgSign=false"];
        let settings: Vec<&str> = settings.iter().flat_map(|one| ["-c", one]).collect();
        self.outside(&[&settings[..], args].concat(), &["HOME=/nonexistent".to_owned()])
    }

    #[expect(clippy::disallowed_methods, reason = "the controls run outside")]
    fn outside(&self, args: &[&str], environment: &[String]) -> String {
        let mut command = std::process::Command::new(real_git());
        let pairs = environment.iter().filter_map(|one| one.split_once('='));
        command.args(args).current_dir(&self.repository).env_clear().envs(pairs);
        let output = command.stdin(std::process::Stdio::null()).output().expect("it runs");
        text_of(&output)
    }

    fn input(&self, args: &[&str]) -> GitInput {
        let asked = json!({ "subcommand": args[0], "args": args[1..], "directory": self.repository });
        serde_json::from_value(asked).expect("an input")
    }

    fn drivers(&self) -> GitDrivers {
        let listed = self.input(&["status"]).drivers_command(&abs(real_git()));
        let words: Vec<&str> = listed.args.iter().map(String::as_str).collect();
        GitDrivers::parse(&self.outside(&words, &[])).expect("few")
    }

    /// A call without any of the tool's own words, in the repository.
    fn bare(&self, args: &[&str], executes: Executes) -> ProgramCall {
        let input = CommandRunInput { directory: Some(abs(&self.repository)), ..input(real_git(), args) };
        let environment =
            ["HOME=/tmp", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"];
        let environment = environment.map(str::to_owned).to_vec();
        ProgramCall { input, environment, executes, world: self.rig.world.clone(), is_granted: true }
    }
}

#[tokio::test]
async fn what_a_repository_names_is_started_outside_and_in_a_sandbox_that_is_not_sealed() {
    let hostile = Hostile::new();
    for (mark, args) in CASES {
        hostile.arm();
        let said = hostile.git(args);
        assert!(hostile.marks().contains(mark), "{mark}: {said}");
        hostile.arm();
        let said = hostile.rig.run_call(hostile.bare(args, Executes::Shown)).await.expect("it runs");
        assert!(hostile.marks().contains(mark), "{mark}: {said:?}");
    }
    hostile.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn a_sealed_sandbox_alone_starts_none_of_it() {
    let hostile = Hostile::new();
    for (mark, args) in CASES {
        hostile.arm();
        let said = hostile.rig.run_call(hostile.bare(args, Executes::Nothing)).await.expect("it runs");
        assert_eq!(hostile.marks(), BTreeSet::new(), "{mark}: {said:?}");
    }
    let plain = hostile.rig.run_call(hostile.bare(&["rev-parse", "HEAD"], Executes::Nothing)).await;
    assert_eq!(plain.expect("it runs").stdout.trim().len(), 40, "git itself works in it");
    hostile.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn the_settings_alone_start_none_of_it_either() {
    let hostile = Hostile::new();
    let drivers = hostile.drivers();
    let mut refused = Vec::new();
    for (mark, args) in CASES {
        hostile.arm();
        let input = hostile.input(args);
        let environment = input.environment(&drivers);
        let called = input.command(&abs(real_git()));
        // What is not taken is made with the settings all the same.
        let words: Vec<&str> = match input.check() {
            Ok(()) => called.args.iter().map(String::as_str).collect(),
            Err(_) => {
                refused.push(mark);
                [&["--no-pager"], args].concat()
            }
        };
        let said = hostile.outside(&words, &environment);
        assert_eq!(hostile.marks(), BTreeSet::new(), "{mark}: {said}");
    }
    assert_eq!(refused, ["smudge", "pager", "gpg"]);
    hostile.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn the_tool_reads_a_hostile_repository_and_changes_nothing_in_it() {
    let mut hostile = Hostile::new();
    let roots = std::mem::take(&mut hostile.rig.world.roots);
    hostile.rig.world.roots = roots.into_iter().filter(|root| root.right == FileRight::Read).collect();
    let drivers = hostile.drivers();
    hostile.arm();
    let index = fs::read(format!("{}/.git/index", hostile.repository)).expect("an index");
    for (args, wanted) in [
        (&["status", "--short"][..], " M a.txt"),
        (&["diff", "HEAD"], "+changed"),
        (&["log", "-p", "--format=%s"], "signed"),
        (&["show", "HEAD~0:a.txt"], "first"),
        (&["blame", "a.txt"], "changed"),
        (&["grep", "-n", "changed"], "a.txt:1:changed"),
        (&["branch", "-a"], "main"),
        (&["tag"], ""),
        (&["shortlog", "-s", "HEAD"], "n"),
        (&["ls-files", "-m"], "a.txt"),
        (&["describe", "--always", "--dirty"], "-dirty"),
        (&["for-each-ref"], "refs/heads/main"),
    ] {
        let input = hostile.input(args);
        input.check().expect("it is taken");
        let call = ProgramCall::sealed(
            input.command(&abs(real_git())),
            input.environment(&drivers),
            &hostile.rig.world,
        );
        let said = hostile.rig.run_call(call).await.expect("it runs");
        assert!(said.exit_code == 0 && said.stdout.contains(wanted), "{args:?}: {said:?}");
    }
    assert_eq!(hostile.marks(), BTreeSet::new());
    assert_eq!(fs::read(format!("{}/.git/index", hostile.repository)).expect("an index"), index);
    hostile.rig.sandbox.shutdown().await;
}

#[tokio::test]
async fn what_is_sealed_executes_neither_a_program_of_the_system_nor_a_granted_file() {
    let mut rig = Rig::new(&["/bin/sh"]);
    let tools = rig.grant(FileRight::Read, "tools");
    fs::copy("/bin/true", format!("{tools}/true")).expect("copied");
    let script = format!(
        "/bin/true && echo ran; {tools}/true && echo ran; exec 3</bin/true; /proc/self/fd/3 && echo ran; \
         /lib64/ld-linux-x86-64.so.2 /bin/true && echo ran; echo over"
    );
    let call = |executes| ProgramCall { executes, ..rig.call(input("/bin/sh", &["-c", &script])) };
    let sealed = rig.run_call(call(Executes::Nothing)).await.expect("it runs");
    assert_eq!(sealed.stdout, "over\n", "{sealed:?}");
    assert_eq!(sealed.stderr.matches("Operation not permitted").count(), 4, "{sealed:?}");
    let free = rig.run_call(call(Executes::Shown)).await.expect("it runs");
    assert_eq!(free.stdout, "ran\nran\nran\nran\nover\n", "the control: {free:?}");
    rig.sandbox.shutdown().await;
}
