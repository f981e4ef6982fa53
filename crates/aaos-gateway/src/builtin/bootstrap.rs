//! The bootstrap agent's side: from a goal to children, from their findings to an answer.
//!
//! Invariants: nothing is spawned before every input and output is known to be granted; each child is granted
//! exactly the inputs or outputs of its task; a child's failure is the goal's failure.

use aaos_core::capability::GrantSpec;
use aaos_core::name::ModelName;
use aaos_core::path::{AbsPath, PathPattern, Reach};
use aaos_core::tool::ToolInput;
use aaos_core::toolio::{FileKind, FileListInput, PriorFindings, SpawnAgentInput, SpawnAgentsInput};
use url::{Host, Url};

use super::conversation::{Conversation, Exchange, Step, clip, one_line};
use super::facts::{self, Briefing, HostGrant};
use super::findings::Findings;
use super::goal::{self, Act, Input, Plan};
use super::task::{self, GatherTask, Resource, Role, WriteTask};
use super::views::{Child, Children, Listing};
use super::writer;
use super::{BANNER, Stop};

/// Longest answer in text, bytes.
const MAX_ANSWER_BYTES: usize = 12 * 1024;
/// Key points repeated in the final text when a file was written.
const SHOWN_KEYS: usize = 5;
const SHOWN_NOTES: usize = 8;

/// A plan whose paths are absolute and granted.
#[derive(Debug)]
struct Job {
    act: Act,
    paths: Vec<AbsPath>,
    urls: Vec<Page>,
    outputs: Vec<AbsPath>,
    output_grants: Vec<PathPattern>,
    only: Vec<String>,
    limit: Option<usize>,
    remarks: Vec<String>,
    base: AbsPath,
    model: ModelName,
}

/// A URL with what its fetcher is granted.
#[derive(Debug)]
struct Page {
    url: String,
    resource: Resource,
}

/// The next step towards the goal.
pub(super) fn step(conversation: &Conversation<'_>) -> Result<Step, Stop> {
    let Some(briefing) = facts::read(conversation.opening) else {
        return Err(Stop::NotUnderstood(
            "the agent has neither a role of this planner nor a goal's briefing".to_owned(),
        ));
    };
    let plan = goal::read(briefing.goal).map_err(|error| Stop::NotUnderstood(error.to_string()))?;
    let job = prepare(plan, &briefing, conversation)?;
    advance(&job, conversation)
}

fn prepare(plan: Plan, briefing: &Briefing<'_>, conversation: &Conversation<'_>) -> Result<Job, Stop> {
    let mut job = Job {
        act: plan.act,
        paths: Vec::new(),
        urls: Vec::new(),
        outputs: Vec::new(),
        output_grants: Vec::new(),
        only: plan.only,
        limit: plan.limit,
        remarks: plan.remarks,
        base: briefing.working_directory.clone().unwrap_or_else(root),
        model: conversation.model().clone(),
    };
    for input in &plan.inputs {
        match input {
            Input::Path(path) => job.paths.push(readable(path, briefing)?),
            Input::Url(url) => job.urls.push(reachable(url, briefing)?),
        }
    }
    for path in &plan.outputs {
        let resolved = briefing.resolve(path).ok_or_else(|| not_a_path(path))?;
        let directory = path.ends_with('/') || briefing.grants.is_write_directory(&resolved);
        let resolved = if directory { below(&resolved, default_name(&job.act)) } else { Some(resolved) };
        job.add_output(resolved.ok_or_else(|| not_a_path(path))?, briefing)?;
    }
    for path in &briefing.outputs {
        // The runtime also declares inputs that lie below a write grant, and the grant's own directory.
        if !job.paths.contains(path) && !briefing.grants.is_write_directory(path) {
            goal::check_output(path.as_str()).map_err(|error| Stop::NotUnderstood(error.to_string()))?;
            job.add_output(path.clone(), briefing)?;
        }
    }
    let roles = job.gatherers().into_iter().chain((!job.outputs.is_empty()).then_some(Role::Writer));
    for role in roles {
        if !briefing.grants.may_spawn(role.name()) || !conversation.offers("spawn_agent") {
            return Err(Stop::NotUnderstood(format!(
                "nothing grants spawning a child named {}",
                role.name()
            )));
        }
    }
    Ok(job)
}

fn root() -> AbsPath {
    AbsPath::parse("/").unwrap_or_else(|error| unreachable!("the root is a path: {error}"))
}

fn not_a_path(path: &str) -> Stop {
    Stop::NotUnderstood(format!("{path:?} is not a usable path; a relative one needs a working directory"))
}

