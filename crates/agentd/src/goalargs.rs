//! From flags and a goal's text to what is submitted: the root grant and the declared outputs (SPEC §8).
//!
//! Invariants: what is granted here is printed before work begins; nothing in a goal's prose grants more than
//! public hosts of its URLs; a flag replaces a default instead of widening it.

use std::collections::BTreeSet;
use std::path::Path;

use aaos_core::capability::{Capability, GrantSpec, HostRule, NameSet, ToolSet, Value, tool_name};
use aaos_core::manifest::Manifest;
use aaos_core::name::ToolName;
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::quantity::{MicroUsd, Tokens};
use clap::Args;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::exit::UsageError;
use crate::goaltext::{self, Ground, Refused};

/// Where results go by default, below the working directory.
const OUTPUT_DIRECTORY: &str = "output";
/// Most outputs of one goal.
const MAX_OUTPUTS: usize = 256;

/// Flags of `run` and `submit`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GoalFlags {
    /// What is to be done, in quotes
    pub(crate) goal: String,
    /// Let it read DIR (or one file) instead of the working directory; may be given again
    #[arg(long, value_name = "DIR", help_heading = "Grants")]
    pub(crate) read: Vec<String>,
    /// Let it write below DIR (or one file) instead of ./output; may be given again
    #[arg(long, value_name = "DIR", help_heading = "Grants")]
    pub(crate) write: Vec<String>,
    /// Let it fetch from HOST[:PORT], loopback and private addresses included; *.HOST means its subdomains
    #[arg(long, value_name = "HOST", help_heading = "Grants")]
    pub(crate) network: Vec<String>,
    /// Let it fetch from every public host
    #[arg(long, help_heading = "Grants")]
    pub(crate) web: bool,
    /// Let it start PROGRAM (a path, or a name in the system's directories) in a sandbox; may be given again
    #[arg(long, value_name = "PROGRAM", help_heading = "Grants")]
    pub(crate) exec: Vec<String>,
    /// The goal's agent, instead of the bootstrap agent: its own capabilities replace the default grants
    #[arg(long, value_name = "FILE", help_heading = "Grants")]
    pub(crate) manifest: Option<std::path::PathBuf>,
    /// Ask a person before each use of TOOL, by a child too; may be given again
    #[arg(long, value_name = "TOOL", value_parser = tool_name, help_heading = "Grants")]
    pub(crate) approve: Vec<ToolName>,
    /// A file that must exist or change for success, instead of the paths in the goal; may be given again
    #[arg(long, value_name = "PATH", help_heading = "Limits and results")]
    pub(crate) output: Vec<String>,
    /// Most tokens for the whole goal, children included
    #[arg(long, value_name = "N", value_parser = at_least_one(), help_heading = "Limits and results")]
    pub(crate) budget_tokens: Option<u64>,
    /// Most US dollars for the whole goal, for example 1.50; its models need a price
    #[arg(long, value_name = "USD", value_parser = dollars, help_heading = "Limits and results")]
    pub(crate) budget_usd: Option<MicroUsd>,
    /// Most run time of the goal's root agent; children end with it
    #[arg(long, value_name = "SECONDS", value_parser = at_least_one(), help_heading = "Limits and results")]
    pub(crate) budget_seconds: Option<u64>,
    /// Fail when it is not done after this long
    #[arg(long, value_name = "SECONDS", value_parser = at_least_one(), help_heading = "Limits and results")]
    pub(crate) deadline: Option<u64>,
}

fn at_least_one() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

fn dollars(text: &str) -> Result<MicroUsd, String> {
    MicroUsd::from_decimal(text)
        .filter(|usd| *usd > MicroUsd::ZERO)
        .ok_or_else(|| "write US dollars above 0, with at most six decimals, for example 1.50".to_owned())
}

/// The purse that flags ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Tokens.
    pub(crate) tokens: Option<Tokens>,
    /// Money.
    pub(crate) usd: Option<MicroUsd>,
    /// Run time of the root agent.
    pub(crate) seconds: Option<u64>,
}

/// Where a goal is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The working directory.
    pub(crate) directory: AbsPath,
    /// The home directory, if there is one.
    pub(crate) home: Option<AbsPath>,
    /// Where programs are looked up by name.
    pub(crate) programs: Vec<AbsPath>,
}

