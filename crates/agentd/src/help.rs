//! What stands below the flags in each command's help: how it behaves, and examples.

pub(crate) const AGENTD: &str = "\
Examples:
  agentd run \"Read the files in ./docs and write a summary to ./output/summary.md\"
  agentd doctor                   what this machine can enforce
  agentd audit --verify           whether the record of what happened is intact

Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 budget, 5 provider, 6 confinement unavailable,
70 a fault of agentd, 130 cancelled. Environment and configuration file: `agentd reference`.";

pub(crate) const RUN: &str = "\
By default the goal may read the working directory, write below ./output, fetch from the public hosts of \
URLs that stand in it, use every tool and spawn children with less. Loopback and private hosts need \
--network. What it may do is printed before work begins.

It succeeds when its agent is done and every output was created or changed. Outputs are --output, else the \
paths in the goal that lie below a directory it may write. The answer goes to standard output, all else to \
standard error.

A running daemon of the state directory does the work, else a private one for as long as this command runs. \
Ctrl-C or SIGTERM cancels the goal; a second one leaves at once.

With --approve TOOL each use of a tool waits for you: you are asked here if this is a terminal, else a command is \
shown that answers. What nobody approves is not done.

With --record FILE the traffic with model providers is recorded to a new file; with --replay FILE that file answers \
instead of them, offline and without a key. A request that was not recorded ends with exit code 5 and the place where it \
differs. Both need a daemon of their own: none may run for the state directory.

Examples:
  agentd run \"Read the files in ./docs and write a summary to ./output/summary.md\"
  agentd run --record ./run.cassette \"Read ./docs and write a summary to ./output/summary.md\"
  agentd run --approve file_write \"Read ./docs and write a summary to ./output/summary.md\"
  agentd run --read ./src --write ./report --output ./report/todo.md \"List all TODOs below ./src\"
  agentd run --network 127.0.0.1:8080 \"Fetch http://127.0.0.1:8080/a and write it to ./output/a.md\"

Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 budget, 5 provider, 6 confinement unavailable,
130 cancelled.";

pub(crate) const SUBMIT: &str = "\
Examples:
  agentd submit \"Read ./docs and write a summary to ./output/summary.md\"
  agentd submit --wait \"…\"        stay and show the progress, as `run` does

Grants, outputs and exit codes are those of `agentd run --help`.";

pub(crate) const FORK: &str = "\
A fork is a new goal. Its root agent begins with the conversation that the goal's root agent had after the last step up \
to that entry, and goes on from there; nothing is asked of a model twice. The goal that is forked may be over or at \
work, and is not touched. The workspace holds the files of that step; files elsewhere are never put back. The fork \
may do what the goal was granted, as far as you may grant it now, and has a purse of its own.

Examples:
  agentd audit --goal 0190a5e8-7c1b-7000-8000-0123456789ab      the entries and their numbers
  agentd fork 0190a5e8-7c1b-7000-8000-0123456789ab --at 42
  agentd fork 0190a5e8-7c1b-7000-8000-0123456789ab --at 42 --model smart --wait
  agentd fork 0190a5e8-7c1b-7000-8000-0123456789ab --at 42 --manifest careful.yaml --keep-files

Exit codes are those of `agentd run --help`; without --wait, 0 once the fork is accepted.";

pub(crate) const SERVE: &str = "\
Says `agentd ready socket=PATH` on standard error once it can be asked. SIGTERM or Ctrl-C ends it in good \
order: no new work, what runs may end for ten seconds, everything is recorded, the socket is removed; goals that are \
not over go on at the next start. A second one ends it at once, which costs no more than a power cut would: nothing \
that was acknowledged.

It may be process 1 of a container: then it starts the daemon below itself, hands SIGTERM, SIGINT, SIGHUP and \
SIGQUIT on, reaps orphans, and ends with the daemon's exit code.

With --record FILE or --replay FILE all its traffic with model providers goes to, or comes from, a file, as with \
`agentd run`.

Exit codes: 0 ended in good order, 1 it could not start or the journal could not be closed, 2 usage, 6 confinement \
unavailable, 70 it lost its zygote, 130 ended by a second signal.

Example:
  agentd serve --state-dir /var/lib/aaos";

pub(crate) const LIST: &str = "\
Examples:
  agentd list
  agentd list --goals --json";

pub(crate) const STATUS: &str = "\
Examples:
  agentd status                   providers, limits, confinement, queues
  agentd status reader            an agent, by name or id
  agentd status 0190a5e8-…        an agent or a goal";

