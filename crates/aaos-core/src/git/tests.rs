//! Which calls of git are taken, and under which settings they are made.

use serde_json::json;

use super::{GitDrivers, GitInput, GitSubcommand, SETTINGS};
use crate::limits::{self, COMMAND_SECONDS, MAX_COMMAND_ARGUMENTS, MAX_GIT_DRIVERS};
use crate::path::AbsPath;
use crate::tool::{ToolInput, find};

fn input(subcommand: GitSubcommand, args: &[&str]) -> GitInput {
    GitInput {
        subcommand,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        directory: AbsPath::parse("/srv/repo").expect("a path"),
        timeout_seconds: COMMAND_SECONDS,
    }
}

fn is_taken(subcommand: GitSubcommand, args: &[&str]) -> bool {
    input(subcommand, args).check().is_ok()
}

#[test]
fn what_only_reads_is_taken() {
    use GitSubcommand::{Blame, Branch, CatFile, Diff, Grep, Log, LsFiles, RevParse, Show, Status, Tag};
    for (subcommand, args) in [
        (Status, &["--porcelain=v2", "--branch", "-s"][..]),
        (Log, &["-p", "--text", "-5", "--format=%H %s", "--", "--output=x"]),
        (Log, &["-O", "orderfile"]),
        (Diff, &["--stat", "-M", "-C", "HEAD~1", "--output-indicator-new=>"]),
        (Show, &["HEAD:a file", "-c"]),
        (Blame, &["-L", "1,3", "f"]),
        (Grep, &["-n", "-e", "word"]),
        (RevParse, &["--git-dir"]),
        (CatFile, &["-p", "HEAD"]),
        (LsFiles, &["-m"]),
        (Branch, &["-a", "-vv", "--sort=-committerdate", "--contains", "HEAD"]),
        (Tag, &["-n3", "-n", "v*", "--points-at=HEAD"]),
    ] {
        let taken = input(subcommand, args).check();
        assert_eq!(taken, Ok(()), "{subcommand:?} {args:?}");
    }
}

#[test]
fn what_does_more_than_read_is_refused_however_it_is_abbreviated() {
    use GitSubcommand::{Branch, CatFile, Describe, Diff, Grep, Log, Show, Status, Tag};
    for (subcommand, arg) in [
        (Log, "--output=/tmp/x"),
        (Log, "--outp=/tmp/x"),
        (Show, "--ext-diff"),
        (Show, "--ext"),
        (Diff, "--textconv"),
        (Diff, "--textc"),
        (Diff, "--no-index"),
        (Log, "--show-signature"),
        (Log, "--show-sig"),
        (Log, "--alternate-refs"),
        (Log, "--help"),
        (Diff, "--o"),
        (Grep, "-O"),
        (Grep, "-nO/bin/sh"),
        (Grep, "--open-files-in-pager=/bin/sh"),
        (Grep, "--open"),
        (Grep, "--recurse-submodules"),
        (Status, "-v"),
        (Status, "-sv"),
        (Status, "--verb"),
        (CatFile, "--filters"),
        (CatFile, "--textconv"),
        (Describe, "--broken"),
        (Diff, "--submodule=diff"),
        (Diff, "--ignore-submodules=none"),
        (Status, "--ignore-sub=none"),
        (Branch, "-d"),
        (Branch, "-D"),
        (Branch, "-m"),
        (Branch, "-f"),
        (Branch, "-u"),
        (Branch, "--edit-description"),
        (Branch, "--edit"),
        (Branch, "-av"),
        (Tag, "-d"),
        (Tag, "-v"),
        (Tag, "-s"),
        (Tag, "-nx"),
        (Tag, "--verify"),
    ] {
        let taken = is_taken(subcommand, &[arg]) || is_taken(subcommand, &["HEAD", arg]);
        assert!(!taken, "{subcommand:?} {arg}");
        assert!(
            is_taken(subcommand, &["--", arg]),
            "the control: behind -- it is a path, {subcommand:?} {arg}"
        );
    }
}

#[test]
fn what_stands_behind_the_value_of_an_option_is_an_option_still() {
    use GitSubcommand::{Branch, CatFile, Grep, Log};
    for (subcommand, args) in [
        (Grep, ["-e", "--", "-O/bin/echo"]),
        (Branch, ["--sort", "--", "-D"]),
        (CatFile, ["--path", "--", "--filters"]),
    ] {
        assert!(!is_taken(subcommand, &args), "{subcommand:?} {args:?}");
    }
    assert!(is_taken(Log, &["HEAD", "--", "--output"]), "the control: there it ends the options");
}

#[test]
fn arguments_are_bounded() {
    let many = vec!["x"; MAX_COMMAND_ARGUMENTS - 8];
    assert!(is_taken(GitSubcommand::Log, &many));
    assert!(
        !is_taken(GitSubcommand::Log, &vec!["x"; MAX_COMMAND_ARGUMENTS]),
        "with git's own there are more"
    );
    assert!(!is_taken(GitSubcommand::Log, &["a\0b"]));
    assert!(!is_taken(GitSubcommand::Log, &["x".repeat(130 * 1024).as_str()]));
}

