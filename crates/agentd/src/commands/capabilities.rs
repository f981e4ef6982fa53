//! `grants`, `revoke` and `explain`: what agents hold, how it ends, and why something is denied.
//!
//! Invariants: `explain` asks and reads, it never uses, charges or grants anything; what would be denied never ends
//! with exit code 0.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aaos_core::effect::{Denied, FileRight, Need};
use aaos_core::event::{Entry, Event};
use aaos_core::id::{AgentId, CallId, GrantId};
use aaos_core::name::{AgentName, ToolName};
use aaos_core::path::AbsPath;
use aaos_runtime::{Explanation, GrantView, ReachView};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::{ExplainArgs, GrantsArgs, RevokeArgs};
use crate::client::{Client, Nothing};
use crate::exit::{Exit, UsageError};
use crate::goalargs::Place;
use crate::render::entry::Names;
use crate::render::table::Table;
use crate::render::text::{REASON_CHARS, VALUE_CHARS, cut, instant, line, short_id};
use crate::render::{Screen, Tone};
use crate::settings::Settings;

use super::entries::{self, Query};
use super::target::{Agents, OneAgent, find_agent, names_id};

/// `capability.list`.
#[derive(Debug, Deserialize)]
struct Grants {
    grants: Vec<GrantView>,
}

/// `grants`.
pub(super) async fn grants(client: &mut Client, args: &GrantsArgs, screen: Screen) -> Result<Exit> {
    let agent_id = find_agent(client, &args.agent).await?;
    let reply = client.call_raw("capability.list", &OneAgent { agent_id }).await?;
    if args.json {
        screen.json(&reply)?;
        return Ok(Exit::Done);
    }
    let Grants { grants } = serde_json::from_str(reply.get())?;
    if grants.is_empty() {
        screen.note(Tone::Dim, "it holds no grants");
    } else {
        screen.table(&grant_table(&grants))?;
        for told in special_lines(&grants) {
            screen.note(Tone::Warn, &told);
        }
    }
    Ok(Exit::Done)
}

fn grant_table(grants: &[GrantView]) -> Vec<String> {
    let mut table = Table::new(&["GRANT", "WORDS", "USES LEFT", "MAY USE", "MAY HAND ON", "DERIVES FROM"]);
    for grant in grants {
        let uses = grant.uses_left.map_or("-".to_owned(), |left| left.to_string());
        let usable = match &grant.reason {
            Some(reason) => format!("no: {reason}"),
            None => yes_no(grant.usable).to_owned(),
        };
        let source = grant.derives_from.first().map_or("-".to_owned(), ToString::to_string);
        table.row(&[&grant.id.to_string(), &grant.grant, &uses, &usable, yes_no(grant.delegable), &source]);
    }
    table.lines()
}

/// What the roots held that no grant is meant for.
fn special_lines(grants: &[GrantView]) -> Vec<String> {
    let told = grants.iter().filter_map(|grant| Some((grant, grant.special.as_ref()?)));
    told.map(|(grant, special)| format!("{}, which {}", line(&grant.grant), line(&special.to_string())))
        .collect()
}

const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// `revoke`.
pub(super) async fn revoke(client: &mut Client, args: &RevokeArgs, screen: Screen) -> Result<Exit> {
    #[derive(Serialize)]
    struct Revoke {
        agent_id: AgentId,
        grant_id: GrantId,
    }
    #[derive(Deserialize)]
    struct Ended {
        grants: Vec<GrantId>,
        calls: Vec<CallId>,
    }
    let agent_id = find_agent(client, &args.agent).await?;
    let Grants { grants } = client.call("capability.list", &OneAgent { agent_id }).await?;
    let grant = chosen(&grants, &args.grant)?;
    let reply = client.call_raw("capability.revoke", &Revoke { agent_id, grant_id: grant.id }).await?;
    if args.json {
        screen.json(&reply)?;
        return Ok(Exit::Done);
    }
    let Ended { grants, calls } = serde_json::from_str(reply.get())?;
    screen.line(Tone::Plain, &format!("revoked {} ({})", line(&grant.grant), grant.id))?;
    for derived in grants.iter().filter(|id| **id != grant.id) {
        screen.line(Tone::Plain, &format!("  with it {derived}, which derives from it"))?;
    }
    for call in &calls {
        screen.line(Tone::Plain, &format!("  cut off call {call}, which was using it"))?;
    }
    Ok(Exit::Done)
}