pub(crate) const STOP: &str = "\
Example:
  agentd stop 0190a5e8-7c1b-7000-8000-0123456789ab";

pub(crate) const SPAWN: &str = "\
The manifest says what the agent may do. `system_prompt: { file: PATH }` is read relative to the manifest.

Example:
  agentd spawn helper.yaml";

pub(crate) const CHECK: &str = "\
Reads the manifest as `spawn` does, starts nothing and needs no daemon. It reports grants that can never be \
used, tools without their resource, roots that are missing, refused or very wide, and grants that together \
let private data leave: reading files, fetching pages, and a way out, in one agent or across what it can \
delegate. Grants that `run` or `submit` would add are not counted.

Exit codes: 0 no errors, 1 errors (with --strict also warnings), 2 the manifest cannot be read.

Examples:
  agentd check helper.yaml
  agentd check --strict helper.yaml
  agentd check helper.yaml --json";

pub(crate) const MESSAGE: &str = "\
Example:
  agentd message helper \"What did you find?\"";

pub(crate) const TOOLS: &str = "\
Examples:
  agentd tools
  agentd tools --json             with the JSON Schema of each input";

pub(crate) const APPROVALS: &str = "\
On a terminal it shows each question whole and asks for the answer; without one it lists them. An approval \
covers the very call that was asked about, and only while the files it changes are what was shown; --below and \
--uses cover further calls of the same tool. ID is an id of the list, or a unique end of one. What nobody answers \
in time is denied.

