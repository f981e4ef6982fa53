//! File roots that reach very far, judged by their spelling alone.

use crate::capability::{Capability, GrantSpec};
use crate::path::{AbsPath, PathPattern, Reach};

use super::{Finding, Held, Level};

/// The rule for roots on file systems whose files are not files.
pub const PSEUDO_FILE_SYSTEM: &str = "pseudo-file-system";
const WIDE_ROOT: &str = "wide-root";

/// Where `proc` and `sysfs` are mounted.
const PSEUDO: [&str; 2] = ["/proc", "/sys"];
/// Directories that hold everybody's files or the whole system's settings: wide when granted as a whole.
const SHARED: [&str; 7] = ["/etc", "/home", "/media", "/mnt", "/root", "/run", "/var"];
/// Directories whose change changes the system: wide for writing, at any depth.
const SYSTEM: [&str; 9] = ["/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/root", "/sbin", "/usr"];

pub(super) fn findings(held: &Held<'_>) -> Vec<Finding> {
    let changeable = held.iter().filter_map(|(at, spec)| changeable_program(held, at, spec));
    held.iter().filter_map(|(at, spec)| finding(at, spec)).chain(changeable).collect()
}

/// A program that the agent may change is any program.
fn changeable_program(held: &Held<'_>, at: usize, spec: &GrantSpec) -> Option<Finding> {
    let Capability::Exec(program) = &spec.capability else { return None };
    let (_, by) = held.iter().find(|(_, other)| match &other.capability {
        Capability::FileWrite(pattern) => pattern.matches(program).is_some(),
        _ => false,
    })?;
    Some(Finding {
        level: Level::Warning,
        rule: "changeable-program",
        grant: Some(at),
        message: format!("`{by}` lets the agent change what `{spec}` lets it start"),
        advice: "grant a program that lies where the agent cannot write".to_owned(),
    })
}

fn finding(at: usize, spec: &GrantSpec) -> Option<Finding> {
    let pattern = spec.capability.file_pattern()?;
    let writes = matches!(spec.capability, Capability::FileWrite(_));
    let finding = |level, rule, why: &str, advice: &str| {
        let message = format!("`{spec}` {why}");
        Some(Finding { level, rule, grant: Some(at), message, advice: advice.to_owned() })
    };
    let narrower = "name the directory that the agent works in";
    if at_or_below(pattern, &PSEUDO) {
        let why = "lies on a pseudo file system, which no grant reaches";
        finding(Level::Error, PSEUDO_FILE_SYSTEM, why, "copy what is needed into a directory, and grant that")
    } else if is_whole(pattern, &["/"]) {
        finding(Level::Warning, WIDE_ROOT, "reaches every file of this machine", narrower)
    } else if at_or_below(pattern, &["/dev"]) && !at_or_below(pattern, &["/dev/shm"]) {
        finding(Level::Warning, WIDE_ROOT, "names devices, and no tool opens a device", "remove it")
    } else if is_whole(pattern, &SHARED) || is_home(pattern) {
        finding(Level::Warning, WIDE_ROOT, "is very wide: keys and passwords lie there, too", narrower)
    } else if writes && at_or_below(pattern, &SYSTEM) {
        finding(Level::Warning, WIDE_ROOT, "lets the agent change the system itself", narrower)
    } else {
        None
    }
}

fn at_or_below(pattern: &PathPattern, places: &[&str]) -> bool {
    places.iter().any(|place| AbsPath::parse(place).is_ok_and(|place| pattern.root().below(&place).is_some()))
}

/// Whether it is all that lies below one of these directories.
fn is_whole(pattern: &PathPattern, places: &[&str]) -> bool {
    pattern.reach() == Reach::Subtree && places.contains(&pattern.root().as_str())
}

/// Whether it is all of one person's home directory.
fn is_home(pattern: &PathPattern) -> bool {
    let mut components = pattern.root().components();
    pattern.reach() == Reach::Subtree && components.next() == Some("home") && components.count() == 1
}
