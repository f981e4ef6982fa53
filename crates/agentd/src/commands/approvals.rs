//! `approvals`: what waits for a person, the answers, and what is approved already.
//!
//! Invariants: a person who is asked sees what the daemon says of a question before answering; without a terminal or
//! a flag nothing is answered.

use std::io::{self, IsTerminal};

use aaos_core::id::ApprovalId;
use aaos_core::quantity::Timestamp;
use aaos_ipc::{ErrorCode, RpcError};
use aaos_runtime::{ApprovalInForce, ApprovalView, Clock};
use anyhow::{Result, bail};

use crate::cli::ApprovalsArgs;
use crate::client::{Client, Nothing};
use crate::exit::Exit;
use crate::goalargs::Place;
use crate::render::table::Table;
use crate::render::text::{VALUE_CHARS, cut, span};
use crate::render::{Screen, Tone, entry};
use crate::terminal::Keyboard;

use super::question::{Answer, Dialogue, Pending, Respond, Scope, Step, details, place};
use super::target::names_id;

/// `approvals`.
pub(super) async fn approvals(client: &mut Client, args: &ApprovalsArgs, screen: Screen) -> Result<Exit> {
    let reply = client.call_raw("approval.list", &Nothing {}).await?;
    let listed: Pending = serde_json::from_str(reply.get())?;
    let (ids, answer) = match (args.approve.as_slice(), args.deny.as_slice()) {
        ([], []) if args.json => {
            screen.json(&reply)?;
            return Ok(Exit::Done);
        }
        ([], []) => return look(client, &listed, screen).await,
        ([], ids) => (ids, Answer::Deny),
        (ids, _) => (ids, covers(args)?),
    };
    // All of them are found before any is answered.
    let chosen = ids.iter().map(|id| chosen(&listed, id, &answer)).collect::<Result<Vec<_>>>()?;
    for Chosen { id, told } in chosen {
        let respond = Respond::new(id, &answer, args.reason.clone());
        let reply = client.call_raw("approval.respond", &respond).await?;
        if args.json {
            screen.json(&reply)?;
        } else {
            screen.line(Tone::Plain, &told)?;
        }
    }
    Ok(Exit::Done)
}

/// What the flags approve.
fn covers(args: &ApprovalsArgs) -> Result<Answer> {
    if args.below.is_none() && args.uses.is_none() && !args.for_goal {
        return Ok(Answer::Once);
    }
    let below = match &args.below {
        Some(text) => Some(place(text, &Place::here(None)?.directory)?),
        None => None,
    };
    Ok(Answer::Scoped(Scope { below, uses: args.uses, for_goal: args.for_goal }))
}

/// What an id names, and what is said once the answer was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    id: ApprovalId,
    told: String,
}

/// What a text names, by its id or the start or end of it: a question, or for a denial an approval in force too.
fn chosen(listed: &Pending, text: &str, answer: &Answer) -> Result<Chosen> {
    let is_named = |id: ApprovalId| names_id(&id.to_string(), text);
    let asked = listed.pending.iter().filter(|asked| is_named(asked.id)).map(|asked| {
        let told = format!("{}: {} of agent {} ({})", answer.done(), asked.tool, asked.agent_name, asked.id);
        Chosen { id: asked.id, told }
    });
    let in_force: Vec<&ApprovalInForce> = listed.in_force.iter().filter(|one| is_named(one.id)).collect();
    let withdrawn = in_force.iter().filter(|_| *answer == Answer::Deny).map(|one| {
        let told = format!("withdrawn: {} of agent {} ({})", covered(one), one.agent_name, one.id);
        Chosen { id: one.id, told }
    });
    let mut found: Vec<Chosen> = asked.chain(withdrawn).collect();
    let shown = cut(text, VALUE_CHARS);
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (Some(last), more) => {
            let ids: Vec<String> = found.iter().chain([&last]).map(|one| one.id.to_string()).collect();
            bail!("{shown} names {} approvals; name one by its id: {}", more + 1, ids.join(", "))
        }
        (None, _) if !in_force.is_empty() => {
            bail!("{shown} is approved already; `agentd approvals --deny {shown}` withdraws the approval")
        }
        (None, _) => bail!(
            "no approval {shown} is pending or in force: it was answered or withdrawn, its time ran out, or its agent \
             ended; see `agentd approvals`"
        ),
    }
}