/// The system's own directories of programs: what a name means does not depend on who asks from where.
const PROGRAM_DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl Place {
    /// The place of this process.
    ///
    /// # Errors
    /// [`UsageError`] when the working directory is gone or its path is not UTF-8.
    pub(crate) fn here(home: Option<&Path>) -> Result<Self, UsageError> {
        let directory = std::env::current_dir().map_err(|error| {
            UsageError(format!("cannot tell the working directory: {error}; change to one that exists"))
        })?;
        let home = home.and_then(|home| home.canonicalize().ok());
        let programs = PROGRAM_DIRECTORIES.iter().filter_map(|path| AbsPath::parse(path).ok());
        Ok(Self {
            directory: abs_path(&directory)?,
            home: home.and_then(|home| abs_path(&home).ok()),
            programs: programs.collect(),
        })
    }
}

fn abs_path(path: &Path) -> Result<AbsPath, UsageError> {
    let unusable = |why: String| UsageError(format!("the path {} cannot be used: {why}", path.display()));
    let text = path.to_str().ok_or_else(|| unusable("it is not UTF-8".to_owned()))?;
    AbsPath::parse(text).map_err(|error| unusable(error.to_string()))
}

/// What is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoalPlan {
    /// The goal as typed.
    pub(crate) goal: String,
    /// Where relative paths in it start.
    pub(crate) directory: AbsPath,
    /// The operator's grants beside the manifest's own.
    pub(crate) grants: Vec<GrantSpec>,
    /// The manifest's own grants, when there is a manifest.
    pub(crate) own_grants: Vec<GrantSpec>,
    /// The manifest's text.
    pub(crate) manifest: Option<String>,
    /// Tools of which each use waits for a person; the flags' and the manifest's.
    pub(crate) approve: Vec<ToolName>,
    /// Declared outputs.
    pub(crate) outputs: Vec<AbsPath>,
    /// Purse.
    pub(crate) budget: Budget,
    /// Deadline.
    pub(crate) deadline_seconds: Option<u64>,
    /// What the operator should know before work begins.
    pub(crate) notices: Vec<String>,
}

/// A manifest as text and as parsed.
#[derive(Debug, Clone)]
pub(crate) struct LoadedManifest {
    /// The text, prompts inlined.
    pub(crate) text: String,
    /// Its meaning.
    pub(crate) parsed: Manifest,
}

impl GoalPlan {
    /// Works out what to submit.
    ///
    /// # Errors
    /// [`UsageError`] for a flag that cannot be used, with what to write instead.
    pub(crate) fn new(
        flags: &GoalFlags,
        place: &Place,
        manifest: Option<LoadedManifest>,
    ) -> Result<Self, UsageError> {
        if flags.goal.trim().is_empty() {
            return Err(UsageError("the goal is empty; say in quotes what is to be done".to_owned()));
        }
        let own_grants = manifest.as_ref().map(|own| own.parsed.capabilities.clone()).unwrap_or_default();
        let mut notices = Vec::new();
        let mut grants = file_grants(flags, place, manifest.is_some())?;
        grants.extend(network_grant(flags, manifest.is_some(), &own_grants, &mut notices)?);
        if flags.web {
            grants.push(Capability::WebSearch);
        }
        for text in &flags.exec {
            grants.push(Capability::Exec(program(text, place)?));
        }
        if manifest.is_none() {
            grants.extend([Capability::Tool(ToolSet::All), Capability::SpawnChild(NameSet::All)]);
        }
        let grants: Vec<GrantSpec> = grants.into_iter().map(GrantSpec::from).collect();
        let writes: Vec<PathPattern> = own_grants.iter().chain(&grants).filter_map(write_pattern).collect();
        let outputs = declared_outputs(flags, &place.directory, &writes)?;
        let asked = manifest.as_ref().map(|own| own.parsed.approval_required.clone()).unwrap_or_default();
        let approve: BTreeSet<ToolName> = flags.approve.iter().cloned().chain(asked).collect();
        Ok(Self {
            goal: flags.goal.clone(),
            directory: place.directory.clone(),
            grants,
            own_grants,
            manifest: manifest.map(|own| own.text),
            approve: approve.into_iter().collect(),
            outputs,
            budget: Budget {
                tokens: flags.budget_tokens.map(Tokens),
                usd: flags.budget_usd,
                seconds: flags.budget_seconds,
            },
            deadline_seconds: flags.deadline,
            notices,
        })
    }
}

fn write_pattern(spec: &GrantSpec) -> Option<PathPattern> {
    match &spec.capability {
        Capability::FileWrite(pattern) => Some(pattern.clone()),
        _ => None,
    }
}

