//! `audit` and `logs`: the journal, read through the running daemon or from its file.
//!
//! Invariant: nothing is left out unless a flag says so: pages are read until none comes.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use aaos_core::event::{EVENT_KINDS, Entry, Event, is_kind};
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::limits::MAX_READ_ENTRIES;
use aaos_ipc::FrameBody;
use aaos_journal::{Expected, Filter, Head, HeadCheck, HeadKey, JournalFile, VerifyReport};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::archive;
use crate::cli::{AuditArgs, LogsArgs};
use crate::client::{Client, Streamed};
use crate::daemon;
use crate::exit::{Exit, UsageError};
use crate::render::entry::{self, Names};
use crate::render::progress::{Clock, Story};
use crate::render::text::{REASON_CHARS, VALUE_CHARS, cut};
use crate::render::{Screen, Tone};
use crate::settings::Settings;

/// Which entries, as `audit.query` and `audit.stream` take it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Query {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) goal_id: Option<GoalId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<AgentId>,
    pub(super) kinds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

impl Query {
    /// Entries of one kind, of a goal or of all.
    pub(super) fn of_kind(kind: &str, goal_id: Option<GoalId>) -> Self {
        Self { kinds: vec![kind.to_owned()], goal_id, ..Self::default() }
    }

    fn filter(&self) -> Filter {
        Filter {
            after_seq: self.after_seq,
            goal: self.goal_id,
            agent: self.agent_id,
            kinds: self.kinds.clone(),
            limit: self.limit.unwrap_or(MAX_READ_ENTRIES),
        }
    }
}

/// Where entries come from.
pub(super) enum Source {
    /// The daemon that owns the journal.
    Daemon(Box<Client>),
    /// The journal's file: no daemon runs.
    File(JournalFile),
}

impl Source {
    /// One page; empty at the end.
    async fn page(&mut self, query: &Query) -> Result<Vec<Entry>> {
        #[derive(Deserialize)]
        struct Page {
            entries: Vec<Entry>,
        }
        match self {
            Self::Daemon(client) => Ok(client.call::<Page>("audit.query", query).await?.entries),
            Self::File(file) => Ok(file.read(&query.filter())?),
        }
    }

    /// Every matching entry, page by page, at most `most`.
    pub(super) async fn each(
        &mut self,
        mut query: Query,
        most: usize,
        mut take: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        let mut left = most;
        while left > 0 {
            query.limit = Some(left.min(MAX_READ_ENTRIES));
            let page = self.page(&query).await?;
            let Some(last) = page.last() else { return Ok(()) };
            assert!(query.after_seq.is_none_or(|after| after < last.seq), "a page goes forward");
            query.after_seq = Some(last.seq);
            left = left.saturating_sub(page.len());
            page.iter().try_for_each(&mut take)?;
        }
        Ok(())
    }

    async fn verify(&mut self, expected: Expected) -> Result<VerifyReport> {
        #[derive(Serialize)]
        struct Verify {
            #[serde(skip_serializing_if = "Option::is_none")]
            head: Option<Head>,
            #[serde(skip_serializing_if = "Option::is_none")]
            key: Option<HeadKey>,
        }
        let Expected { head, key } = expected;
        match self {
            Self::Daemon(client) => client.call("audit.verify", &Verify { head, key }).await,
            Self::File(file) => Ok(file.verify(expected)?),
        }
    }

    /// What an id or a name stands for in the journal.
    pub(super) async fn target(&mut self, text: &str) -> Result<Query> {
        let shown = cut(text, VALUE_CHARS);
        if let Ok(goal) = text.parse::<GoalId>() {
            let agent = AgentId::from_uuid(*goal.as_uuid());
            for query in [
                Query { goal_id: Some(goal), ..Query::default() },
                Query { agent_id: Some(agent), ..Query::default() },
            ] {
                if !self.page(&Query { limit: Some(1), ..query.clone() }).await?.is_empty() {
                    return Ok(query);
                }
            }
            bail!("the journal knows no agent and no goal {shown}");
        }
        let mut last = None;
        let spawned = Query { kinds: vec!["agent_spawned".to_owned()], ..Query::default() };
        self.each(spawned, usize::MAX, |entry| {
            if matches!(&entry.event, Event::AgentSpawned { name, .. } if name.as_str() == text) {
                last = entry.agent_id;
            }
            Ok(())
        })
        .await?;
        let agent_id =
            last.with_context(|| format!("the journal knows no agent called {shown:?}, and it is no id"))?;
        Ok(Query { agent_id: Some(agent_id), ..Query::default() })
    }
}

/// Runs `work` on the journal: through the daemon if one answers, else on its file.
pub(super) fn with_source(
    settings: &Settings,
    work: impl AsyncFnOnce(Source) -> Result<Exit>,
) -> Result<Exit> {
    if UnixStream::connect(&settings.socket).is_ok() {
        return daemon::with_running(settings, async move |socket: PathBuf| {
            work(Source::Daemon(Box::new(Client::connect(&socket).await?))).await
        });
    }
    let file = offline(settings)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().context("cannot start the async runtime")?;
    runtime.block_on(work(Source::File(file)))
}