/// The grant that a text names: by its id, the start or end of it, or its words.
fn chosen<'g>(grants: &'g [GrantView], text: &str) -> Result<&'g GrantView> {
    let same_words = |grant: &&GrantView| grant.grant == text.trim();
    let named = |grant: &&GrantView| names_id(&grant.id.to_string(), text);
    let found: Vec<&GrantView> = match grants.iter().filter(named).collect::<Vec<_>>() {
        by_id if by_id.is_empty() => grants.iter().filter(same_words).collect(),
        by_id => by_id,
    };
    let shown = cut(text, VALUE_CHARS);
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let held: Vec<String> = grants.iter().map(|grant| cut(&grant.grant, VALUE_CHARS)).collect();
            bail!("the agent holds no grant {shown:?}; it holds: {}", held.join("; "))
        }
        many => {
            let ids: Vec<String> = many.iter().map(|grant| grant.id.to_string()).collect();
            bail!("{shown:?} names {} grants; name one by its id: {}", many.len(), ids.join(", "))
        }
    }
}

/// `capability.explain`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<ToolName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<AbsPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<AbsPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spawn: Option<AgentName>,
}

impl Asked {
    fn new(args: &ExplainArgs) -> Result<Self> {
        let directory = || Ok::<_, UsageError>(Place::here(None)?.directory);
        let path = |text: &Option<String>| -> Result<Option<AbsPath>> {
            let Some(text) = text else { return Ok(None) };
            let path = AbsPath::resolve(text, Some(&directory()?));
            let unusable = || UsageError(format!("{:?} is no usable path", cut(text, VALUE_CHARS)));
            Ok(Some(path.ok_or_else(unusable)?))
        };
        let (host, port) = match args.host.as_deref().map(authority).transpose()? {
            Some((host, port)) => (Some(host), port),
            None => (None, None),
        };
        let (tool, spawn) = (args.tool.clone(), args.spawn.clone());
        Ok(Self {
            agent_id: None,
            tool,
            read: path(&args.read)?,
            write: path(&args.write)?,
            host,
            port,
            spawn,
        })
    }
}