/// What an approval in force covers, in one line.
fn covered(one: &ApprovalInForce) -> String {
    let below = one.below.as_ref().map(|below| format!(" below {below}")).unwrap_or_default();
    let what = match &one.effect {
        Some(effect) => format!("{effect}{below}"),
        None if one.paths.is_empty() => "one very call".to_owned(),
        None => format!("one very call on {}", one.paths.join(", ")),
    };
    cut(&what, VALUE_CHARS)
}

/// Lists what is pending and in force; asks for the answers where a person is there to give them.
async fn look(client: &mut Client, listed: &Pending, screen: Screen) -> Result<Exit> {
    let Pending { pending, in_force } = listed;
    if !in_force.is_empty() {
        screen.table(&in_force_table(in_force))?;
        screen.note(Tone::Dim, "agentd approvals --deny ID   withdraws one of these");
    }
    if pending.is_empty() {
        screen.note(Tone::Dim, "nothing waits for approval");
        return Ok(Exit::Done);
    }
    screen.table(&table(pending, Clock::starting_at(Timestamp(0)).now()))?;
    match Keyboard::open().filter(|_| io::stdout().is_terminal()) {
        Some(mut keyboard) => interview(client, pending, &mut keyboard, screen).await?,
        None => screen.note(Tone::Dim, "agentd approvals --approve ID, or --deny ID   answers one"),
    }
    Ok(Exit::Done)
}

fn in_force_table(in_force: &[ApprovalInForce]) -> Vec<String> {
    let mut table = Table::new(&["APPROVED", "AGENT", "COVERS", "USES LEFT"]);
    for one in in_force {
        let (id, uses) = (one.id.to_string(), one.uses_left.to_string());
        table.row(&[&id, one.agent_name.as_str(), &covered(one), &uses]);
    }
    table.lines()
}

fn table(pending: &[ApprovalView], now: Timestamp) -> Vec<String> {
    let mut table = Table::new(&["APPROVAL", "AGE", "AGENT", "TOOL", "INPUT", "TIME LEFT"]);
    for asked in pending {
        let input = asked.input.as_ref().map_or("(long)".to_owned(), entry::arguments);
        table.row(&[
            &asked.id.to_string(),
            &span(now.since(asked.timestamp)),
            asked.agent_name.as_str(),
            &asked.tool,
            &input,
            &span(asked.deadline.since(now)),
        ]);
    }
    table.lines()
}

async fn interview(
    client: &mut Client,
    pending: &[ApprovalView],
    keyboard: &mut Keyboard,
    screen: Screen,
) -> Result<()> {
    let directory = Place::here(None)?.directory;
    for asked in pending {
        screen.note(Tone::Plain, &details(asked).join("\n"));
        let mut dialogue = Dialogue::new(directory.clone());
        keyboard.ask(dialogue.prompt());
        loop {
            let Some(typed) = keyboard.line().await else { return Ok(()) };
            match dialogue.take(&typed) {
                Step::Ask(wrong) => {
                    if let Some(wrong) = wrong {
                        screen.note(Tone::Warn, &wrong);
                    }
                }
                Step::Details => screen.note(Tone::Plain, &details(asked).join("\n")),
                Step::Later => break,
                Step::Quit => return Ok(()),
                Step::Answer(answer, reason) => {
                    if send(client, asked.id, &answer, reason, screen).await? {
                        break;
                    }
                }
            }
            Keyboard::prompt(dialogue.prompt());
        }
    }
    Ok(())
}

/// Sends an answer. False when the daemon does not take it, so that another can be given.
pub(super) async fn send(
    client: &mut Client,
    id: ApprovalId,
    answer: &Answer,
    reason: Option<String>,
    screen: Screen,
) -> Result<bool> {
    match client.call_raw("approval.respond", &Respond::new(id, answer, reason)).await {
        Ok(_) => {
            screen.note(Tone::Plain, &answer.done());
            Ok(true)
        }
        Err(error) => match error.downcast_ref::<RpcError>().map(|refused| refused.code) {
            Some(ErrorCode::InvalidParams | ErrorCode::LimitReached) => {
                screen.note(Tone::Warn, &cut(&error.to_string(), crate::render::text::REASON_CHARS));
                Ok(false)
            }
            Some(ErrorCode::NotFound) => {
                screen.note(
                    Tone::Warn,
                    "it is not pending any more: answered elsewhere, out of time, or its agent ended",
                );
                Ok(true)
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
#[path = "approvals_tests.rs"]
mod tests;