/// The journal's file.
pub(super) fn offline(settings: &Settings) -> Result<JournalFile> {
    let path = settings.state_dir.join("journal.db");
    let found = path.try_exists();
    if !found.with_context(|| format!("cannot look for the journal {}", path.display()))? {
        bail!(
            "no agentd listens at {} and there is no journal {}; nothing has run with this state directory \
             yet",
            settings.socket.display(),
            path.display()
        );
    }
    JournalFile::open(&path).with_context(|| format!("cannot open the journal {}", path.display()))
}

/// `audit`.
pub(super) fn audit(settings: &Settings, args: AuditArgs, screen: Screen) -> Result<Exit> {
    if let Some(file) = &args.file {
        return archive::verify(file, Expected { head: args.head, key: args.key }, args.json, screen);
    }
    if let Some(file) = &args.export {
        return archive::export(settings, file, screen);
    }
    if let Some(age) = args.prune {
        return archive::prune(settings, age, args.json, screen);
    }
    with_source(settings, async move |source| {
        if args.verify { verify(source, &args, screen).await } else { print(source, args, screen).await }
    })
}

async fn print(mut source: Source, args: AuditArgs, screen: Screen) -> Result<Exit> {
    if let Some(kind) = args.kind.iter().find(|kind| !is_kind(kind)) {
        let known = EVENT_KINDS.join(", ");
        return Err(UsageError(format!(
            "no entry is of kind {}; the kinds are {known}",
            cut(kind, VALUE_CHARS)
        ))
        .into());
    }
    let mut names = Names::default();
    let is_partial = args.agent.is_some() || args.after.is_some() || !args.kind.is_empty();
    if is_partial && !args.json {
        let spawned =
            Query { kinds: vec!["agent_spawned".to_owned()], goal_id: args.goal, ..Query::default() };
        let learn = |entry: &Entry| {
            names.learn(entry);
            Ok(())
        };
        source.each(spawned, usize::MAX, learn).await?;
    }
    let query = Query {
        goal_id: args.goal,
        agent_id: args.agent,
        kinds: args.kind,
        after_seq: args.after,
        limit: None,
    };
    let mut count = 0_u64;
    let show = |entry: &Entry| {
        count += 1;
        names.learn(entry);
        if args.json {
            screen.json(entry)?;
        } else {
            screen.line(tone(&entry.event), &entry::line(entry, &names))?;
        }
        Ok(())
    };
    source.each(query, args.limit.unwrap_or(usize::MAX), show).await?;
    if count == 0 && !args.json {
        screen.note(Tone::Dim, "no entry fits");
    }
    Ok(Exit::Done)
}

fn tone(event: &Event) -> Tone {
    match event {
        Event::CapabilityDenied { .. }
        | Event::DenialsSuppressed { .. }
        | Event::BudgetExceeded { .. }
        | Event::Overdraft { .. } => Tone::Bad,
        Event::ToolResult { failure: Some(_), .. } | Event::InferenceCompleted { result: Err(_), .. } => {
            Tone::Bad
        }
        Event::InferenceRetried { .. }
        | Event::ContextSummarizationFailed { .. }
        | Event::ChildRetried { .. }
        | Event::ConfinementDegraded { .. } => Tone::Warn,
        Event::GoalAccepted { .. } | Event::GoalFinished { .. } | Event::AgentSpawned { .. } => Tone::Bold,
        _ => Tone::Plain,
    }
}

async fn verify(mut source: Source, args: &AuditArgs, screen: Screen) -> Result<Exit> {
    let report = source.verify(Expected { head: args.head, key: args.key }).await?;
    if args.json {
        screen.json(&report)?;
        return Ok(exit_of(&report));
    }
    tell(&report, screen)
}

pub(super) fn exit_of(report: &VerifyReport) -> Exit {
    if report.is_intact() { Exit::Done } else { Exit::Failed }
}

/// Prints what a verification found.
pub(super) fn tell(report: &VerifyReport, screen: Screen) -> Result<Exit> {
    let exit = exit_of(report);
    let tone = if exit == Exit::Done { Tone::Good } else { Tone::Bad };
    for line in verdict(report) {
        screen.line(tone, &line)?;
    }
    Ok(exit)
}