/// `HOST[:PORT]`; an IPv6 address with a port stands in brackets.
fn authority(text: &str) -> Result<(String, Option<u16>), UsageError> {
    let shown = cut(text, VALUE_CHARS);
    let bad = |why: &str| UsageError(format!("--host {shown:?}: {why}"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None if text.matches(':').count() == 1 => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
        None => (text, None),
    };
    if host.is_empty() || host.contains(['/', '@', ' ', '*']) {
        return Err(bad("give one host as HOST or HOST:PORT, for example example.org:8080"));
    }
    let port = port.map(|port| port.parse::<u16>().map_err(|_| bad("the port is a number up to 65535")));
    Ok((host.to_owned(), port.transpose()?))
}

/// `explain`.
pub(super) fn explain(settings: &Settings, args: ExplainArgs, screen: Screen) -> Result<Exit> {
    if args.asks_nothing() {
        return denials(settings, args, screen);
    }
    if args.agent.is_none() && !args.who {
        let why = "say which AGENT, or --who to see every agent that can reach it";
        return Err(UsageError(why.to_owned()).into());
    }
    let asked = Asked::new(&args)?;
    super::ask(settings, async move |mut client| match &args.agent {
        Some(agent) => may(&mut client, agent, asked, args.json, screen).await,
        None => who(&mut client, &asked, args.json, screen).await,
    })
}

/// Whether an agent would be allowed something, and what it lacks.
async fn may(client: &mut Client, agent: &str, mut asked: Asked, json: bool, screen: Screen) -> Result<Exit> {
    let agent_id = find_agent(client, agent).await?;
    asked.agent_id = Some(agent_id);
    let reply = client.call_raw("capability.explain", &asked).await?;
    let told: Explanation = serde_json::from_str(reply.get())?;
    let exit = if told.missing.is_empty() && !told.met.is_empty() { Exit::Done } else { Exit::Denied };
    if json {
        screen.json(&reply)?;
        return Ok(exit);
    }
    let tone = if exit == Exit::Done { Tone::Good } else { Tone::Bad };
    for text in verdict(agent_id, &told) {
        screen.line(tone, &text)?;
    }
    if asked.tool.is_none() {
        screen.note(Tone::Dim, "the tool that does it is a right of its own: ask with --tool, too");
    }
    Ok(exit)
}

fn verdict(agent: AgentId, told: &Explanation) -> Vec<String> {
    if told.met.is_empty() && told.missing.is_empty() {
        return vec!["denied: the agent has stopped".to_owned()];
    }
    let grants = told.reach.iter().filter(|reach| reach.agent_id == agent).flat_map(|reach| &reach.through);
    let words: BTreeMap<GrantId, &str> = grants.map(|grant| (grant.id, grant.grant.as_str())).collect();
    let mut lines = Vec::new();
    for met in &told.met {
        let through = words.get(&met.grant).map(|words| line(words)).unwrap_or_default();
        lines.push(format!("allowed: {} through {through} ({})", need_words(&met.need), met.grant));
    }
    for missing in &told.missing {
        lines.extend(lack("denied", missing));
    }
    lines
}

fn lack(title: &str, denied: &Denied) -> [String; 3] {
    let Denied { missing, reason, hint } = denied;
    [
        format!("{title}: {}", cut(reason, REASON_CHARS)),
        format!("  missing  {}", line(missing)),
        format!("  to do    {}", cut(hint, REASON_CHARS)),
    ]
}

/// Who can reach something.
async fn who(client: &mut Client, asked: &Asked, json: bool, screen: Screen) -> Result<Exit> {
    let reply = client.call_raw("capability.explain", asked).await?;
    let told: Explanation = serde_json::from_str(reply.get())?;
    let exit = if told.reach.is_empty() { Exit::Denied } else { Exit::Done };
    if json {
        screen.json(&reply)?;
        return Ok(exit);
    }
    if told.reach.is_empty() {
        screen.note(Tone::Dim, "no living agent holds a grant for it");
        return Ok(exit);
    }
    let Agents { agents } = client.call("agent.list", &Nothing {}).await?;
    let names = agents.into_iter().map(|agent| (agent.id, agent.name.to_string())).collect();
    for text in reach_lines(&told.reach, &names) {
        screen.line(Tone::Plain, &text)?;
    }
    Ok(exit)
}

/// For each need a tree over the delegation: parents stand above what they started.
fn reach_lines(reach: &[ReachView], names: &BTreeMap<AgentId, String>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = reach;
    while let Some(first) = rest.first() {
        let many = rest.iter().take_while(|one| one.need == first.need).count();
        let (of_need, later) = rest.split_at(many);
        lines.push(need_words(&first.need));
        Tree::new(of_need, names).draw(&mut lines);
        rest = later;
    }
    lines
}

/// The agents that reach one thing, below their ancestors.
struct Tree<'r> {
    reach: BTreeMap<AgentId, &'r ReachView>,
    children: BTreeMap<Option<AgentId>, BTreeSet<AgentId>>,
    names: &'r BTreeMap<AgentId, String>,
}

impl<'r> Tree<'r> {
    fn new(reach: &'r [ReachView], names: &'r BTreeMap<AgentId, String>) -> Self {
        let mut children: BTreeMap<Option<AgentId>, BTreeSet<AgentId>> = BTreeMap::new();
        for one in reach {
            let mut below = one.agent_id;
            for ancestor in &one.ancestors {
                children.entry(Some(*ancestor)).or_default().insert(below);
                below = *ancestor;
            }
            children.entry(None).or_default().insert(below);
        }
        Self { reach: reach.iter().map(|one| (one.agent_id, one)).collect(), children, names }
    }

