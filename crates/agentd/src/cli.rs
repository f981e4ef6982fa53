//! The command line: commands, flags and their help.
//!
//! Invariant: parsing touches nothing; every command says by example how it is used.

use std::net::IpAddr;
use std::path::PathBuf;

use aaos_core::capability::tool_name;
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::name::{AgentName, ModelName, ToolName};
use aaos_core::quantity::Millis;
use aaos_journal::{Head, HeadKey};
use clap::{Args, Parser, Subcommand};

use crate::cassette::CassetteFlags;
use crate::goalargs::GoalFlags;
use crate::help;
use crate::settings::Overrides;

/// Runs autonomous AI agents that may do exactly what you grant them
#[derive(Debug, Parser)]
#[command(
    name = "agentd",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = help::AGENTD
)]
pub(crate) struct Cli {
    /// Directory of the journal and the workspaces [AAOS_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Daemon")]
    state_dir: Option<PathBuf>,
    /// Control socket [AAOS_SOCKET]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Daemon")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The flags that stand over environment and file.
    pub(crate) fn overrides(&self) -> Overrides {
        let cassette = match &self.command {
            Command::Run(args) => args.cassette.chosen(),
            Command::Serve(args) => args.cassette.chosen(),
            _ => None,
        };
        let brings_models = matches!(self.command, Command::Model(_));
        Overrides { state_dir: self.state_dir.clone(), socket: self.socket.clone(), cassette, brings_models }
    }
}

/// What agentd is asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Work on a goal, show the progress, print the answer
    #[command(after_help = help::RUN)]
    Run(RunArgs),
    /// Hand a goal to the running daemon and print its id
    #[command(after_help = help::SUBMIT)]
    Submit(SubmitArgs),
    /// Go on from a step of a goal, with something changed, as a goal of its own
    #[command(after_help = help::FORK)]
    Fork(ForkArgs),
    /// Run the daemon in the foreground
    #[command(after_help = help::SERVE)]
    Serve(ServeArgs),
    /// List agents, or goals
    #[command(after_help = help::LIST)]
    List(ListArgs),
    /// Show the daemon, one agent or one goal
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// Stop an agent with its descendants, or cancel a goal
    #[command(after_help = help::STOP)]
    Stop(StopArgs),
    /// Start an agent from a manifest and print its id
    #[command(after_help = help::SPAWN)]
    Spawn(SpawnArgs),
    /// Find mistakes and risks in a manifest, before anything runs
    #[command(after_help = help::CHECK)]
    Check(CheckArgs),
    /// Send an agent a message and print its answer
    #[command(after_help = help::MESSAGE)]
    Message(MessageArgs),
    /// List the tools that agents can be granted
    #[command(after_help = help::TOOLS)]
    Tools(JsonArgs),
    /// List what waits for a person's approval, and answer it
    #[command(after_help = help::APPROVALS)]
    Approvals(ApprovalsArgs),
    /// List what an agent holds
    #[command(after_help = help::GRANTS)]
    Grants(GrantsArgs),
    /// Take a grant back, with all that derives from it
    #[command(after_help = help::REVOKE)]
    Revoke(RevokeArgs),
    /// Say why something is denied, what is missing, and who can reach what
    #[command(after_help = help::EXPLAIN)]
    Explain(ExplainArgs),
    /// Tell what happened, as a story
    #[command(after_help = help::LOGS)]
    Logs(LogsArgs),
    /// Show who worked on a goal when, what it cost, and what was waited for
    #[command(after_help = help::SHOW)]
    Show(ShowArgs),
    /// Run a recorded goal again from the journal alone, and compare
    #[command(after_help = help::REPLAY)]
    Replay(ReplayArgs),
    /// Print or verify the journal, entry by entry
    #[command(after_help = help::AUDIT)]
    Audit(AuditArgs),
    /// Add, list and remove models that this machine runs itself
    #[command(after_help = help::MODEL)]
    Model(ModelArgs),
    /// Show what this machine can enforce, proved by starting a real worker
    #[command(after_help = help::DOCTOR)]
    Doctor(JsonArgs),
    /// Show which providers answer, why others do not, and what the aliases mean
    #[command(after_help = help::MODELS)]
    Models(JsonArgs),
    /// Keep a provider's key in a file, and name a provider
    #[command(after_help = help::CONFIGURE)]
    Configure(ConfigureArgs),
    /// Print the reference of environment variables and configuration keys
    #[command(after_help = help::REFERENCE)]
    Reference,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) goal: GoalFlags,
    #[command(flatten)]
    pub(crate) cassette: CassetteFlags,
    /// Print the goal as one JSON object instead of its answer
    #[arg(long)]
    pub(crate) json: bool,
    /// Print no progress lines, only what is granted, what goes wrong and the end
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// `configure`.
#[derive(Debug, Args)]
pub(crate) struct ConfigureArgs {
    /// deepseek, anthropic, openai, or a name for another one
    pub(crate) provider: Option<String>,
    /// Take the key from this variable
    #[arg(long, value_name = "VAR", conflicts_with = "key_stdin")]
    pub(crate) key_from_env: Option<String>,
    /// Read the key from standard input
    #[arg(long)]
    pub(crate) key_stdin: bool,
    /// Where it is, for one that aaOS does not know
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// The model that `smart` and `fast` mean there
    #[arg(long, value_name = "M")]
    pub(crate) model: Option<String>,
}