fn readable(path: &str, briefing: &Briefing<'_>) -> Result<AbsPath, Stop> {
    let resolved = briefing.resolve(path).ok_or_else(|| not_a_path(path))?;
    if !briefing.grants.may_read(&resolved) {
        return Err(Stop::NotUnderstood(format!(
            "nothing grants reading {resolved} (file_read: {resolved}); give it with --read {resolved}"
        )));
    }
    Ok(resolved)
}

fn reachable(text: &str, briefing: &Briefing<'_>) -> Result<Page, Stop> {
    let unusable = || Stop::NotUnderstood(format!("{text:?} is not a usable URL"));
    let url = Url::parse(text).map_err(|_| unusable())?;
    let host = match url.host().ok_or_else(unusable)? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let port = url.port_or_known_default().ok_or_else(unusable)?;
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match briefing.grants.host(&host, port) {
        Some(HostGrant::Network) => Ok(Page { url: text.to_owned(), resource: Resource::Network(shown) }),
        Some(HostGrant::WebSearch) => Ok(Page { url: text.to_owned(), resource: Resource::WebSearch }),
        None => Err(Stop::NotUnderstood(format!(
            "nothing grants fetching from {shown} (network: {shown}); give it with --network {shown}"
        ))),
    }
}

const fn default_name(act: &Act) -> &'static str {
    match act {
        Act::Summarise => "summary.md",
        Act::Compare => "differences.md",
        Act::Extract(_) => "extract.md",
        Act::List => "list.md",
        Act::Search(_) => "matches.md",
    }
}

fn below(directory: &AbsPath, name: &str) -> Option<AbsPath> {
    AbsPath::parse(&format!("{directory}/{name}")).ok()
}

/// The subtree of a directory, or one file, as a pattern.
fn pattern(path: &AbsPath, reach: Reach) -> Result<PathPattern, Stop> {
    let text = match reach {
        Reach::Exact => path.to_string(),
        Reach::Subtree => format!("{}/*", path.as_str().trim_end_matches('/')),
    };
    let pattern = PathPattern::parse(&text).map_err(|error| Stop::NotUnderstood(error.to_string()))?;
    // The grammar refuses more in a capability than in a path: control characters, for one.
    let form = GrantSpec::parse(&format!("file_read: {text}"));
    form.map(|_| pattern).map_err(|error| Stop::NotUnderstood(error.to_string()))
}

impl Job {
    fn add_output(&mut self, path: AbsPath, briefing: &Briefing<'_>) -> Result<(), Stop> {
        if self.outputs.contains(&path) {
            return Ok(());
        }
        let Some(root) = briefing.grants.write_root(&path) else {
            return Err(Stop::NotUnderstood(format!(
                "nothing grants writing {path} (file_write: {path}); give it with --write {path}"
            )));
        };
        // An exact grant is its directory and a name, so the directory must exist; only the grant's own root
        // is known to. Deeper outputs get the grant's subtree, whose missing directories the tool creates.
        let parent = path.split_last().map(|(parent, _)| parent);
        let exact = root.reach() == Reach::Exact || parent.as_ref() == Some(root.root());
        let grant = if exact { pattern(&path, Reach::Exact)? } else { root.clone() };
        if !self.output_grants.contains(&grant) {
            self.output_grants.push(grant);
        }
        self.outputs.push(path);
        Ok(())
    }

    /// Which children gather: comparing needs everything in one place.
    fn gatherers(&self) -> Vec<Role> {
        let files = if matches!(self.act, Act::Search(_)) { Role::Searcher } else { Role::Reader };
        match (self.paths.is_empty(), self.urls.is_empty()) {
            (true, _) => vec![Role::Fetcher],
            (false, true) => vec![files],
            (false, false) if self.act == Act::Compare => vec![Role::Reader],
            (false, false) => vec![files, Role::Fetcher],
        }
    }

    fn relative<'p>(&self, path: &'p AbsPath) -> &'p str {
        path.below(&self.base).filter(|rest| !rest.is_empty()).unwrap_or(path.as_str())
    }

    fn title(&self) -> String {
        let what = match &self.act {
            Act::Summarise => "Summary of ".to_owned(),
            Act::Compare => "Comparison of ".to_owned(),
            Act::Extract(_) => "Extract from ".to_owned(),
            Act::List => "Files in ".to_owned(),
            Act::Search(found) => format!("Matches of {} in ", found.shown()),
        };
        let paths = self.paths.iter().map(|path| self.relative(path).to_owned());
        let names: Vec<String> = paths.chain(self.urls.iter().map(|page| page.url.clone())).collect();
        one_line(&format!("{what}{}", names.join(", ")))
    }
}

/// What is known of a path before anyone is spawned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    File,
    Directory,
}