    /// Depth first, without recursion: the depth of spawning is bounded, but that is the daemon's word.
    fn draw(&self, lines: &mut Vec<String>) {
        let below = |parent| self.children.get(&parent).into_iter().flatten().rev();
        let mut next: Vec<(usize, AgentId)> = below(None).map(|agent| (1, *agent)).collect();
        while let Some((depth, agent)) = next.pop() {
            let indent = "  ".repeat(depth);
            let name = self.names.get(&agent).cloned();
            let name = name.or_else(|| self.reach.get(&agent).map(|one| one.agent_name.to_string()));
            let name = name.unwrap_or_default();
            let grants = self.reach.get(&agent).map(|one| one.through.as_slice()).unwrap_or_default();
            let lacks = if grants.is_empty() { ": holds no grant for it" } else { "" };
            lines.push(format!("{indent}{name}({}){lacks}", short_id(&agent)));
            for grant in grants {
                lines.push(format!("{indent}  {}: {} ({})", standing(grant), line(&grant.grant), grant.id));
            }
            next.extend(below(Some(agent)).map(|child| (depth + 1, *child)));
        }
    }
}

fn standing(grant: &GrantView) -> String {
    let why =
        || grant.reason.as_deref().map(|why| format!(" ({})", cut(why, VALUE_CHARS))).unwrap_or_default();
    match (grant.usable, grant.delegable) {
        (true, true) => "may use it and hand it on".to_owned(),
        (true, false) => "may use it, not hand it on".to_owned(),
        (false, true) => format!("may only hand it on{}", why()),
        (false, false) => format!("may neither use it nor hand it on now{}", why()),
    }
}

/// A need in the grammar's words.
pub(super) fn need_words(need: &Need) -> String {
    match need {
        Need::Tool(name) => format!("tool: {name}"),
        Need::File { right: FileRight::Read, path } => format!("file_read: {}", line(path.as_str())),
        Need::File { right: FileRight::Write, path } => format!("file_write: {}", line(path.as_str())),
        Need::Host { host, port } if host.contains(':') => format!("network: [{}]:{port}", line(host)),
        Need::Host { host, port } => format!("network: {}:{port}", line(host)),
        Need::Spawn(name) => format!("spawn_child: [{name}]"),
        Need::Message(name) => format!("message_send: [{name}]"),
        Need::Exec(program) => format!("exec: {}", line(program.as_str())),
        Need::Program(known) => format!("exec: a program called {}", known.file_name()),
    }
}

/// The latest denials of the journal, newest first.
fn denials(settings: &Settings, args: ExplainArgs, screen: Screen) -> Result<Exit> {
    if args.who {
        let why = "--who needs what is to be reached: --tool, --read, --write, --host or --spawn";
        return Err(UsageError(why.to_owned()).into());
    }
    entries::with_source(settings, async move |mut source| {
        let mut query = match &args.agent {
            Some(text) => source.target(text).await?,
            None => Query::default(),
        };
        query.goal_id = args.goal.or(query.goal_id);
        let mut names = Names::default();
        let spawned = Query::of_kind("agent_spawned", query.goal_id);
        let learn = |entry: &Entry| {
            names.learn(entry);
            Ok(())
        };
        source.each(spawned, usize::MAX, learn).await?;
        query.kinds = vec!["capability_denied".to_owned()];
        let mut latest: VecDeque<Entry> = VecDeque::new();
        let keep = |entry: &Entry| {
            if latest.len() == args.limit {
                latest.pop_front();
            }
            latest.push_back(entry.clone());
            Ok(())
        };
        source.each(query, usize::MAX, keep).await?;
        if latest.is_empty() && !args.json {
            screen.note(Tone::Dim, "nothing was denied");
        }
        for entry in latest.iter().rev() {
            if args.json {
                screen.json(entry)?;
            } else {
                denial_lines(entry, &names).iter().try_for_each(|text| screen.line(Tone::Plain, text))?;
            }
        }
        Ok(Exit::Done)
    })
}

fn denial_lines(entry: &Entry, names: &Names) -> Vec<String> {
    let Event::CapabilityDenied { effect, denied, .. } = &entry.event else { return Vec::new() };
    let who = entry.agent_id.map_or("agentd".to_owned(), |id| names.of(&id));
    let title = format!("{} {who} {}", instant(entry.timestamp), cut(effect, VALUE_CHARS));
    lack(&title, denied).into()
}

#[cfg(test)]
#[path = "capabilities_tests.rs"]
mod tests;
