//! The writer's side: from findings to a Markdown document in the outputs.
//!
//! Invariant: each output is written exactly once; a refused write is the writer's failure.

use aaos_core::limits::MAX_FILE_BYTES;
use aaos_core::tool::ToolInput;
use aaos_core::toolio::FileWriteInput;

use super::Stop;
use super::conversation::{Conversation, Step, clip, split_findings};
use super::findings::{Findings, Source};
use super::goal::{Act, Topic};
use super::task::{self, WriteTask};
use super::views::Written;

/// The next step of the task.
pub(super) fn step(conversation: &Conversation<'_>) -> Result<Step, Stop> {
    let (findings, message) = split_findings(conversation.opening);
    let Some(task) = task::read::<WriteTask>(message) else {
        return Err(Stop::Failed("The message holds no task of this planner.".to_owned()));
    };
    let Some(findings) = findings.and_then(Findings::parse) else {
        return Err(Stop::Failed("There are no prior findings to write.".to_owned()));
    };
    if conversation.exchanges.is_empty() {
        let content = clip(&document(&task.act, &task.title, &findings), MAX_FILE_BYTES as usize);
        let write =
            |path: &_| FileWriteInput { path: Clone::clone(path), content: content.clone(), append: false };
        let calls = task.outputs.iter().map(|path| ToolInput::FileWrite(write(path))).collect();
        return Ok(Step::Call { say: format!("Writing {}.", task.title), calls });
    }
    let mut lines = Vec::new();
    for done in &conversation.exchanges {
        let ToolInput::FileWrite(input) = &done.input else { continue };
        match done.output::<Written>() {
            Ok(written) => lines.push(format!("Wrote {} bytes to {}.", written.bytes_written, input.path)),
            Err(reason) => return Err(Stop::Failed(format!("Could not write {}: {reason}", input.path))),
        }
    }
    Ok(Step::Finish(lines.join("\n")))
}

/// The findings as a Markdown document.
pub(super) fn document(act: &Act, title: &str, findings: &Findings) -> String {
    let mut lines = vec![format!("# {title}"), String::new(), method(act).to_owned()];
    if !findings.keys.is_empty() {
        lines.extend([String::new(), format!("## {}", keys_heading(act)), String::new()]);
        lines.extend(findings.keys.iter().map(|key| format!("- {key}")));
    }
    if !findings.sources.is_empty() {
        lines.extend([String::new(), "## Sources".to_owned()]);
        for source in &findings.sources {
            section(&mut lines, source);
        }
    }
    if !findings.notes.is_empty() {
        lines.extend([String::new(), "## Notes".to_owned(), String::new()]);
        lines.extend(findings.notes.iter().map(|note| format!("- {note}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn section(lines: &mut Vec<String>, source: &Source) {
    let heading = if source.title.is_empty() || source.title == source.name {
        format!("### {}", source.name)
    } else {
        format!("### {} — {}", source.name, source.title)
    };
    lines.extend([String::new(), heading, String::new()]);
    if !source.details.is_empty() {
        lines.extend([format!("*{}*", source.details.join("; ").replace('*', "\\*")), String::new()]);
    }
    lines.extend(source.points.iter().map(|point| format!("- {point}")));
}

const fn keys_heading(act: &Act) -> &'static str {
    match act {
        Act::Summarise => "Key points",
        Act::Compare => "What differs",
        Act::Extract(_) | Act::List | Act::Search(_) => "Result",
    }
}

const fn method(act: &Act) -> &'static str {
    match act {
        Act::Summarise => {
            "Sentences quoted from the sources, chosen by word statistics (aaOS builtin planner)."
        }
        Act::Compare => "Sentences and terms of the sources set side by side (aaOS builtin planner).",
        Act::Extract(Topic::Words(_)) => {
            "Sentences of the sources that hold the words asked for (aaOS builtin planner)."
        }
        Act::Extract(Topic::Special(_)) => {
            "Passages of the sources of the kind asked for (aaOS builtin planner)."
        }
        Act::List => "Files with their sizes (aaOS builtin planner).",
        Act::Search(_) => "Matching lines with their numbers (aaOS builtin planner).",
    }
}
