//! `fork`: from a step of a recorded goal to a goal of its own.
//!
//! Invariant: what was forked, from which entry and with which files is said before anything of it is waited for.

use std::path::PathBuf;

use aaos_core::id::{GoalId, Seq};
use aaos_core::name::ModelName;
use aaos_runtime::Forked;
use anyhow::Result;
use serde::Serialize;

use crate::cli::ForkArgs;
use crate::client::Client;
use crate::daemon;
use crate::exit::Exit;
use crate::manifests;
use crate::render::text::{line, size};
use crate::render::{Screen, Tone};
use crate::settings::Settings;

use super::stream::{self, Voice};
use super::target::OneGoal;

/// `goal.fork`.
#[derive(Serialize)]
struct Asked<'a> {
    goal_id: GoalId,
    at: Seq,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a ModelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<&'a str>,
    keep_files: bool,
}

/// `fork`.
pub(super) fn fork(settings: &Settings, args: &ForkArgs, screen: Screen) -> Result<Exit> {
    let manifest = args.manifest.as_deref().map(manifests::load_and_parse).transpose()?;
    daemon::with_running(settings, async move |socket: PathBuf| {
        let mut client = Client::connect(&socket).await?;
        let asked = Asked {
            goal_id: args.goal,
            at: args.at,
            model: args.model.as_ref(),
            manifest: manifest.as_ref().map(|manifest| manifest.text.as_str()),
            keep_files: args.keep_files,
        };
        let answer = client.call_raw("goal.fork", &asked).await?;
        let forked: Forked = serde_json::from_str(answer.get())?;
        for text in said(&forked) {
            screen.note(Tone::Dim, &text);
        }
        let goal_id = forked.goal_id;
        if args.wait {
            let voice = Voice { screen, json: args.json, quiet: args.quiet };
            return stream::follow_goal(&mut client, &socket, &OneGoal { goal_id }, voice).await;
        }
        if args.json {
            screen.json(&answer)?;
        } else {
            screen.line(Tone::Plain, &goal_id.to_string())?;
            screen.note(Tone::Dim, &format!("agentd logs {goal_id} -f   shows its progress"));
        }
        Ok(Exit::Done)
    })
}

/// What was forked, in words.
fn said(forked: &Forked) -> Vec<String> {
    let Forked { goal_id, from, at, files, kept } = forked;
    let mut said = vec![format!("goal {goal_id} forked from goal {from} at entry {at}")];
    if files.is_empty() {
        said.push("its workspace is empty, as it was then".to_owned());
    } else {
        said.push("restored in its workspace:".to_owned());
        said.extend(files.iter().map(|file| format!("  {}, {}", line(&file.path), size(file.size_bytes.0))));
    }
    if !kept.is_empty() {
        said.push("changed since, and kept as they are now:".to_owned());
        said.extend(kept.iter().map(|kept| format!("  {}", line(kept))));
    }
    said
}

#[cfg(test)]
mod tests {
    use aaos_core::id::Seq;
    use aaos_core::quantity::Bytes;
    use aaos_runtime::{Forked, RestoredFile};

    use super::said;

    #[test]
    fn what_was_forked_is_said_with_its_files() {
        let id = |last: char| format!("0190a5e8-7c1b-7000-8000-00000000000{last}").parse().expect("an id");
        let mut forked =
            Forked { goal_id: id('b'), from: id('a'), at: Seq(42), files: Vec::new(), kept: Vec::new() };
        let first = "goal 0190a5e8-7c1b-7000-8000-00000000000b forked from goal \
                     0190a5e8-7c1b-7000-8000-00000000000a at entry 42";
        assert_eq!(said(&forked), [first, "its workspace is empty, as it was then"]);
        forked.files.push(RestoredFile { path: "a\u{1b}.md".to_owned(), size_bytes: Bytes(3) });
        forked.kept.push("/out/report.md (entry 50)".to_owned());
        let told = said(&forked);
        assert!(told[2].starts_with("  a") && !told[2].contains('\u{1b}'), "{told:?}");
        assert_eq!(told[3..], ["changed since, and kept as they are now:", "  /out/report.md (entry 50)"]);
    }
}