/// The read and write roots: the flags', else the defaults, else (with a manifest) none.
fn file_grants(flags: &GoalFlags, place: &Place, has_manifest: bool) -> Result<Vec<Capability>, UsageError> {
    let mut grants = Vec::new();
    if flags.read.is_empty() && !has_manifest {
        grants.push(Capability::FileRead(default_read(place)?));
    }
    for text in &flags.read {
        let pattern = root("--read", text, &place.directory)?;
        if !Path::new(pattern.root().as_str()).exists() {
            return Err(UsageError(format!("--read {text:?}: there is no {}", pattern.root())));
        }
        grants.push(Capability::FileRead(pattern));
    }
    if flags.write.is_empty() && !has_manifest {
        let output = AbsPath::resolve(OUTPUT_DIRECTORY, Some(&place.directory));
        let output =
            output.ok_or_else(|| UsageError("the working directory's path is too long".to_owned()))?;
        grants.push(Capability::FileWrite(PathPattern::from_parts(output, Reach::Subtree)));
    }
    for text in &flags.write {
        grants.push(Capability::FileWrite(root("--write", text, &place.directory)?));
    }
    Ok(grants)
}

/// The working directory, unless that would be everything that the operator has.
fn default_read(place: &Place) -> Result<PathPattern, UsageError> {
    let directory = &place.directory;
    let what = match () {
        () if directory.as_str() == "/" => "the whole file system",
        () if place.home.as_ref() == Some(directory) => "your whole home directory",
        () => return checked(PathPattern::from_parts(directory.clone(), Reach::Subtree)),
    };
    Err(UsageError(format!(
        "the working directory is {directory}: the goal could read {what}; change to a smaller directory, or \
         say what it may read with --read DIR"
    )))
}

/// The pattern that a flag means: a directory's subtree, or one existing file.
fn root(flag: &str, text: &str, directory: &AbsPath) -> Result<PathPattern, UsageError> {
    let bad = |why: &str| UsageError(format!("{flag} {text:?}: {why}"));
    let plain = text.strip_suffix("/*").map_or(text, |plain| if plain.is_empty() { "/" } else { plain });
    if plain.trim().is_empty() {
        return Err(bad("name a directory, for example . or ./docs"));
    }
    if plain.contains(['*', '?', '[']) {
        return Err(bad("patterns are not supported; name the directory"));
    }
    let spelled = AbsPath::resolve(plain, Some(directory)).ok_or_else(|| bad("is no usable path"))?;
    // With `..` behind a link, spelling and kernel disagree: the kernel's answer is meant.
    let climbs = plain.split('/').any(|part| part == "..");
    let asked = Path::new(directory.as_str()).join(plain);
    let resolved =
        if climbs { asked.canonicalize().ok().and_then(|path| abs_path(&path).ok()) } else { None };
    let path = resolved.unwrap_or(spelled);
    let reach = if Path::new(path.as_str()).is_file() { Reach::Exact } else { Reach::Subtree };
    checked(PathPattern::from_parts(path, reach))
}

/// Only what the grammar can say is granted: the daemon parses it again.
fn checked(pattern: PathPattern) -> Result<PathPattern, UsageError> {
    let form = pattern.to_string();
    Capability::parse("file_read", &Value::Text(&form))
        .map(|_| pattern)
        .map_err(|error| UsageError(format!("{form:?} cannot be granted: {error}")))
}

/// The hosts: the flags', and with the default grants those of public URLs in the goal.
fn network_grant(
    flags: &GoalFlags,
    has_manifest: bool,
    own: &[GrantSpec],
    notices: &mut Vec<String>,
) -> Result<Option<Capability>, UsageError> {
    let mut rules: Vec<HostRule> = Vec::new();
    for text in &flags.network {
        let parsed = Capability::parse("network", &Value::Text(text));
        match parsed.map_err(|error| UsageError(format!("--network {text:?}: {error}")))? {
            Capability::Network(found) => rules.extend(found),
            other => unreachable!("the form network became {}", other.form()),
        }
    }
    let stated = goaltext::hosts(&flags.goal);
    if !has_manifest {
        rules.extend(stated.granted);
    }
    let owned: Vec<&HostRule> = own.iter().filter_map(hosts_of).flatten().collect();
    for (authority, why) in &stated.refused {
        if *why == Refused::Local && is_granted(authority, rules.iter().chain(owned.iter().copied())) {
            continue;
        }
        notices.push(refusal(authority, *why));
    }
    rules.sort();
    rules.dedup();
    Ok((!rules.is_empty()).then_some(Capability::Network(rules)))
}