/// What a verification found, in words.
fn verdict(report: &VerifyReport) -> Vec<String> {
    let mut lines = vec![format!("{} entries verify; head {}", report.entries, report.head)];
    if report.after != Head::EMPTY {
        let after = report.after;
        lines.push(format!(
            "begins after entry {}; the archive that ends with head {after} must be verified, too",
            after.seq
        ));
    }
    match (report.signed, report.key) {
        (Some(signed), Some(key)) => lines.push(format!("signed up to entry {} with key {key}", signed.seq)),
        _ => lines.push("no head is signed yet".to_owned()),
    }
    if report.erased_count > 0 {
        let listed: Vec<String> = report.erased.iter().map(ToString::to_string).collect();
        let more = if report.erased_count > listed.len() as u64 { " and later ones" } else { "" };
        let (count, listed) = (report.erased_count, listed.join(", "));
        lines.push(format!("{count} of them have an erased body, which no state rests on: {listed}{more}"));
    }
    if let Some(broken) = &report.broken {
        lines.push(format!("BROKEN: {broken}; keep the journal for inspection and restore a backup"));
    }
    match report.expected {
        HeadCheck::NotAsked => {}
        HeadCheck::Found => lines.push("the expected head is in the chain".to_owned()),
        HeadCheck::Follows => lines.push(
            "the first entry follows the expected head, which is the end of that archive".to_owned(),
        ),
        HeadCheck::Differs => {
            lines.push("BROKEN: the expected head is not: history was rewritten".to_owned())
        }
        HeadCheck::Missing => {
            lines.push("BROKEN: the chain ends before the expected head: its tail is gone".to_owned())
        }
        HeadCheck::Archived => lines.push(
            "UNKNOWN: the expected head lies before the first entry; verify the archive that holds it with --file"
                .to_owned(),
        ),
    }
    if report.is_intact() {
        lines.push("the chain holds".to_owned());
    }
    lines
}

/// `logs`.
pub(super) fn logs(settings: &Settings, args: LogsArgs, screen: Screen) -> Result<Exit> {
    with_source(settings, async move |mut source| {
        let query = match &args.target {
            Some(text) => source.target(text).await?,
            None => Query::default(),
        };
        let mut story = Story::new(Clock::Calendar);
        let mut tell = |entry: &Entry| -> Result<()> {
            if args.json {
                screen.json(entry)?;
                return Ok(());
            }
            for said in story.tell(entry) {
                screen.line(said.tone, &said.text)?;
            }
            Ok(())
        };
        if !args.follow {
            source.each(query, usize::MAX, tell).await?;
            return Ok(Exit::Done);
        }
        match source {
            Source::Daemon(client) => follow(*client, query, tell).await,
            Source::File(_) => {
                source.each(query, usize::MAX, &mut tell).await?;
                bail!(UsageError("-f needs a running daemon; start one with `agentd serve`".to_owned()))
            }
        }
    })
}

/// Every entry from the first on, until the last that can come.
async fn follow(
    mut client: Client,
    query: Query,
    mut tell: impl FnMut(&Entry) -> Result<()>,
) -> Result<Exit> {
    let request = client.begin("audit.stream", &query).await?;
    loop {
        match client.next(&request).await? {
            Streamed::Frame(frame) => {
                let FrameBody::Event(entry) = *frame else { continue };
                tell(&entry)?;
                if is_last(&query, &entry) {
                    return Ok(Exit::Done);
                }
            }
            Streamed::Reply(reply) => {
                bail!("the stream ended: {}", cut(reply.get(), REASON_CHARS))
            }
        }
    }
}

fn is_last(query: &Query, entry: &Entry) -> bool {
    match &entry.event {
        Event::GoalFinished { .. } => query.goal_id.is_some(),
        Event::AgentStopped { .. } => query.agent_id.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use aaos_core::id::Seq;
    use aaos_journal::{Broken, Head, HeadCheck, Problem, VerifyReport};

    fn report(broken: Option<Broken>, expected: HeadCheck) -> VerifyReport {
        VerifyReport {
            after: Head::EMPTY,
            entries: 0,
            head: Head::EMPTY,
            signed: None,
            key: None,
            erased_count: 1,
            erased: vec![Seq(1)],
            broken,
            expected,
        }
    }

    #[test]
    fn only_an_intact_chain_is_said_to_hold() {
        let said = verdict(&report(None, HeadCheck::Found)).join("\n");
        assert!(
            said.starts_with("0 entries verify; head 0:0000") && said.ends_with("the chain holds"),
            "{said}"
        );
        assert!(said.contains("1 of them have an erased body, which no state rests on: 1\n"), "{said}");
        let broken = Broken { seq: Seq(7), problem: Problem::Body };
        for bad in [
            report(Some(broken), HeadCheck::NotAsked),
            report(None, HeadCheck::Differs),
            report(None, HeadCheck::Missing),
        ] {
            let said = verdict(&bad).join("\n");
            assert!(said.contains("BROKEN") && !said.contains("the chain holds"), "{said}");
        }
        let after = Head { seq: Seq(7), ..Head::EMPTY };
        let follows = VerifyReport { after, head: after, ..report(None, HeadCheck::Follows) };
        let said = verdict(&follows).join("\n");
        assert!(said.contains("begins after entry 7; the archive that ends with head 7:0000"), "{said}");
        assert!(!said.contains("is in the chain") && said.ends_with("the chain holds"), "{said}");
        let said = verdict(&report(None, HeadCheck::Archived)).join("\n");
        assert!(said.contains("UNKNOWN") && !said.contains("the chain holds"), "{said}");
    }
}
