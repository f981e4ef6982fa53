//! The tool `git`: which calls of git only read, and the settings under which git starts nothing else.
//!
//! Invariants: what stands in a repository was written by anybody. No option that starts another program, opens a pager or
//! writes a file is passed on, nor an abbreviation of one; the settings outrank those of the repository. None of
//! this is the boundary: that is a sandbox in which nothing can be changed and nothing but git can be executed.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{self, MAX_GIT_DRIVERS};
use crate::path::AbsPath;
use crate::toolio::{CommandRunInput, ToolFailure, ToolFailureKind};

/// A subcommand that only reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum GitSubcommand {
    /// Who changed which line.
    Blame,
    /// Branches; it lists only.
    Branch,
    /// One object.
    CatFile,
    /// The nearest tag.
    Describe,
    /// Changes.
    Diff,
    /// Changes between trees.
    DiffTree,
    /// References.
    ForEachRef,
    /// Lines that match.
    Grep,
    /// Commits.
    Log,
    /// Files of the index.
    LsFiles,
    /// Files of a tree.
    LsTree,
    /// Common ancestors.
    MergeBase,
    /// Names of commits.
    NameRev,
    /// Commits, by their ids.
    RevList,
    /// Ids of revisions.
    RevParse,
    /// Commits by author.
    Shortlog,
    /// Objects.
    Show,
    /// References, by their ids.
    ShowRef,
    /// What is changed in the work tree.
    Status,
    /// Tags; it lists only.
    Tag,
}

/// Options that stand before the caller's own: nothing but git shows or converts content.
const AS_IT_IS: [&str; 2] = ["--no-ext-diff", "--no-textconv"];
/// Of submodules, that their commit is another, and not what their work tree holds: for that git starts itself anew.
const SUBMODULES_BY_COMMIT: &str = "--ignore-submodules=dirty";

impl GitSubcommand {
    const fn name(self) -> &'static str {
        match self {
            Self::Blame => "blame",
            Self::Branch => "branch",
            Self::CatFile => "cat-file",
            Self::Describe => "describe",
            Self::Diff => "diff",
            Self::DiffTree => "diff-tree",
            Self::ForEachRef => "for-each-ref",
            Self::Grep => "grep",
            Self::Log => "log",
            Self::LsFiles => "ls-files",
            Self::LsTree => "ls-tree",
            Self::MergeBase => "merge-base",
            Self::NameRev => "name-rev",
            Self::RevList => "rev-list",
            Self::RevParse => "rev-parse",
            Self::Shortlog => "shortlog",
            Self::Show => "show",
            Self::ShowRef => "show-ref",
            Self::Status => "status",
            Self::Tag => "tag",
        }
    }

    /// Options that it gets before the caller's own.
    const fn first(self) -> &'static [&'static str] {
        match self {
            Self::Blame | Self::DiffTree | Self::Log | Self::Show => &AS_IT_IS,
            Self::Diff => &[AS_IT_IS[0], AS_IT_IS[1], SUBMODULES_BY_COMMIT],
            Self::Grep => &["--no-textconv"],
            Self::Status => &[SUBMODULES_BY_COMMIT],
            Self::Branch | Self::Tag => &["--list"],
            Self::CatFile
            | Self::Describe
            | Self::ForEachRef
            | Self::LsFiles
            | Self::LsTree
            | Self::MergeBase
            | Self::NameRev
            | Self::RevList
            | Self::RevParse
            | Self::Shortlog
            | Self::ShowRef => &[],
        }
    }

    /// Long options that are refused for this subcommand beside [`REFUSED`].
    const fn refused(self) -> &'static [&'static str] {
        match self {
            // Its diff converts content, and has no option against that.
            Self::Status => &["verbose"],
            Self::CatFile => &["filters"],
            // The same pager under another name, and a search that needs no repository.
            Self::Grep => &["open-files-in-pager"],
            // It starts git once more, to look at a repository that may be broken.
            Self::Describe => &["broken"],
            _ => &[],
        }
    }

    /// Short options that are refused, also where they stand behind others.
    const fn refused_letters(self) -> &'static [char] {
        match self {
            Self::Status => &['v'],
            Self::Grep => &['O'],
            _ => &[],
        }
    }

    /// The only options that are taken, where one that changes something is never far.
    const fn listing_options(self) -> Option<[&'static [&'static str]; 2]> {
        match self {
            Self::Branch => Some([&LISTING, &LISTING_BRANCHES]),
            Self::Tag => Some([&LISTING, &[]]),
            _ => None,
        }
    }
}