/// `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) cassette: CassetteFlags,
}

/// `submit`.
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) goal: GoalFlags,
    /// Stay until it is over, and end with its exit code
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print no progress lines, only what is granted, what goes wrong and the end
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// `fork`.
#[derive(Debug, Args)]
pub(crate) struct ForkArgs {
    /// The goal's id
    pub(crate) goal: GoalId,
    /// Number of the last entry of the goal that is taken over, as `agentd audit --goal GOAL` shows it
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    pub(crate) at: Seq,
    /// Have its root agent go on with another model
    #[arg(long, value_name = "MODEL", value_parser = ModelName::parse, conflicts_with = "manifest")]
    pub(crate) model: Option<ModelName>,
    /// Go on with another root agent, described by this manifest file
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Go on although the goal changed files outside its workspace since: they stay as they are now
    #[arg(long)]
    pub(crate) keep_files: bool,
    /// Stay until it is over, and end with its exit code
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print no progress lines, only what goes wrong and the end
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

fn seq(text: &str) -> Result<Seq, String> {
    text.parse().map(Seq).map_err(|error| format!("{error}"))
}

/// `model`.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    pub(crate) action: ModelAction,
}

/// What is done with local models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelAction {
    /// Copy the weights of a model into the state directory
    #[command(after_help = help::MODEL_ADD)]
    Add(ModelAddArgs),
    /// Fetch a model by its name; only one whose SHA-256 is known
    #[command(after_help = help::MODEL_PULL)]
    Pull(ModelPullArgs),
    /// List the models that were added
    #[command(after_help = help::MODEL_LIST)]
    List(JsonArgs),
    /// Remove a model and its weights
    #[command(after_help = help::MODEL_REMOVE)]
    Remove(ModelRemoveArgs),
}

