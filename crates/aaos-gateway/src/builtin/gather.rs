//! The side of a reader, fetcher or searcher: from a task to findings.
//!
//! Invariant: it ends with findings only when something was read; otherwise it fails and says why.

use aaos_core::path::AbsPath;
use aaos_core::tool::ToolInput;
use aaos_core::toolio::GrepInput;

use super::Stop;
use super::conversation::{Conversation, Step, split_findings};
use super::findings::{Findings, Source};
use super::goal::{Act, Topic};
use super::phrase::{Case, Pattern};
use super::reader::{self, Material, Progress};
use super::task::{self, GatherTask};
use super::text::{compare, extract, rank};
use super::views::Matches;

/// Files listed with their sizes.
const MAX_LISTED: usize = 2_000;

/// The next step of the task.
pub(super) fn step(conversation: &Conversation<'_>) -> Result<Step, Stop> {
    let (_, message) = split_findings(conversation.opening);
    let Some(task) = task::read::<GatherTask>(message) else {
        return Err(Stop::Failed("The message holds no task of this planner.".to_owned()));
    };
    if let Act::Search(pattern) = &task.act {
        return search(&task, pattern, conversation);
    }
    match reader::progress(&task, &conversation.exchanges) {
        Progress::Needs(calls) => Ok(Step::Call { say: doing(&calls), calls }),
        Progress::Ready(material) => finish(&task, &material),
    }
}

fn doing(calls: &[ToolInput]) -> String {
    match calls.first() {
        Some(ToolInput::FileList(_)) => format!("Listing {} paths.", calls.len()),
        Some(ToolInput::WebFetch(_)) => format!("Fetching {} pages.", calls.len()),
        _ => format!("Reading in {} calls.", calls.len()),
    }
}

fn finish(task: &GatherTask, material: &Material) -> Result<Step, Stop> {
    let mut findings = match &task.act {
        Act::List => listed(task, material),
        _ if material.documents.is_empty() => return Err(nothing(material)),
        Act::Summarise => rank::summarise(&material.documents, task.limit),
        Act::Compare => {
            compare::compare(&material.documents).map_err(|error| Stop::Failed(error.to_string()))?
        }
        Act::Extract(Topic::Words(words)) => extract::by_words(&material.documents, words),
        Act::Extract(Topic::Special(special)) => extract::by_shape(&material.documents, *special),
        Act::Search(_) => Findings::default(),
    };
    if task.act == Act::List && findings.sources.is_empty() {
        return Err(nothing(material));
    }
    material.note_into(&mut findings);
    Ok(Step::Finish(findings.render()))
}

fn nothing(material: &Material) -> Stop {
    let why = if material.notes.is_empty() {
        "the inputs hold no files".to_owned()
    } else {
        material.notes.join("; ")
    };
    Stop::Failed(format!("Nothing could be read: {why}"))
}

/// One source an input, one point a file.
fn listed(task: &GatherTask, material: &Material) -> Findings {
    let mut findings = Findings::default();
    let mut total = 0;
    for input in &task.paths {
        let refused = material.notes.iter().any(|note| note.starts_with(&format!("not listed: {input}:")));
        if refused {
            continue;
        }
        let below = material.files.iter().filter_map(|found| Some((found, found.path.below(input)?)));
        let name = |rest: &str| if rest.is_empty() { input.to_string() } else { rest.to_owned() };
        let points: Vec<String> = below
            .map(|(found, rest)| format!("{} ({} bytes)", name(rest), found.size))
            .take(MAX_LISTED)
            .collect();
        total += points.len();
        let shown = input.below(&task.base).filter(|rest| !rest.is_empty()).unwrap_or(input.as_str());
        let details = vec![format!("{} files", points.len())];
        findings.sources.push(Source { name: shown.to_owned(), title: String::new(), details, points });
    }
    findings.keys.push(format!("{total} files were found"));
    findings
}

fn search(task: &GatherTask, pattern: &Pattern, conversation: &Conversation<'_>) -> Result<Step, Stop> {
    if conversation.exchanges.is_empty() {
        return Ok(Step::Call {
            say: format!("Searching for {}.", pattern.shown()),
            calls: greps(task, pattern),
        });
    }
    let mut findings = Findings::default();
    let mut searched = 0;
    let mut answered = 0;
    for done in &conversation.exchanges {
        let ToolInput::Grep(input) = &done.input else { continue };
        let base =
            input.path.below(&task.base).filter(|rest| !rest.is_empty()).unwrap_or(input.path.as_str());
        match done.output::<Matches>() {
            Ok(found) => {
                answered += 1;
                searched += found.files_searched;
                add_matches(&mut findings, &found, task);
                if found.truncated {
                    findings
                        .note(&format!("the search of {base} reached a limit; there may be more matches"));
                }
            }
            Err(reason) => findings.note(&format!("not searched: {base}: {reason}")),
        }
    }
    if answered == 0 {
        return Err(Stop::Failed(format!("Nothing could be searched: {}", findings.notes.join("; "))));
    }
    let matches: usize = findings.sources.iter().map(|source| source.points.len()).sum();
    let files = findings.sources.len();
    findings.keys.push(format!("{matches} lines in {files} files match {}", pattern.shown()));
    if searched > 0 {
        findings.keys.push(format!("{searched} files were searched"));
    }
    Ok(Step::Finish(findings.render()))
}

fn greps(task: &GatherTask, pattern: &Pattern) -> Vec<ToolInput> {
    let globs: Vec<Option<String>> = if task.only.is_empty() {
        vec![None]
    } else {
        task.only.iter().map(|end| Some(format!("**/*.{end}"))).collect()
    };
    let each = |glob: &Option<String>| {
        task.paths.iter().map(move |path| (path.clone(), glob.clone())).collect::<Vec<_>>()
    };
    let call = |(path, glob)| {
        ToolInput::Grep(GrepInput {
            pattern: pattern.regex(),
            path,
            glob,
            case_insensitive: pattern.case == Case::Insensitive,
        })
    };
    globs.iter().flat_map(each).map(call).collect()
}

fn add_matches(findings: &mut Findings, found: &Matches, task: &GatherTask) {
    for hit in &found.matches {
        let path = AbsPath::parse(&hit.path).ok();
        if path.as_ref().is_some_and(|path| task.exclude.contains(path)) {
            continue;
        }
        let below = path.as_ref().and_then(|path| path.below(&task.base)).filter(|rest| !rest.is_empty());
        let name = below.unwrap_or(&hit.path).to_owned();
        let point = format!("line {}: {}", hit.line, hit.text.trim());
        match findings.sources.iter_mut().find(|source| source.name == name) {
            Some(source) => source.points.push(point),
            None => {
                findings.sources.push(Source { name, points: vec![point], ..Source::default() });
            }
        }
    }
}