fn advance(job: &Job, conversation: &Conversation<'_>) -> Result<Step, Stop> {
    let exchanges = &conversation.exchanges;
    let listed = exchanges.iter().filter(|done| matches!(done.input, ToolInput::FileList(_))).count();
    if listed == 0 && !job.paths.is_empty() && conversation.offers("file_list") {
        return Ok(look(job));
    }
    let spawned: Vec<&Exchange<'_>> = exchanges
        .iter()
        .filter(|done| matches!(done.input, ToolInput::SpawnAgent(_) | ToolInput::SpawnAgents(_)))
        .collect();
    let Some(gathered) = spawned.first() else { return gather(job, exchanges) };
    let (mut findings, retries) = collect(job, gathered)?;
    note_missing(job, exchanges, &mut findings);
    for remark in &job.remarks {
        findings.note(remark);
    }
    if job.outputs.is_empty() {
        return Ok(Step::Finish(answer_text(job, &findings, &retries)));
    }
    let Some(written) = spawned.get(1) else { return write(job, &findings) };
    let child = written.output::<Child>().map_err(|error| failed(Role::Writer, &error))?;
    check(Role::Writer, &child)?;
    Ok(Step::Finish(written_text(job, &findings, &retries)))
}

/// Lists every input, to learn which are directories.
fn look(job: &Job) -> Step {
    let calls =
        job.paths.iter().map(|path| ToolInput::FileList(FileListInput { path: path.clone() })).collect();
    let writes = if job.outputs.is_empty() { "" } else { ", then a writer" };
    let children: Vec<&str> = job.gatherers().into_iter().map(Role::name).collect();
    let say = format!("{BANNER}\nPlan: look at the inputs, spawn a {}{writes}.", children.join(" and a "));
    Step::Call { say, calls }
}