#[test]
fn the_caller_s_arguments_stand_behind_those_that_are_git_s_own() {
    let program = AbsPath::parse("/usr/bin/git").expect("a path");
    let called = input(GitSubcommand::Diff, &["HEAD"]).command(&program);
    let wanted = [
        "--no-pager",
        "--no-optional-locks",
        "diff",
        "--no-ext-diff",
        "--no-textconv",
        "--ignore-submodules=dirty",
    ];
    assert_eq!(called.args[..6], wanted);
    assert_eq!(called.args[6..], ["HEAD"]);
    assert_eq!(called.directory.expect("a directory").as_str(), "/srv/repo");
    assert_eq!(called.program, program);
    let tags = input(GitSubcommand::Tag, &[]).command(&program);
    assert_eq!(tags.args[2..], ["tag", "--list"]);
}

#[test]
fn the_settings_come_by_number_with_the_drivers_and_the_directories() {
    let drivers =
        GitDrivers::parse("filter.lfs.clean\nfilter.lfs.required\nfilter.a.b=c.smudge\nx.y.z\nfilter.odd\n");
    let drivers = drivers.expect("few");
    let environment = input(GitSubcommand::Status, &[]).environment(&drivers);
    let count = SETTINGS.len() + 2 * 4 + 2;
    assert!(environment.contains(&format!("GIT_CONFIG_COUNT={count}")), "{environment:?}");
    let value_of = |key: &str| {
        let names = environment.iter().filter_map(|one| one.strip_prefix("GIT_CONFIG_KEY_"));
        let mut pairs = names.filter_map(|one| one.split_once('='));
        let (number, _) = pairs.find(|(_, name)| *name == key)?;
        let wanted = format!("GIT_CONFIG_VALUE_{number}=");
        environment.iter().find_map(|one| one.strip_prefix(&wanted))
    };
    assert_eq!(value_of("filter.lfs.required"), Some("false"));
    assert_eq!(value_of("filter.lfs.clean"), Some(""));
    assert_eq!(value_of("filter.a.b=c.process"), Some(""));
    assert_eq!(value_of("core.fsmonitor"), Some("false"));
    assert_eq!(value_of("safe.directory"), Some("/srv/repo"));
    let safe = |path: &str| environment.iter().any(|one| one.ends_with(&format!("={path}")));
    assert!(safe("/srv") && !safe("/"), "{environment:?}");
    assert_eq!(environment.iter().filter(|one| one.starts_with("GIT_CONFIG_KEY_")).count(), count);
    assert_eq!(environment.iter().filter(|one| one.starts_with("GIT_CONFIG_VALUE_")).count(), count);
}

#[test]
fn a_repository_names_no_end_of_filters() {
    let listed = |count: usize| (0..count).map(|n| format!("filter.{n}.clean\n")).collect::<String>();
    assert!(GitDrivers::parse(&listed(MAX_GIT_DRIVERS)).is_ok());
    assert!(GitDrivers::parse(&listed(MAX_GIT_DRIVERS + 1)).is_err());
    assert!(GitDrivers::parse(&format!("filter.{}.clean", "x".repeat(70_000))).is_err());
    assert!(GitDrivers::parse("filter.\u{fffd}.clean").is_err(), "whose name nobody knows");
}

#[test]
fn whatever_a_worker_says_filters_fit_into_an_environment() {
    let named = |names: &[&str]| GitDrivers(names.iter().map(|name| (*name).to_owned()).collect());
    assert!(named(&[]).is_usable() && named(&["lfs", "a.b=c"]).is_usable());
    for odd in ["a\0b", "a\nb", &"x".repeat(limits::COMMAND_OUTPUT_HALF_BYTES + 1)] {
        assert!(!named(&[odd]).is_usable());
    }
    let many = |count: usize| GitDrivers((0..count).map(|n| n.to_string()).collect());
    assert!(many(MAX_GIT_DRIVERS).is_usable() && !many(MAX_GIT_DRIVERS + 1).is_usable());
}

#[test]
fn the_schema_names_the_subcommands() {
    let tool = find("git").expect("it is there");
    let parsed =
        tool.parse_input(json!({ "subcommand": "ls-files", "directory": "/srv/repo" })).expect("defaults");
    assert_eq!(parsed, ToolInput::Git(input(GitSubcommand::LsFiles, &[])));
    assert!(tool.parse_input(json!({ "subcommand": "push", "directory": "/srv/repo" })).is_err());
    let schema = tool.input_schema();
    assert_eq!(schema["properties"]["timeout_seconds"]["maximum"], 600);
    assert!(schema["properties"]["subcommand"].to_string().contains("ls-tree"), "{schema}");
}