/// Long options that write a file, start a program, or read what is no part of the repository.
const REFUSED: [&str; 10] = [
    "output",
    "ext-diff",
    "textconv",
    "no-index",
    "alternate-refs",
    "help",
    "show-signature",
    "recurse-submodules",
    "submodule",
    "ignore-submodules",
];
/// Options of other meaning that an option above begins with.
const HARMLESS_PREFIXES: [&str; 1] = ["text"];
/// Options with which branches and tags are listed; the long ones may have a value.
const LISTING: [&str; 20] = [
    "-a",
    "-i",
    "-l",
    "-n",
    "-r",
    "--abbrev",
    "--all",
    "--contains",
    "--format",
    "--ignore-case",
    "--list",
    "--merged",
    "--no-abbrev",
    "--no-color",
    "--no-contains",
    "--no-merged",
    "--omit-empty",
    "--points-at",
    "--remotes",
    "--sort",
];
/// The same for branches alone: of a tag, `-v` has the signature checked.
const LISTING_BRANCHES: [&str; 3] = ["-v", "-vv", "--verbose"];

/// Input of `git`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GitInput {
    /// What to look at.
    pub subcommand: GitSubcommand,
    /// Options, revisions and paths, as git takes them after the subcommand.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub args: Vec<String>,
    /// A directory of the repository.
    pub directory: AbsPath,
    /// How long it may run, seconds (up to 600).
    #[serde(default = "git_seconds")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: u64,
}

const fn git_seconds() -> u64 {
    limits::COMMAND_SECONDS
}

impl GitInput {
    /// What a schema cannot say: the length of the arguments, and that no option does more than read.
    ///
    /// # Errors
    /// [`ToolFailure`] (invalid arguments).
    pub fn check(&self) -> Result<(), ToolFailure> {
        // The program's own path is known only later, and no longer than any path.
        let longest = format!("/{}", "x".repeat(limits::MAX_PATH_BYTES - 1));
        let longest = AbsPath::parse(&longest).unwrap_or_else(|error| unreachable!("a path: {error}"));
        self.command(&longest).check()?;
        // Behind an option without a value it can be that option's value, and ends nothing.
        let lacks_value = |before: &str| before.starts_with('-') && !before.contains('=');
        let ends = |(before, arg): &(&str, &String)| *arg == "--" && !lacks_value(before);
        let before = std::iter::once("").chain(self.args.iter().map(String::as_str));
        let options = before.zip(&self.args).take_while(|pair| !ends(pair)).map(|(_, arg)| arg);
        match options.filter(|arg| *arg != "--").filter_map(|arg| self.refusal(arg)).next() {
            Some(why) => Err(ToolFailure::new(ToolFailureKind::InvalidArguments, why)),
            None => Ok(()),
        }
    }

    /// Why an argument is refused. What is the value of the option before it is judged like an option itself.
    fn refusal(&self, arg: &str) -> Option<String> {
        let name = self.subcommand.name();
        if !arg.starts_with('-') {
            return None;
        }
        if let Some(listing) = self.subcommand.listing_options() {
            let option = arg.split_once('=').map_or(arg, |(option, _)| option);
            let is_count = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
            let known = listing.concat().contains(&option) || arg.strip_prefix("-n").is_some_and(is_count);
            return (!known).then(|| format!("git {name} only lists here, which {arg:?} is no option for"));
        }
        let refused = match arg.strip_prefix("--") {
            Some(long) => {
                is_refused(long.split_once('=').map_or(long, |(option, _)| option), self.subcommand)
            }
            None => arg.contains(self.subcommand.refused_letters()),
        };
        refused.then(|| {
            format!(
                "{arg:?} is refused: git {name} would start another program, write a file or leave the repository; \
                 write options in full and each by itself"
            )
        })
    }

    /// The call itself.
    #[must_use]
    pub fn command(&self, program: &AbsPath) -> CommandRunInput {
        let fixed = ["--no-pager", "--no-optional-locks", self.subcommand.name()];
        let first = fixed.iter().chain(self.subcommand.first()).map(|arg| (*arg).to_owned());
        self.starting(program, first.chain(self.args.iter().cloned()).collect())
    }

    /// The call before it, which says what programs the repository names for the content of its files.
    #[must_use]
    pub fn drivers_command(&self, program: &AbsPath) -> CommandRunInput {
        let args = ["--no-pager", "config", "--includes", "--name-only", "--get-regexp", "^filter\\."];
        self.starting(program, args.map(str::to_owned).to_vec())
    }

    fn starting(&self, program: &AbsPath, args: Vec<String>) -> CommandRunInput {
        CommandRunInput {
            program: program.clone(),
            args,
            stdin: None,
            directory: Some(self.directory.clone()),
            timeout_seconds: self.timeout_seconds,
        }
    }

