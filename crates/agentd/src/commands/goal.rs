//! `run` and `submit`: from flags to a goal, and from a goal to an answer and an exit code.

use std::path::PathBuf;

use aaos_core::id::GoalId;
use aaos_core::name::{ModelName, ToolName};
use aaos_core::path::AbsPath;
use aaos_core::quantity::{MicroUsd, Tokens};
use aaos_runtime::RuntimeStatus;
use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cassette::Chosen;
use crate::cli::{RunArgs, SubmitArgs};
use crate::client::{Client, Nothing};
use crate::daemon;
use crate::exit::Exit;
use crate::goalargs::{self, GoalFlags, GoalPlan, Place, WireGrant};
use crate::manifests;
use crate::render::text::line;
use crate::render::{Screen, Tone};
use crate::settings::local::LOCAL;
use crate::settings::{Settings, vars};

use super::check;
use super::stream::{self, Voice};

/// The alias that the shipped bootstrap agent asks.
const BOOTSTRAP_MODEL: &str = "smart";
/// The provider that is no language model.
const BUILTIN: &str = "builtin";

/// `goal.submit`.
#[derive(Serialize)]
pub(super) struct Submission<'p> {
    goal: &'p str,
    outputs: &'p [AbsPath],
    grants: Vec<WireGrant<'p>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    approval_required: &'p [ToolName],
    working_directory: &'p AbsPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<Budget>,
}

#[derive(Serialize)]
struct Budget {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_usd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wall_seconds: Option<u64>,
}

impl Budget {
    fn of(asked: goalargs::Budget) -> Option<Self> {
        let goalargs::Budget { tokens, usd, seconds } = asked;
        let budget =
            Self { max_tokens: tokens, max_usd: usd.map(MicroUsd::to_decimal), max_wall_seconds: seconds };
        (asked != goalargs::Budget::default()).then_some(budget)
    }
}

impl<'p> From<&'p GoalPlan> for Submission<'p> {
    fn from(plan: &'p GoalPlan) -> Self {
        Self {
            goal: &plan.goal,
            outputs: &plan.outputs,
            grants: plan.grants.iter().map(WireGrant).collect(),
            approval_required: &plan.approve,
            working_directory: &plan.directory,
            manifest: plan.manifest.as_deref(),
            deadline_seconds: plan.deadline_seconds,
            budget: Budget::of(plan.budget),
        }
    }
}

/// What a goal is submitted with, and which model its agent asks.
struct Prepared {
    plan: GoalPlan,
    model: Option<ModelName>,
}

fn prepare(flags: &GoalFlags) -> Result<Prepared> {
    let home = vars::read(vars::HOME.name).map(PathBuf::from);
    let place = Place::here(home.as_deref())?;
    let manifest = flags.manifest.as_deref().map(manifests::load_and_parse).transpose()?;
    let model = match &manifest {
        Some(own) => Some(own.parsed.model.clone()),
        None => ModelName::parse(BOOTSTRAP_MODEL).ok(),
    };
    Ok(Prepared { plan: GoalPlan::new(flags, &place, manifest)?, model })
}

/// `run`.
pub(super) fn run(mut settings: Settings, args: &RunArgs, screen: Screen) -> Result<Exit> {
    let prepared = prepare(&args.goal)?;
    // Standard output carries the answer: only `serve` prints the audit trail there.
    settings.audit_stdout = false;
    let voice = Voice { screen, json: args.json, quiet: args.quiet };
    let notice = settings.cassette.as_ref().map(Chosen::notice);
    daemon::with_daemon(settings, async move |socket: PathBuf| {
        let mut client = Client::connect(&socket).await?;
        if let Some(notice) = notice {
            screen.note(Tone::Warn, &line(&notice));
        }
        announce(&mut client, &prepared, screen).await?;
        stream::follow(&mut client, &socket, &Submission::from(&prepared.plan), voice).await
    })
}

/// `submit`.
pub(super) fn submit(settings: &Settings, args: &SubmitArgs, screen: Screen) -> Result<Exit> {
    let prepared = prepare(&args.goal)?;
    daemon::with_running(settings, async move |socket: PathBuf| {
        let mut client = Client::connect(&socket).await?;
        announce(&mut client, &prepared, screen).await?;
        let submission = Submission::from(&prepared.plan);
        if args.wait {
            let voice = Voice { screen, json: args.json, quiet: args.quiet };
            return stream::follow(&mut client, &socket, &submission, voice).await;
        }
        // Whoever waits is told by the daemon what it found itself.
        for told in
            check::special_lines(settings, prepared.plan.own_grants.iter().chain(&prepared.plan.grants))?
        {
            screen.note(Tone::Warn, &told);
        }
        let accepted = client.call_raw("goal.submit", &submission).await?;
        if args.json {
            screen.json(&accepted)?;
        } else {
            let Accepted { goal_id } = serde_json::from_str(accepted.get())?;
            screen.line(Tone::Plain, &goal_id.to_string())?;
            screen.note(Tone::Dim, &format!("agentd logs {goal_id} -f   shows its progress"));
        }
        Ok(Exit::Done)
    })
}

#[derive(Deserialize)]
struct Accepted {
    goal_id: GoalId,
}