/// The program that `--exec` means, spelled as it is found.
fn program(text: &str, place: &Place) -> Result<AbsPath, UsageError> {
    let bad = |why: String| UsageError(format!("--exec {text:?}: {why}"));
    let found = if text.contains('/') {
        AbsPath::resolve(text, Some(&place.directory)).ok_or_else(|| bad("is no usable path".to_owned()))?
    } else {
        let named = place.programs.iter().filter_map(|directory| AbsPath::resolve(text, Some(directory)));
        let found = named.into_iter().find(|path| Path::new(path.as_str()).is_file());
        found.ok_or_else(|| {
            bad("there is no such program in the system's directories; write its path".to_owned())
        })?
    };
    if !Path::new(found.as_str()).is_file() {
        return Err(bad(format!("there is no program {found}")));
    }
    match Capability::parse("exec", &Value::Text(found.as_str())) {
        Ok(_) => Ok(found),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn hosts_of(spec: &GrantSpec) -> Option<&Vec<HostRule>> {
    match &spec.capability {
        Capability::Network(rules) => Some(rules),
        _ => None,
    }
}

fn is_granted<'r>(authority: &str, mut rules: impl Iterator<Item = &'r HostRule>) -> bool {
    match Capability::parse("network", &Value::Text(authority)) {
        Ok(Capability::Network(wanted)) => rules.any(|rule| wanted.iter().all(|one| rule.covers(one))),
        _ => false,
    }
}

fn refusal(authority: &str, why: Refused) -> String {
    let shown = crate::render::text::cut(authority, crate::render::text::VALUE_CHARS);
    match why {
        Refused::Local => format!(
            "{shown} is on this machine or a private network and is not granted by standing in the goal; \
             grant it with --network {shown}"
        ),
        Refused::Unclear => format!(
            "{shown:?} in a URL of the goal is no plain host name and is not granted; if it is meant, grant \
             its ASCII name with --network HOST"
        ),
    }
}

/// The outputs: the flags', else the paths below a write grant that stand in the goal.
fn declared_outputs(
    flags: &GoalFlags,
    directory: &AbsPath,
    writes: &[PathPattern],
) -> Result<Vec<AbsPath>, UsageError> {
    let mut outputs = Vec::new();
    for text in &flags.output {
        let bad = |why: String| UsageError(format!("--output {text:?}: {why}"));
        let path =
            AbsPath::resolve(text, Some(directory)).ok_or_else(|| bad("is no usable path".to_owned()))?;
        let below = writes.iter().any(|pattern| {
            pattern.matches(&path).is_some_and(|rest| pattern.reach() == Reach::Exact || !rest.is_empty())
        });
        if text.ends_with('/') || Path::new(path.as_str()).is_dir() {
            return Err(bad("is a directory; an output is a file".to_owned()));
        }
        if !below {
            let parent = path.split_last().map_or_else(|| path.clone(), |(parent, _)| parent);
            return Err(bad(format!(
                "lies below no directory that the goal may write; add --write {parent}"
            )));
        }
        if !outputs.contains(&path) {
            outputs.push(path);
        }
    }
    if flags.output.is_empty() {
        let is_directory = |path: &AbsPath| Path::new(path.as_str()).is_dir();
        outputs = goaltext::outputs(&flags.goal, Ground { directory, writes }, is_directory);
    }
    if outputs.len() > MAX_OUTPUTS {
        return Err(UsageError(format!("{} outputs are more than {MAX_OUTPUTS}", outputs.len())));
    }
    Ok(outputs)
}

/// A grant in the manifest's grammar, as JSON: `"web_search"` or `{"file_read": "/x/*"}`.
pub(crate) struct WireGrant<'g>(pub(crate) &'g GrantSpec);

impl Serialize for WireGrant<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let capability = &self.0.capability;
        let bounds = &self.0.constraints;
        debug_assert_eq!(*bounds, aaos_core::capability::Constraints::default(), "flags set no constraints");
        if *capability == Capability::WebSearch {
            return serializer.serialize_str(capability.form());
        }
        let mut map = serializer.serialize_map(Some(1))?;
        match capability {
            Capability::FileRead(pattern) | Capability::FileWrite(pattern) => {
                map.serialize_entry(capability.form(), &pattern.to_string())?;
            }
            Capability::Tool(ToolSet::All) => map.serialize_entry(capability.form(), "*")?,
            Capability::Tool(ToolSet::One(name)) => map.serialize_entry(capability.form(), name)?,
            Capability::Network(rules) => {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                map.serialize_entry(capability.form(), &rules)?;
            }
            Capability::SpawnChild(NameSet::All) | Capability::MessageSend(NameSet::All) => {
                map.serialize_entry(capability.form(), &["*"])?;
            }
            Capability::SpawnChild(NameSet::Only(names)) | Capability::MessageSend(NameSet::Only(names)) => {
                map.serialize_entry(capability.form(), names)?;
            }
            Capability::Exec(program) => map.serialize_entry(capability.form(), program)?,
            Capability::WebSearch => unreachable!("it was written above"),
        }
        map.end()
    }
}

#[cfg(test)]
#[path = "goalargs_tests.rs"]
mod tests;