Examples:
  agentd approvals
  agentd approvals --approve 0190a5e8-7c1b-7000-8000-0123456789ab
  agentd approvals --approve 456789ab --below /srv/out/* --uses 20 --for-goal
  agentd approvals --deny 456789ab --reason \"not into the archive\"";

pub(crate) const GRANTS: &str = "\
Uses left count over all agents that share them. A grant may be held to be handed on and not used.

Examples:
  agentd grants reader
  agentd grants 0190a5e8-7c1b-7000-8000-0123456789ab --json";

pub(crate) const REVOKE: &str = "\
What derives from the grant ends with it, in every descendant, and so does a call that is using it. When this \
command is back, nothing is accepted under any of them any more.

Examples:
  agentd revoke reader \"file_write: /srv/out/*\"
  agentd revoke reader 0190a5e8-7c1b-7000-8000-0123456789ab";

pub(crate) const EXPLAIN: &str = "\
With an agent and something to do: whether it would be allowed now and through which grant, else the grant that \
is missing, in the words to grant it with. It uses nothing up. With --who: every living agent that holds a \
grant for it, below the agents that started it. With neither: what was denied lately, also when no daemon runs.

Exit codes: 0 it would be allowed, somebody can reach it, or denials were listed; 3 it would be denied, or \
nobody can.

Examples:
  agentd explain reader --tool file_write --write ./output/report.md
  agentd explain --who --read /srv/data/customers.csv
  agentd explain                  the latest denials, newest first
  agentd explain reader --limit 3";

pub(crate) const LOGS: &str = "\
What agents were asked, thought and said, their calls with arguments and results, approvals, children and budgets. \
Of a long text the first lines are shown; --json has everything. What a model or a tool wrote cannot drive the \
terminal. Without a daemon the journal in the state directory is read.

Examples:
  agentd logs                     everything
  agentd logs reader -f           one agent, and go on
  agentd logs 0190a5e8-…          one agent or goal";

pub(crate) const SHOW: &str = "\
One line for each agent, children below their parents: from when to when it lived, seen from the goal's acceptance, \
its inferences, calls, tokens and cost; then where its time went, and the outputs that were found. A cost is unknown \
where the model's price is. Without a daemon the journal in the state directory is read.

--conversation prints what was said to an agent, what its model replied, and what its calls gave, each as a JSON \
line with \"role\": user, assistant or tool_result.

Examples:
  agentd show 0190a5e8-7c1b-7000-8000-0123456789ab
  agentd show reader --conversation > reader.jsonl
  agentd show reader              an agent by itself
  agentd show 0190a5e8-7c1b-7000-8000-0123456789ab --json";

pub(crate) const REPLAY: &str = "\
Steps the minds of the goal's agents through the recorded replies and results and compares: what each asked its model, \
which calls it made, how each run ended, and the state it was in then. It reads the journal's file and nothing else, \
whether or not a daemon runs: no model is asked, no tool runs, nothing is written. A goal that is not over is replayed \
as far as it went. Two runs of a goal whose agents did the same have the same state, whatever their ids and times.

Exit codes: 0 it is what was recorded, 1 an entry differs, which is named, or the journal no longer holds the goal.

Examples:
  agentd replay 0190a5e8-7c1b-7000-8000-0123456789ab
  agentd replay 0190a5e8-7c1b-7000-8000-0123456789ab --json";

pub(crate) const AUDIT: &str = "\
Without a daemon the journal in the state directory is read. --verify exits 1 when the chain does not hold. \
Keep a head and the key that --verify printed: with --head it shows later that nothing before it was changed or \
cut off, with --key that nobody without the daemon's key wrote it anew. --export reads the journal's file and needs \
the daemon's user. --prune keeps what open goals and agents alive need, and is an administrator's to ask for.

Examples:
  agentd audit --kind capability_granted --kind capability_denied
  agentd audit --export journal.jsonl
  agentd audit --verify --file journal.jsonl --key 3d40…
  agentd audit --prune 30d
  agentd audit --goal 0190a5e8-7c1b-7000-8000-0123456789ab --json
  agentd audit --verify --head 42:6f0c…";

pub(crate) const MODEL: &str = "\
Without a key and without a server of your own, the model that was added last is what agents think with; AAOS_PROVIDER=local \
and AAOS_MODEL choose it over others. It runs in a confined process of its own, without network, which is started for \
the first call and ends when it was asked nothing for ten minutes.

Examples:
  agentd model pull qwen2.5-coder-1.5b
  agentd model add ./smollm2.gguf
  agentd model list
  agentd model remove smollm2";

pub(crate) const MODEL_ADD: &str = "\
The file is copied into the state directory under its SHA-256. What it is says the confined process that would run it; \
one that is malformed, or of a kind that is not known, is not added. A daemon that runs takes it up when it is started \
again.

Exit codes: 0 added, 1 it cannot be used, 2 usage, 6 confinement unavailable.

Examples:
  agentd model add ./smollm2.gguf
  agentd model add ./model-q4_k_m.gguf --name coder --json";

pub(crate) const MODEL_PULL: &str = "\
Pinned are qwen2.5-coder-1.5b (1.0 GiB) and qwen2.5-coder-0.5b (469 MiB), both under Apache-2.0. No source is trusted: \
what came is kept only if it has the SHA-256 that is known before, else it is removed and the next source is asked. \
What was begun stays when the command ends, however it ends; the same command goes on with it, and `agentd model remove` \
removes it. A confined process makes the connections; of a source's name it takes public addresses, and those that \
--address names.

Exit codes: 0 it is there, 1 no source had it or it cannot be used, 2 usage, 6 confinement unavailable.

Examples:
  agentd model pull qwen2.5-coder-1.5b
  agentd model pull qwen2.5-coder-0.5b --from https://mirror.example/qwen.gguf --json
  agentd model pull coder --from https://example.org/m.gguf --bytes 1117320768 \\
    --sha256 cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046";

pub(crate) const MODEL_LIST: &str = "\
Examples:
  agentd model list
  agentd model list --json";

pub(crate) const MODEL_REMOVE: &str = "\
Its weights are removed unless another name leads to them.

Example:
  agentd model remove smollm2";

pub(crate) const DOCTOR: &str = "\
Exit code 6 when a boundary that the policy requires cannot be had.

Example:
  agentd doctor --json";

pub(crate) const MODELS: &str = "\
Each provider is asked for its list of models, for five seconds at most; nothing is inferred and nothing is paid.

Examples:
  agentd models
  agentd models --json";

pub(crate) const CONFIGURE: &str = "\
The key goes to $XDG_CONFIG_HOME/aaos/keys/PROVIDER (~/.config/aaos/keys), which you alone may read, and to no other \
place. Without --key-stdin or --key-from-env you are asked for it, and it is not shown. --base-url and --model add a \
[[providers]] table to the configuration file. A daemon that runs takes both at its next start.

Examples:
  agentd configure anthropic
  agentd configure deepseek --key-from-env DEEPSEEK_API_KEY
  pass show openrouter | agentd configure openrouter --key-stdin \\
    --base-url https://openrouter.ai/api/v1 --model deepseek/deepseek-chat
  agentd configure llama --base-url http://127.0.0.1:8080/v1 --model qwen";

pub(crate) const REFERENCE: &str = "\
Example:
  agentd reference > docs/environment.md";