/// `model add`.
#[derive(Debug, Args)]
pub(crate) struct ModelAddArgs {
    /// The weights, a GGUF file
    pub(crate) file: PathBuf,
    /// What it is to be called; the file's own name when absent
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `model pull`.
#[derive(Debug, Args)]
pub(crate) struct ModelPullArgs {
    /// Which one; with --sha256 what it is to be called
    pub(crate) name: String,
    /// Fetch the same file from this URL instead, or with `pip` from packages; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) from: Vec<String>,
    /// SHA-256 of a model of your own choice, hexadecimal
    #[arg(long, value_name = "HEX", requires_all = ["bytes", "from"])]
    pub(crate) sha256: Option<String>,
    /// Its size
    #[arg(long, value_name = "N", requires = "sha256")]
    pub(crate) bytes: Option<u64>,
    /// An address of your own network to which the name of a source may lead; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Vec<IpAddr>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `model remove`.
#[derive(Debug, Args)]
pub(crate) struct ModelRemoveArgs {
    /// What it is called
    pub(crate) name: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A command that only reads.
#[derive(Debug, Args)]
pub(crate) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Goals instead of agents
    #[arg(long)]
    pub(crate) goals: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// An agent's id or name, or a goal's id; the daemon itself when absent
    #[arg(value_name = "AGENT|GOAL")]
    pub(crate) target: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// An agent's id or name, or a goal's id
    #[arg(value_name = "AGENT|GOAL")]
    pub(crate) target: String,
}

/// `spawn`.
#[derive(Debug, Args)]
pub(crate) struct SpawnArgs {
    /// The manifest file
    #[arg(value_name = "MANIFEST")]
    pub(crate) manifest: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The manifest file
    #[arg(value_name = "MANIFEST")]
    pub(crate) manifest: PathBuf,
    /// Fail on warnings, too
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `message`.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// The agent's id or name
    pub(crate) agent: String,
    /// What to say, in quotes
    pub(crate) text: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `approvals`.
#[derive(Debug, Args)]
pub(crate) struct ApprovalsArgs {
    /// Approve this one; may be given again
    #[arg(long, value_name = "ID", group = "answers", conflicts_with = "deny")]
    pub(crate) approve: Vec<String>,
    /// Deny this one, or withdraw it where it is approved; may be given again
    #[arg(long, value_name = "ID", group = "answers")]
    pub(crate) deny: Vec<String>,
    /// Why; the agent is told the reason of a denial
    #[arg(long, value_name = "TEXT", requires = "answers")]
    pub(crate) reason: Option<String>,
    /// Approve further uses of the same tool, too, whose files lie below PATTERN, for example /out/*
    #[arg(long, value_name = "PATTERN", requires = "approve", conflicts_with = "deny")]
    pub(crate) below: Option<String>,
    /// Approve so many uses, this one included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "approve",
          conflicts_with = "deny")]
    pub(crate) uses: Option<u32>,
    /// Approve for every agent of the goal, not only the one that asks and its children
    #[arg(long, requires = "approve", conflicts_with = "deny")]
    pub(crate) for_goal: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `grants`.
#[derive(Debug, Args)]
pub(crate) struct GrantsArgs {
    /// The agent's id or name
    pub(crate) agent: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The agent's id or name
    pub(crate) agent: String,
    /// The grant: its id, or its words in quotes, as `agentd grants` lists them
    pub(crate) grant: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The agent's id or name
    pub(crate) agent: Option<String>,
    /// Could it use TOOL?
    #[arg(long, value_name = "TOOL", value_parser = tool_name, help_heading = "What")]
    pub(crate) tool: Option<ToolName>,
    /// Could it read PATH?
    #[arg(long, value_name = "PATH", help_heading = "What")]
    pub(crate) read: Option<String>,
    /// Could it write PATH?
    #[arg(long, value_name = "PATH", help_heading = "What")]
    pub(crate) write: Option<String>,
    /// Could it connect to HOST? Port 443 when none is given
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "What")]
    pub(crate) host: Option<String>,
    /// Could it start a child called NAME?
    #[arg(long, value_name = "NAME", value_parser = AgentName::parse, help_heading = "What")]
    pub(crate) spawn: Option<AgentName>,
    /// Which agents can reach it, instead of one AGENT
    #[arg(long, conflicts_with_all = ["agent", "goal", "limit"])]
    pub(crate) who: bool,
    /// Only denials of this goal
    #[arg(long, value_name = "ID", conflicts_with_all = ["tool", "read", "write", "host", "spawn"])]
    pub(crate) goal: Option<GoalId>,
    /// At most this many denials, the newest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_one,
          conflicts_with_all = ["tool", "read", "write", "host", "spawn"])]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ExplainArgs {
    /// Whether nothing is asked about: then what was denied is told.
    pub(crate) fn asks_nothing(&self) -> bool {
        let Self { tool, read, write, host, spawn, .. } = self;
        tool.is_none() && read.is_none() && write.is_none() && host.is_none() && spawn.is_none()
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    if number == 0 { Err("it is at least 1".to_owned()) } else { Ok(number) }
}

/// `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// An agent's id or name, or a goal's id; everything when absent
    #[arg(value_name = "AGENT|GOAL")]
    pub(crate) target: Option<String>,
    /// Go on as things happen
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print the entries as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A goal's id, or an agent's id or name
    #[arg(value_name = "GOAL|AGENT")]
    pub(crate) target: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the agent's whole conversation instead, as JSON lines
    #[arg(long, conflicts_with = "json")]
    pub(crate) conversation: bool,
}

/// `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The goal's id
    #[arg(value_name = "GOAL")]
    pub(crate) goal: GoalId,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only entries of this goal
    #[arg(long, value_name = "ID")]
    pub(crate) goal: Option<GoalId>,
    /// Only entries of this agent
    #[arg(long, value_name = "ID")]
    pub(crate) agent: Option<AgentId>,
    /// Only entries of this kind; may be given again
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Vec<String>,
    /// Only entries after this number
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    pub(crate) after: Option<Seq>,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Print the entries as JSON lines, or the verification as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Verify the whole chain instead of printing it
    #[arg(long, group = "chore", conflicts_with_all = ["goal", "agent", "kind", "after", "limit"])]
    pub(crate) verify: bool,
    /// Verify this exported or archived file; neither daemon nor journal is needed
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub(crate) file: Option<PathBuf>,
    /// A head seen earlier, which the chain must still hold
    #[arg(long, value_name = "SEQ:HASH", requires = "verify")]
    pub(crate) head: Option<Head>,
    /// The public key that must have signed the chain
    #[arg(long, value_name = "HEX", requires = "verify")]
    pub(crate) key: Option<HeadKey>,
    /// Write the journal as stored, with its signed heads, to a new FILE that --verify --file can check
    #[arg(long, value_name = "FILE", group = "chore",
          conflicts_with_all = ["goal", "agent", "kind", "after", "limit"])]
    pub(crate) export: Option<PathBuf>,
    /// Move entries older than AGE that nothing needs into files in `archive` in the state directory
    #[arg(long, value_name = "AGE", group = "chore", value_parser = parse_age,
          conflicts_with_all = ["goal", "agent", "kind", "after", "limit"])]
    pub(crate) prune: Option<Millis>,
}