/// What the listing said about `path`; an error text when it cannot be read.
fn known(path: &AbsPath, exchanges: &[Exchange<'_>]) -> Result<Known, String> {
    let listing = exchanges.iter().find_map(|done| match &done.input {
        ToolInput::FileList(input) if input.path == *path => Some(done.output::<Listing>()),
        _ => None,
    });
    match listing {
        Some(Ok(listing)) => match listing.kind {
            FileKind::Directory => Ok(Known::Directory),
            FileKind::File => Ok(Known::File),
            FileKind::Symlink | FileKind::Other => Err("neither a file nor a directory".to_owned()),
        },
        Some(Err(error)) => Err(error),
        // Nobody could look: a name with an extension is taken for a file.
        None => {
            let name = path.split_last().map_or("", |(_, name)| name);
            let dotted = name.trim_start_matches('.').contains('.');
            Ok(if dotted { Known::File } else { Known::Directory })
        }
    }
}

fn note_missing(job: &Job, exchanges: &[Exchange<'_>], findings: &mut Findings) {
    for path in &job.paths {
        if let Err(reason) = known(path, exchanges) {
            findings.note(&format!("not read: {path}: {reason}"));
        }
    }
}

/// Spawns the children that gather.
fn gather(job: &Job, exchanges: &[Exchange<'_>]) -> Result<Step, Stop> {
    let mut paths = Vec::new();
    let mut reads = Vec::new();
    let mut problems = Vec::new();
    for path in &job.paths {
        match known(path, exchanges) {
            Ok(Known::File) => reads.push(Resource::Read(pattern(path, Reach::Exact)?)),
            Ok(Known::Directory) => reads.push(Resource::Read(pattern(path, Reach::Subtree)?)),
            Err(reason) => {
                problems.push(format!("cannot read {path}: {reason}"));
                continue;
            }
        }
        paths.push(path.clone());
    }
    let nothing = paths.is_empty() && job.urls.is_empty();
    if !problems.is_empty() && (nothing || job.act == Act::Compare) {
        return Err(Stop::Failed(problems.join("; ")));
    }
    let children: Vec<SpawnAgentInput> = job
        .gatherers()
        .into_iter()
        .filter(|role| *role == Role::Fetcher || !paths.is_empty())
        .map(|role| job.child(role, &paths, &reads))
        .collect();
    let say =
        format!("{BANNER}\nSpawning {}.", if children.len() == 1 { "one child" } else { "two children" });
    let mut children = children;
    let call = match (children.len(), children.pop()) {
        (1, Some(only)) => ToolInput::SpawnAgent(only),
        (_, last) => {
            children.extend(last);
            ToolInput::SpawnAgents(SpawnAgentsInput { children })
        }
    };
    Ok(Step::Call { say, calls: vec![call] })
}

impl Job {
    fn child(&self, role: Role, paths: &[AbsPath], reads: &[Resource]) -> SpawnAgentInput {
        let both = self.act == Act::Compare && !self.urls.is_empty() && role == Role::Reader;
        let fetches = both || role == Role::Fetcher;
        let mut resources = if role == Role::Fetcher { Vec::new() } else { reads.to_vec() };
        if fetches {
            for page in &self.urls {
                if !resources.contains(&page.resource) {
                    resources.push(page.resource.clone());
                }
            }
        }
        let task = GatherTask {
            act: self.act.clone(),
            paths: if role == Role::Fetcher { Vec::new() } else { paths.to_vec() },
            urls: if fetches { self.urls.iter().map(|page| page.url.clone()).collect() } else { Vec::new() },
            only: self.only.clone(),
            exclude: self.outputs.clone(),
            base: self.base.clone(),
            limit: self.limit,
        };
        let also: &[Role] = if both { &[Role::Fetcher] } else { &[] };
        SpawnAgentInput {
            manifest: task::manifest(&self.model, role, also, &resources),
            message: task::message(role, &task),
            prior_findings: None,
        }
    }
}

/// The findings of the children that gathered, and notes on retries.
fn collect(job: &Job, gathered: &Exchange<'_>) -> Result<(Findings, Vec<String>), Stop> {
    let roles = job.gatherers();
    let role = roles.first().copied().unwrap_or(Role::Reader);
    let children = match &gathered.input {
        ToolInput::SpawnAgents(_) => gathered.output::<Children>().map(|all| all.children),
        _ => gathered.output::<Child>().map(|child| vec![child]),
    }
    .map_err(|error| failed(role, &error))?;
    let mut findings = Findings::default();
    let mut retries = Vec::new();
    for (child, role) in children.iter().zip(&roles) {
        check(*role, child)?;
        let found =
            Findings::parse(&child.response).ok_or_else(|| failed(*role, "its answer holds no findings"))?;
        findings.merge(found);
        if child.retried {
            let reason = child.original_error.as_deref().unwrap_or("unknown");
            retries.push(format!("the {} was retried once: {}", role.name(), one_line(reason)));
        }
    }
    Ok((findings, retries))
}

fn check(role: Role, child: &Child) -> Result<(), Stop> {
    match &child.error {
        Some(error) => Err(failed(role, error)),
        None => Ok(()),
    }
}

fn failed(role: Role, error: &str) -> Stop {
    let reason = one_line(&error.replace(BANNER, ""));
    Stop::Failed(format!("The {} failed: {reason}", role.name()))
}

fn write(job: &Job, findings: &Findings) -> Result<Step, Stop> {
    let resources: Vec<Resource> = job.output_grants.iter().cloned().map(Resource::Write).collect();
    assert!(!resources.is_empty(), "an output has a grant");
    let task = WriteTask { act: job.act.clone(), outputs: job.outputs.clone(), title: job.title() };
    let input = SpawnAgentInput {
        manifest: task::manifest(&job.model, Role::Writer, &[], &resources),
        message: task::message(Role::Writer, &task),
        prior_findings: Some(PriorFindings::Text(findings.render())),
    };
    let say = format!("Handing the findings on {} to the writer.", sources(findings));
    Ok(Step::Call { say, calls: vec![ToolInput::SpawnAgent(input)] })
}

fn sources(findings: &Findings) -> String {
    match findings.sources.len() {
        1 => "1 source".to_owned(),
        count => format!("{count} sources"),
    }
}

fn written_text(job: &Job, findings: &Findings, retries: &[String]) -> String {
    let outputs: Vec<&str> = job.outputs.iter().map(AbsPath::as_str).collect();
    let mut lines = vec![
        BANNER.to_owned(),
        format!("{} ({}) was written to {}.", job.title(), sources(findings), outputs.join(" and ")),
    ];
    let each = if findings.sources.len() == 1 { SHOWN_KEYS } else { 2 };
    let points = findings.sources.iter().flat_map(|source| source.points.iter().take(each));
    let shown: Vec<&String> =
        if findings.keys.is_empty() { points.collect() } else { findings.keys.iter().collect() };
    if !shown.is_empty() {
        lines.push(String::new());
    }
    lines.extend(shown.into_iter().take(SHOWN_KEYS).map(|key| format!("- {key}")));
    push_notes(&mut lines, findings, retries);
    lines.join("\n")
}

fn answer_text(job: &Job, findings: &Findings, retries: &[String]) -> String {
    let document = writer::document(&job.act, &job.title(), findings);
    let mut text = format!("{BANNER}\n\n{}", clip(document.trim_end(), MAX_ANSWER_BYTES));
    for retry in retries {
        text.push_str(&format!("\nNote: {retry}"));
    }
    text
}

fn push_notes(lines: &mut Vec<String>, findings: &Findings, retries: &[String]) {
    let notes: Vec<&String> = findings.notes.iter().chain(retries).collect();
    if !notes.is_empty() {
        lines.push(String::new());
    }
    lines.extend(notes.iter().take(SHOWN_NOTES).map(|note| format!("Note: {note}")));
}
