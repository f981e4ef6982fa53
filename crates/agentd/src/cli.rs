//! The command line: commands, flags and their help.
//!
//! Invariant: parsing touches nothing; every command says by example how it is used.

use std::path::PathBuf;

use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_journal::Head;
use clap::{Args, Parser, Subcommand};

use crate::goalargs::GoalFlags;
use crate::settings::Overrides;

/// Runs autonomous AI agents that may do exactly what you grant them
#[derive(Debug, Parser)]
#[command(
    name = "agentd",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        agentd run \"Read the files in ./docs and write a summary to ./output/summary.md\"\n  \
        agentd doctor                   what this machine can enforce\n  \
        agentd audit --verify           whether the record of what happened is intact\n\n\
        Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 budget, 5 provider, 6 confinement unavailable,\n\
        70 a fault of agentd, 130 cancelled. Environment and configuration file: `agentd reference`."
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
        Overrides { state_dir: self.state_dir.clone(), socket: self.socket.clone() }
    }
}

/// What agentd is asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Work on a goal, show the progress, print the answer
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Hand a goal to the running daemon and print its id
    #[command(after_help = "Examples:\n  \
        agentd submit \"Read ./docs and write a summary to ./output/summary.md\"\n  \
        agentd submit --wait \"…\"      stay and show the progress, as `run` does\n\n\
        Grants, outputs and exit codes are those of `agentd run --help`.")]
    Submit(SubmitArgs),
    /// Run the daemon in the foreground
    #[command(
        after_help = "Says `agentd ready socket=PATH` on standard error once it can be asked. SIGTERM or Ctrl-C \
        ends it in good order.\n\nExample:\n  agentd serve --state-dir /var/lib/aaos"
    )]
    Serve,
    /// List agents, or goals
    #[command(after_help = "Examples:\n  agentd list\n  agentd list --goals --json")]
    List(ListArgs),
    /// Show the daemon, one agent or one goal
    #[command(
        after_help = "Examples:\n  agentd status                 providers, limits, confinement, queues\n  \
        agentd status reader          an agent, by name or id\n  agentd status 0190a5e8-…      an agent or a goal"
    )]
    Status(StatusArgs),
    /// Stop an agent with its descendants, or cancel a goal
    #[command(after_help = "Example:\n  agentd stop 0190a5e8-7c1b-7000-8000-0123456789ab")]
    Stop(StopArgs),
    /// Start an agent from a manifest and print its id
    #[command(
        after_help = "Example:\n  agentd spawn helper.yaml\n\nThe manifest says what the agent may do. \
        `system_prompt: { file: PATH }` is read relative to the manifest."
    )]
    Spawn(SpawnArgs),
    /// Send an agent a message and print its answer
    #[command(after_help = "Example:\n  agentd message helper \"What did you find?\"")]
    Message(MessageArgs),
    /// List the tools that agents can be granted
    #[command(
        after_help = "Examples:\n  agentd tools\n  agentd tools --json           with the JSON Schema of each input"
    )]
    Tools(JsonArgs),
    /// Tell what happened, as a story
    #[command(
        after_help = "Examples:\n  agentd logs                   everything\n  agentd logs reader -f         one \
        agent, and go on\n  agentd logs 0190a5e8-…        one agent or goal\n\nWithout a daemon the journal in the \
        state directory is read."
    )]
    Logs(LogsArgs),
    /// Print or verify the journal, entry by entry
    #[command(after_help = AUDIT_HELP)]
    Audit(AuditArgs),
    /// Show what this machine can enforce, proved by starting a real worker
    #[command(
        after_help = "Exit code 6 when a boundary that the policy requires cannot be had.\n\nExample:\n  \
        agentd doctor --json"
    )]
    Doctor(JsonArgs),
    /// Print the reference of environment variables and configuration keys
    #[command(after_help = "Example:\n  agentd reference > docs/environment.md")]
    Reference,
}

const RUN_HELP: &str = "\
By default the goal may read the working directory, write below ./output, fetch from the public hosts of URLs that \
stand in it, use every tool and spawn children with less. Loopback and private hosts need --network. What it may do \
is printed before work begins.

It succeeds when its agent is done and every output was created or changed. Outputs are --output, else the paths in \
the goal that lie below a directory it may write. The answer goes to standard output, all else to standard error.

A running daemon of the state directory does the work, else a private one for as long as this command runs.
Ctrl-C cancels the goal; a second Ctrl-C leaves at once.

Examples:
  agentd run \"Read the files in ./docs and write a summary to ./output/summary.md\"
  agentd run --read ./src --write ./report --output ./report/todo.md \"List all TODOs below ./src\"
  agentd run --network 127.0.0.1:8080 \"Fetch http://127.0.0.1:8080/a and write it to ./output/a.md\"

Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 budget, 5 provider, 6 confinement unavailable, 130 cancelled.";

const AUDIT_HELP: &str = "\
Without a daemon the journal in the state directory is read. --verify exits 1 when the chain does not hold. Keep a \
head that --verify printed: with --head it shows later that nothing before it was changed or cut off.

Examples:
  agentd audit --kind capability_granted --kind capability_denied
  agentd audit --goal 0190a5e8-7c1b-7000-8000-0123456789ab --json
  agentd audit --verify --head 42:6f0c…";

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) goal: GoalFlags,
    /// Print the goal as one JSON object instead of its answer
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress, only what goes wrong
    #[arg(long, short)]
    pub(crate) quiet: bool,
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
    /// No progress, only what goes wrong
    #[arg(long, short)]
    pub(crate) quiet: bool,
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
    #[arg(long, conflicts_with_all = ["goal", "agent", "kind", "after", "limit"])]
    pub(crate) verify: bool,
    /// A head seen earlier, which the chain must still hold
    #[arg(long, value_name = "SEQ:HASH", requires = "verify")]
    pub(crate) head: Option<Head>,
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
            assert!(help.contains("Example") || one.get_name() == "serve", "{}", one.get_name());
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
    fn wrong_lines_are_usage_errors() {
        for line in [
            &["agentd"][..],
            &["agentd", "run"],
            &["agentd", "run", "two", "goals"],
            &["agentd", "run", "x", "--budget-tokens", "0"],
            &["agentd", "run", "x", "--budget-tokens", "-1"],
            &["agentd", "run", "x", "--nonsense"],
            &["agentd", "audit", "--goal", "nonsense"],
            &["agentd", "audit", "--head", "1:00"],
            &["agentd", "audit", "--verify", "--limit", "3"],
            &["agentd", "nonsense"],
        ] {
            let error = Cli::try_parse_from(line).expect_err("wrong");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
        assert_eq!(Cli::try_parse_from(["agentd", "--help"]).expect_err("help").exit_code(), 0);
    }
}
