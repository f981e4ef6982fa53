//! Questions of a goal that is being watched: asked at its terminal as they come, or how else to answer them.
//!
//! Invariants: nobody is asked before everything that the daemon says of the question stands on the terminal; a
//! question that nobody can answer here is told with a command that answers it; one that was answered elsewhere, or
//! has ended, is not asked any more.

use std::collections::VecDeque;
use std::path::Path;

use aaos_core::event::{Entry, Event};
use aaos_core::id::ApprovalId;
use aaos_core::path::AbsPath;
use anyhow::{Context, Result};

use crate::client::{Client, Nothing};
use crate::goalargs::Place;
use crate::render::text::{REASON_CHARS, cut, line};
use crate::render::{Screen, Tone};
use crate::terminal::Keyboard;

use super::approvals::send;
use super::question::{Dialogue, Pending, Step, details};

/// The open questions of one goal.
pub(super) struct Asking<'w> {
    socket: &'w Path,
    screen: Screen,
    directory: AbsPath,
    keyboard: Option<Keyboard>,
    /// The first of them is the one being asked, if any is.
    open: VecDeque<ApprovalId>,
    dialogue: Option<Dialogue>,
}

impl<'w> Asking<'w> {
    /// Nothing is asked yet.
    pub(super) fn new(socket: &'w Path, screen: Screen) -> Result<Self> {
        let directory = Place::here(None)?.directory;
        let keyboard = Keyboard::open();
        Ok(Self { socket, screen, directory, keyboard, open: VecDeque::new(), dialogue: None })
    }

    /// Whether a line is waited for.
    pub(super) const fn is_asking(&self) -> bool {
        self.dialogue.is_some()
    }

    /// Takes notice of what happened. It has been told already.
    pub(super) async fn hear(&mut self, entry: &Entry) {
        match &entry.event {
            Event::HumanApprovalRequested { question, .. } if self.keyboard.is_some() => {
                self.open.push_back(question.id);
                self.ask_next().await;
            }
            Event::HumanApprovalRequested { question, .. } => self.tell_how(question.id),
            Event::HumanApprovalGranted { approval, .. } => self.closed(approval.id).await,
            Event::HumanApprovalDenied { approval, .. } => self.closed(*approval).await,
            _ => {}
        }
    }

    /// Lets other lines be shown, and asks again after them.
    pub(super) fn aside(&self, show: impl FnOnce()) {
        let Some(dialogue) = &self.dialogue else { return show() };
        Keyboard::prompt("\n");
        show();
        Keyboard::prompt(dialogue.prompt());
    }

    /// Asks nothing more: the goal is being cancelled, or is over.
    pub(super) fn stop(&mut self) {
        if self.dialogue.take().is_some() {
            Keyboard::prompt("\n");
        }
        self.keyboard = None;
        self.open.clear();
    }

    /// The next line that is typed. May be dropped while it waits.
    pub(super) async fn line(&mut self) -> Option<String> {
        match &mut self.keyboard {
            Some(keyboard) => keyboard.line().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the line. An answer that cannot be given is told and left to others.
    pub(super) async fn typed(&mut self, typed: Option<String>) {
        let Some(id) = self.open.front().copied() else { return };
        let Some(dialogue) = &mut self.dialogue else { return };
        let step = typed.map_or(Step::Quit, |typed| dialogue.take(&typed));
        let goes_on = match step {
            Step::Ask(wrong) => {
                if let Some(wrong) = wrong {
                    self.screen.note(Tone::Warn, &wrong);
                }
                Ok(true)
            }
            Step::Details => self.show(id).await,
            Step::Answer(answer, reason) => match self.connect().await {
                Ok(mut client) => {
                    send(&mut client, id, &answer, reason, self.screen).await.map(|taken| !taken)
                }
                Err(error) => Err(error),
            },
            Step::Later => {
                self.tell_how(id);
                Ok(false)
            }
            Step::Quit => return self.leave_all(),
        };
        match goes_on {
            Ok(true) => {
                if let Some(dialogue) = &self.dialogue {
                    Keyboard::prompt(dialogue.prompt());
                }
            }
            Ok(false) => {
                self.open.pop_front();
                self.dialogue = None;
                self.ask_next().await;
            }
            Err(error) => self.give_up(&error),
        }
    }

    async fn connect(&self) -> Result<Client> {
        Client::connect(self.socket).await.context("cannot answer")
    }

    /// Shows everything about a question; false when it is not pending any more.
    async fn show(&self, id: ApprovalId) -> Result<bool> {
        let Pending { pending, .. } = self.connect().await?.call("approval.list", &Nothing {}).await?;
        let asked = pending.iter().find(|asked| asked.id == id);
        match asked {
            Some(asked) => self.screen.note(Tone::Plain, &details(asked).join("\n")),
            None => self.screen.note(Tone::Warn, "it is not pending any more"),
        }
        Ok(asked.is_some())
    }

    /// Shows the next question that is still pending, and asks it.
    async fn ask_next(&mut self) {
        while self.dialogue.is_none() && self.keyboard.is_some() {
            let Some(id) = self.open.front().copied() else { return };
            match self.show(id).await {
                Ok(true) => {
                    let dialogue = Dialogue::new(self.directory.clone());
                    if let Some(keyboard) = &mut self.keyboard {
                        keyboard.ask(dialogue.prompt());
                    }
                    self.dialogue = Some(dialogue);
                }
                Ok(false) => drop(self.open.pop_front()),
                Err(error) => self.give_up(&error),
            }
        }
    }

    async fn closed(&mut self, id: ApprovalId) {
        let was_asked = self.is_asking() && self.open.front() == Some(&id);
        self.open.retain(|one| *one != id);
        if was_asked {
            self.dialogue = None;
            self.ask_next().await;
        }
    }

    fn give_up(&mut self, error: &anyhow::Error) {
        self.screen.note(Tone::Bad, &cut(&format!("{error:#}"), REASON_CHARS));
        self.leave_all();
    }

    /// Nobody is asked here any more; what is open can be answered elsewhere.
    fn leave_all(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.stop();
        open.into_iter().for_each(|id| self.tell_how(id));
    }

    fn tell_how(&self, id: ApprovalId) {
        self.screen.note(Tone::Warn, &format!("to answer: {}", command(self.socket, id)));
    }
}

/// The command that approves, as it can be pasted into any shell of this machine.
fn command(socket: &Path, id: ApprovalId) -> String {
    let path = socket.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    let word = if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) };
    format!("agentd approvals --socket {} --approve {id}   (or --deny)", line(&word))
}

#[cfg(test)]
mod tests {
    use super::command;
    use aaos_core::id::ApprovalId;
    use std::path::Path;
    use uuid::Uuid;

    #[test]
    fn the_command_can_be_pasted() {
        let id = ApprovalId::from_uuid(Uuid::from_u128(7));
        let told = |path: &str| command(Path::new(path), id);
        let plain = told("/run/user/0/aaos/agentd.sock");
        assert!(
            plain.starts_with("agentd approvals --socket /run/user/0/aaos/agentd.sock --approve 0000"),
            "{plain}"
        );
        assert!(told("/a b/it's.sock").contains("--socket '/a b/it'\\''s.sock' --approve"));
    }
}