    /// The environment of both calls, without what names the drivers: git's settings outrank a repository's.
    #[must_use]
    pub fn environment(&self, drivers: &GitDrivers) -> Vec<String> {
        let mut settings: Vec<(String, &str)> =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        for name in &drivers.0 {
            for (key, value) in [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")] {
                settings.push((format!("filter.{name}.{key}"), value));
            }
        }
        // Its owner is another one in the sandbox, where the file system cannot show it as the program's own.
        let directories: Vec<AbsPath> = std::iter::successors(Some(self.directory.clone()), |below| {
            below.split_last().map(|(above, _)| above).filter(|above| above.as_str() != "/")
        })
        .collect();
        let safe = directories.iter().map(|directory| ("safe.directory".to_owned(), directory.as_str()));
        settings.extend(safe);
        let mut environment: Vec<String> = VARIABLES.iter().map(|one| (*one).to_owned()).collect();
        environment.push(format!("GIT_CONFIG_COUNT={}", settings.len()));
        for (number, (key, value)) in settings.iter().enumerate() {
            environment.push(format!("GIT_CONFIG_KEY_{number}={key}"));
            environment.push(format!("GIT_CONFIG_VALUE_{number}={value}"));
        }
        environment
    }
}

/// Whether a long option is one of those that are refused, or may be an abbreviation of one.
fn is_refused(option: &str, subcommand: GitSubcommand) -> bool {
    let mut refused = REFUSED.iter().chain(subcommand.refused());
    !HARMLESS_PREFIXES.contains(&option) && !option.is_empty() && refused.any(|one| one.starts_with(option))
}

/// Filters that a repository names: programs through which content passes between work tree and repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitDrivers(BTreeSet<String>);

impl GitDrivers {
    /// From what the call of [`GitInput::drivers_command`] wrote, which is as hostile as the repository.
    ///
    /// # Errors
    /// [`ToolFailure`] for more of them than a repository has a use for.
    pub fn parse(listed: &str) -> Result<Self, ToolFailure> {
        // A byte that is no text became this, and settings for that name would be another filter's.
        if listed.contains('\u{fffd}') {
            let why = "the repository's configuration names a filter that is not UTF-8; take it out of it";
            return Err(ToolFailure::new(ToolFailureKind::WrongKind, why));
        }
        let keys = listed.lines().filter_map(|key| key.strip_prefix("filter."));
        let names: BTreeSet<String> =
            keys.filter_map(|key| key.rsplit_once('.')).map(|(name, _)| name.to_owned()).collect();
        if names.len() > MAX_GIT_DRIVERS || listed.len() > limits::COMMAND_OUTPUT_HALF_BYTES {
            let why = format!(
                "the repository's configuration names more than {MAX_GIT_DRIVERS} filters, or very long ones; take \
                 them out of it"
            );
            return Err(ToolFailure::new(ToolFailureKind::LimitReached, why));
        }
        Ok(Self(names))
    }

    /// Whether a worker may have read that: no more than git's environment has room for, and nothing that cannot stand
    /// in one.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let bytes: usize = self.0.iter().map(String::len).sum();
        self.0.len() <= MAX_GIT_DRIVERS
            && bytes <= limits::COMMAND_OUTPUT_HALF_BYTES
            && !self.0.iter().any(|name| name.contains(['\0', '\n']))
    }
}

/// Variables of git's own: no other configuration than the repository's, no question, no protocol.
const VARIABLES: [&str; 11] = [
    "GIT_CONFIG_NOSYSTEM=1",
    "GIT_CONFIG_GLOBAL=/dev/null",
    "GIT_ATTR_NOSYSTEM=1",
    "GIT_OPTIONAL_LOCKS=0",
    "GIT_TERMINAL_PROMPT=0",
    "GIT_NO_LAZY_FETCH=1",
    "GIT_ALLOW_PROTOCOL=none",
    "GIT_EXEC_PATH=/dev/null",
    "HOME=/tmp",
    "LC_ALL=C.UTF-8",
    "PATH=/dev/null",
];

/// Settings that name a program, or lead to one. `/dev/null` cannot be executed.
const SETTINGS: [(&str, &str); 24] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.pager", "/dev/null"),
    ("core.editor", "/dev/null"),
    ("sequence.editor", "/dev/null"),
    ("core.askPass", "/dev/null"),
    ("core.sshCommand", "/dev/null"),
    ("core.gitProxy", "/dev/null"),
    ("core.alternateRefsCommand", "/dev/null"),
    ("credential.helper", ""),
    ("protocol.allow", "never"),
    ("gpg.program", "/dev/null"),
    ("gpg.openpgp.program", "/dev/null"),
    ("gpg.x509.program", "/dev/null"),
    ("gpg.ssh.program", "/dev/null"),
    ("gpg.ssh.defaultKeyCommand", "/dev/null"),
    ("log.showSignature", "false"),
    ("diff.submodule", "short"),
    ("status.submoduleSummary", "false"),
    ("submodule.recurse", "false"),
    ("interactive.diffFilter", "/dev/null"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.untrackedCache", "false"),
];

#[cfg(test)]
mod tests;