/// A length of time such as `30d`, `12h` or `90m`.
fn parse_age(text: &str) -> Result<Millis, String> {
    let wrong = || "it is a number with d, h or m behind it, for example 30d".to_owned();
    let split = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let minutes = match unit {
        "d" => 24 * 60,
        "h" => 60,
        "m" => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(minutes * 60_000).map(Millis).ok_or_else(|| "it is too long".to_owned())
}

fn parse_seq(text: &str) -> Result<Seq, std::num::ParseIntError> {
    text.parse().map(Seq)
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_definition_is_sound_and_every_command_has_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for one in command.get_subcommands() {
            let help = one.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", one.get_name());
            assert!(one.get_about().is_some(), "{}", one.get_name());
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_goal() {
        for line in [
            &["agentd", "run", "do it", "--read", "a", "--json"][..],
            &["agentd", "run", "--read", "a", "--json", "do it"],
            &["agentd", "run", "--read", "a", "--json", "--", "do it"],
            &["agentd", "--state-dir", "s", "run", "--read=a", "do it", "--json"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            let Command::Run(run) = cli.command else { panic!("run") };
            assert_eq!(
                (run.goal.goal.as_str(), run.goal.read.as_slice(), run.json),
                ("do it", &["a".to_owned()][..], true)
            );
        }
        let cli = Cli::try_parse_from(["agentd", "run", "--", "--strange goal"]).expect("after --");
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!(run.goal.goal, "--strange goal");
    }

    #[test]
    fn an_age_is_a_number_with_a_unit() {
        for (text, minutes) in [("30d", 30 * 24 * 60), ("12h", 12 * 60), ("90m", 90), ("0d", 0)] {
            let cli = Cli::try_parse_from(["agentd", "audit", "--prune", text]).expect("an age");
            let Command::Audit(audit) = cli.command else { panic!("audit") };
            assert_eq!(audit.prune.map(|age| age.0), Some(minutes * 60_000), "{text}");
        }
    }

    #[test]
    fn wrong_lines_are_usage_errors() {
        for line in [
            &["agentd"][..],
            &["agentd", "run"],
            &["agentd", "run", "two", "goals"],
            &["agentd", "run", "x", "--budget-tokens", "0"],
            &["agentd", "run", "x", "--budget-tokens", "-1"],
            &["agentd", "run", "x", "--nonsense"],
            &["agentd", "run", "x", "--approve", "no_such_tool"],
            &["agentd", "run", "x", "--approve", "*"],
            &["agentd", "audit", "--goal", "nonsense"],
            &["agentd", "audit", "--head", "1:00"],
            &["agentd", "audit", "--verify", "--limit", "3"],
            &["agentd", "audit", "--file", "x"],
            &["agentd", "audit", "--verify", "--key", "00"],
            &["agentd", "audit", "--verify", "--export", "x"],
            &["agentd", "audit", "--export", "x", "--prune", "1d"],
            &["agentd", "audit", "--prune", "d"],
            &["agentd", "audit", "--prune", ""],
            &["agentd", "audit", "--prune", "1\u{e9}"],
            &["agentd", "audit", "--prune", "-1d"],
            &["agentd", "audit", "--prune", "99999999999999999999d"],
            &["agentd", "audit", "--prune", "9999999999999999d"],
            &["agentd", "nonsense"],
        ] {
            let error = Cli::try_parse_from(line).expect_err("wrong");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
        let error =
            Cli::try_parse_from(["agentd", "run", "x", "--approve", "file-wirte"]).expect_err("wrong");
        assert!(error.to_string().contains("nearest: \"file_write\""), "{error}");
        assert_eq!(Cli::try_parse_from(["agentd", "--help"]).expect_err("help").exit_code(), 0);
    }
}
