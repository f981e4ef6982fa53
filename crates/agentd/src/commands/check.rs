//! `check`: what is wrong or risky in a manifest, before anything runs.
//!
//! Invariants: nothing is started, created or changed, and no daemon is asked. What depends on this machine
//! is found by opening each root as a spawn would, as the user who runs the command: a daemon of another user
//! may see more or less.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use aaos_core::capability::{Capability, GrantSpec};
use aaos_core::id::GrantId;
use aaos_core::limits::SURVEY_TIME_MS;
use aaos_core::lint::{Finding, Level, PSEUDO_FILE_SYSTEM, lint, sort};
use aaos_core::path::{PathPattern, Reach};
use aaos_core::special::SpecialFiles;
use aaos_sandbox::{OpenedRoot, RootError, RootTable, Survey};
use anyhow::{Context, Result};
use rustix::fs::Access;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::exit::Exit;
use crate::manifests;
use crate::render::text::{REASON_CHARS, cut};
use crate::render::{Screen, Tone};
use crate::settings::Settings;

/// The one grant that a root is opened for at a time; it is closed again at once.
const LOOK: &str = "00000000-0000-0000-0000-000000000000";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'r> {
    manifest: String,
    findings: &'r [Finding],
    errors: usize,
    warnings: usize,
}

/// `check`.
pub(super) fn check(settings: &Settings, args: &CheckArgs, screen: Screen) -> Result<Exit> {
    let manifest = manifests::load_and_parse(&args.manifest)?.parsed;
    let mut findings = lint(&manifest);
    let table = RootTable::new(settings.protected(), Vec::new());
    for (at, spec) in manifest.capabilities.iter().enumerate() {
        let told = |rule| findings.iter().any(|one| one.grant == Some(at) && one.rule == rule);
        if !told(PSEUDO_FILE_SYSTEM) {
            findings.extend(look(&table, at, spec)?);
        }
    }
    sort(&mut findings);
    let count = |level| findings.iter().filter(|one| one.level == level).count();
    let report = Report {
        manifest: args.manifest.display().to_string(),
        errors: count(Level::Error),
        warnings: count(Level::Warning),
        findings: &findings,
    };
    if args.json {
        screen.json(&report)?;
    } else {
        show(&report, &manifest.capabilities, screen)?;
    }
    let bad = report.errors > 0 || (args.strict && report.warnings > 0);
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

/// What is to be said of a grant's root on this machine.
fn look(table: &RootTable, at: usize, spec: &GrantSpec) -> Result<Vec<Finding>> {
    let Some(pattern) = spec.capability.file_pattern() else {
        return Ok(Vec::new());
    };
    let writes = matches!(spec.capability, Capability::FileWrite(_));
    let judged = match look_into(table, pattern)? {
        Ok((opened, found)) => [reached(pattern, &opened, writes), found.as_ref().map(special)],
        Err(error) => [Some(refused(&error, writes)), None],
    };
    let finding = |Verdict { level, rule, why, advice }| Finding {
        level,
        rule,
        grant: Some(at),
        message: format!("`{spec}`: {why}"),
        advice: advice.to_owned(),
    };
    Ok(judged.into_iter().flatten().map(finding).collect())
}

/// What a spawn would find at a root, and below it.
fn look_into(
    table: &RootTable,
    pattern: &PathPattern,
) -> Result<Result<(OpenedRoot, Option<SpecialFiles>), RootError>> {
    let look: GrantId = LOOK.parse().context("the id of a grant that is only looked at")?;
    let opened = table.open_root(look, pattern, false);
    let survey = Survey::new();
    if opened.is_ok() {
        wait_for(&survey, table, look);
    }
    table.close(look);
    Ok(opened.map(|opened| (opened, survey.end())))
}

/// Looks through a root, no longer than a spawn would.
fn wait_for(survey: &Survey, table: &RootTable, grant: GrantId) {
    let (table, looking) = (table.clone(), survey.clone());
    let (done, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        looking.look_through(&table, grant);
        drop(done);
    });
    let waited = ended.recv_timeout(Duration::from_millis(SURVEY_TIME_MS));
    assert!(waited.is_err(), "nothing is sent: it hangs up, or the time is over");
}

/// A line for each grant whose root holds sockets, FIFOs or devices, as far as the user who asks may see it.
pub(super) fn special_lines<'g>(
    settings: &Settings,
    grants: impl IntoIterator<Item = &'g GrantSpec>,
) -> Result<Vec<String>> {
    let table = RootTable::new(settings.protected(), Vec::new());
    let mut lines = Vec::new();
    for spec in grants {
        let Some(pattern) = spec.capability.file_pattern() else { continue };
        if let Ok((_, Some(found))) = look_into(&table, pattern)? {
            lines.push(cut(&format!("{spec}, which {found}"), MESSAGE_CHARS));
        }
    }
    Ok(lines)
}