/// Says before work begins who thinks, what the goal may do and what it must bring.
async fn announce(client: &mut Client, prepared: &Prepared, screen: Screen) -> Result<()> {
    let status: RuntimeStatus = client.call("runtime.status", &Nothing {}).await?;
    if let Some(notice) = provider_notice(&status, prepared.model.as_ref()) {
        screen.note(Tone::Warn, &notice);
    }
    for notice in &prepared.plan.notices {
        screen.note(Tone::Warn, notice);
    }
    for text in grant_lines(&prepared.plan) {
        screen.note(Tone::Dim, &text);
    }
    Ok(())
}

fn provider_notice(status: &RuntimeStatus, model: Option<&ModelName>) -> Option<String> {
    if let Some(why) = &status.providers_problem {
        return Some(format!("the model providers cannot be asked: {}", line(why)));
    }
    let providers = &status.providers;
    let serves = |model: &ModelName| aaos_core::route::provider_of(providers, model);
    let chosen = model.and_then(serves).or_else(|| providers.first())?;
    if chosen.name.as_str() == LOCAL {
        // The first is the one that the aliases mean.
        let name = model.filter(|model| !chosen.aliases.contains(model)).or_else(|| chosen.models.first())?;
        return Some(line(&format!("provider local: {name}, which this machine runs itself")));
    }
    let broken =
        providers.iter().filter(|one| one.name.as_str() == LOCAL).find_map(|one| one.problem.as_ref());
    (chosen.name.as_str() == BUILTIN).then(|| match broken {
        Some(why) => format!("provider builtin, not local: {}", line(why)),
        None => "provider builtin: a fixed planner that extracts text, not a language model; for one, set \
         DEEPSEEK_API_KEY, ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENAI_BASE_URL, or add one with `agentd model add`"
            .to_owned(),
    })
}

/// The root grant and the declared outputs.
fn grant_lines(plan: &GoalPlan) -> Vec<String> {
    let mut lines = vec!["the goal may:".to_owned()];
    let grants = plan.own_grants.iter().chain(&plan.grants);
    lines.extend(grants.map(|grant| format!("  {}", line(&grant.to_string()))));
    lines.push("  file_read and file_write: its own workspace".to_owned());
    if !plan.approve.is_empty() {
        lines.push("each use of these waits for your approval:".to_owned());
        lines.extend(plan.approve.iter().map(|tool| format!("  {tool}")));
    }
    if plan.outputs.is_empty() {
        lines.push("it declares no outputs: its agent's word will have to do (--output PATH)".to_owned());
    } else {
        lines.push("it is done when these were created or changed:".to_owned());
        lines.extend(plan.outputs.iter().map(|path| format!("  {}", line(path.as_str()))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Submission, grant_lines};
    use crate::goalargs::{self, GoalFlags, GoalPlan, Place};
    use aaos_core::name::ToolName;
    use aaos_core::path::AbsPath;
    use aaos_core::quantity::MicroUsd;

    fn plan(goal: &str) -> GoalPlan {
        let place =
            Place { directory: AbsPath::parse("/p").expect("absolute"), home: None, programs: Vec::new() };
        GoalPlan::new(&GoalFlags { goal: goal.to_owned(), ..GoalFlags::default() }, &place, None)
            .expect("plans")
    }

    #[test]
    fn the_root_grant_is_said_in_the_grammar_s_words() {
        assert_eq!(
            grant_lines(&plan("Fetch https://a.org/x and write ./output/x.md")),
            [
                "the goal may:",
                "  file_read: /p/*",
                "  file_write: /p/output/*",
                "  network: a.org",
                "  tool: *",
                "  spawn_child: [*]",
                "  file_read and file_write: its own workspace",
                "it is done when these were created or changed:",
                "  /p/output/x.md",
            ]
        );
    }

    #[test]
    fn tools_that_wait_for_approval_are_said_and_sent() {
        let mut plan = plan("Write ./output/x.md");
        assert!(!grant_lines(&plan).join("\n").contains("approval"), "the control");
        plan.approve = vec![ToolName::parse("file_write").expect("a name")];
        let said = grant_lines(&plan);
        let at = said.iter().position(|line| line == "each use of these waits for your approval:");
        assert_eq!(at.map(|at| said[at + 1].as_str()), Some("  file_write"), "{said:?}");
        let json = serde_json::to_string(&Submission::from(&plan)).expect("JSON");
        assert!(json.contains("\"approval_required\":[\"file_write\"]"), "{json}");
    }

    #[test]
    fn a_submission_is_what_the_daemon_takes() {
        let plan = plan("Fetch https://a.org:8443 to ./output/x.md");
        let json = serde_json::to_string(&Submission::from(&plan)).expect("JSON");
        assert_eq!(
            json,
            "{\"goal\":\"Fetch https://a.org:8443 to ./output/x.md\",\"outputs\":[\"/p/output/x.md\"],\
             \"grants\":[{\"file_read\":\"/p/*\"},{\"file_write\":\"/p/output/*\"},\
             {\"network\":[\"a.org:8443\"]},{\"tool\":\"*\"},{\"spawn_child\":[\"*\"]}],\"working_directory\":\"/p\"}"
        );
        let budget = goalargs::Budget { usd: Some(MicroUsd(1_500_000)), seconds: Some(9), tokens: None };
        let json = serde_json::to_string(&Submission::from(&GoalPlan { budget, ..plan })).expect("JSON");
        assert!(json.contains("\"budget\":{\"max_usd\":\"1.50\",\"max_wall_seconds\":9}"), "{json}");
    }
}