/// What is to be said of a root that holds what no grant is meant for, or may.
fn special(found: &SpecialFiles) -> Verdict {
    let (level, rule, advice) = if found.named.is_empty() {
        (Level::Note, "root-not-looked-through", "grant a smaller directory, one that can be looked through")
    } else {
        (
            Level::Warning,
            "root-holds-special-files",
            "grant a directory without them: a program may open a FIFO and speak to whoever holds its other end",
        )
    };
    Verdict { level, rule, why: format!("the directory {found}"), advice }
}

/// A finding without its grant.
struct Verdict {
    level: Level,
    rule: &'static str,
    why: String,
    advice: &'static str,
}

/// What a spawn says to a root that cannot be opened.
fn refused(error: &RootError, writes: bool) -> Verdict {
    let (level, rule, advice) = match error {
        RootError::NotFound { .. } if writes => (
            Level::Note,
            "root-missing",
            "nothing, if that is meant: the directory is made when the agent starts",
        ),
        RootError::NotFound { .. } => (Level::Error, "root-missing", "create it, or correct the path"),
        RootError::WrongKind { .. } => {
            (Level::Error, "root-wrong-kind", "write `/*` behind a directory, and nothing behind a file")
        }
        RootError::Pseudo { .. } => {
            (Level::Error, PSEUDO_FILE_SYSTEM, "copy what is needed into a directory, and grant that")
        }
        RootError::Protected { .. } => (Level::Error, "root-protected", "grant another directory"),
        // A daemon that runs as another user may open it.
        RootError::Io { .. } => {
            (Level::Warning, "root-no-access", "give the daemon's user access, or correct the path")
        }
        RootError::Outside { .. }
        | RootError::NotUtf8 { .. }
        | RootError::Changed { .. }
        | RootError::TooLarge { .. }
        | RootError::UnknownGrant { .. } => (Level::Error, "root-refused", "grant another path"),
    };
    let why = match error {
        RootError::NotFound { .. } => "nothing is there on this machine".to_owned(),
        other => other.to_string(),
    };
    Verdict { level, rule, why, advice }
}

/// What is to be said of a root that a spawn would open.
fn reached(pattern: &PathPattern, opened: &OpenedRoot, writes: bool) -> Option<Verdict> {
    let warning =
        |rule, why: &str, advice| Some(Verdict { level: Level::Warning, rule, why: why.to_owned(), advice });
    let root = Path::new(opened.pattern.root().as_str());
    let exact = opened.pattern.reach() == Reach::Exact;
    if exact && !writes && !root.exists() {
        return warning("root-missing", "there is no such file yet", "create it, or correct the path");
    }
    let advice = "give the daemon's user access, or correct the path";
    // A write replaces the file's name, so that it needs its directory.
    let (place, access, why) = match (writes, exact) {
        (true, true) => (root.parent().unwrap_or(root), Access::WRITE_OK | Access::EXEC_OK, CANNOT_WRITE),
        (true, false) => (root, Access::WRITE_OK | Access::EXEC_OK, CANNOT_WRITE),
        (false, true) => (root, Access::READ_OK, CANNOT_READ),
        (false, false) => (root, Access::READ_OK | Access::EXEC_OK, CANNOT_READ),
    };
    if rustix::fs::access(place, access).is_err() {
        return warning("root-no-access", why, advice);
    }
    (opened.pattern != *pattern).then(|| Verdict {
        level: Level::Note,
        rule: "root-is-link",
        why: format!(
            "a symbolic link leads to {}; it is followed once, when the grant is issued",
            opened.pattern
        ),
        advice: "write the path that it leads to, unless the link is meant to change",
    })
}

const CANNOT_READ: &str = "the user who runs this check may not read it";
const CANNOT_WRITE: &str = "the user who runs this check may not write there";

fn show(report: &Report<'_>, grants: &[GrantSpec], screen: Screen) -> Result<()> {
    let Report { manifest, findings, errors, warnings } = report;
    let name = cut(manifest, REASON_CHARS);
    for finding in *findings {
        let (tone, word) = match finding.level {
            Level::Error => (Tone::Bad, "error"),
            Level::Warning => (Tone::Warn, "warning"),
            Level::Note => (Tone::Dim, "note"),
        };
        let place = match finding.grant {
            Some(at) => format!(" (grant {} of {})", at + 1, grants.len()),
            None => String::new(),
        };
        let said = cut(&finding.message, MESSAGE_CHARS);
        screen.line(tone, &format!("{name}: {word}: {}{place}", finding.rule))?;
        screen.line(Tone::Plain, &format!("  {said}"))?;
        screen.line(Tone::Plain, &format!("  advice: {}", cut(&finding.advice, MESSAGE_CHARS)))?;
    }
    let (tone, sum) = match (errors, warnings) {
        (0, 0) => (Tone::Good, "no errors, no warnings".to_owned()),
        (0, _) => (Tone::Warn, format!("no errors, {}", counted(*warnings, "warning"))),
        _ => (Tone::Bad, format!("{}, {}", counted(*errors, "error"), counted(*warnings, "warning"))),
    };
    screen.line(tone, &format!("{name}: {sum}"))?;
    Ok(())
}

/// Longest message or advice that is shown: some name several grants.
const MESSAGE_CHARS: usize = 2000;

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
