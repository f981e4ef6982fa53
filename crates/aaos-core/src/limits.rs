//! Every limit of the runtime, as a named constant (SPEC §6). Hitting one is a typed error.

/// Most agents alive at once (`AAOS_MAX_AGENTS` overrides).
pub const MAX_AGENTS: usize = 10_000;
/// Deepest spawn chain below a goal's root agent, which has depth 0.
pub const MAX_SPAWN_DEPTH: u32 = 5;
/// Most children of one agent alive at once, and `spawn_agents` batch width (`AAOS_SPAWN_AGENTS_BATCH_CAP`).
pub const MAX_CHILDREN_AT_ONCE: usize = 3;
/// Most children in one `spawn_agents` call.
pub const MAX_SPAWN_BATCH: usize = 16;
/// Turns in one run before it stops with `max_iterations`.
pub const MAX_ITERATIONS: u32 = 50;
/// Tokens (input + output) one goal may use unless told otherwise.
pub const RUN_TOKENS: u64 = 1_000_000;
/// Longest model reply asked for, in tokens.
pub const MAX_REPLY_TOKENS: u64 = 16_384;
/// Longest summary of the oldest part of a conversation, in tokens.
pub const MAX_SUMMARY_TOKENS: u64 = 2_048;
/// Models of which it is remembered how many bytes their tokens have.
pub const MAX_LEARNED_MODELS: usize = 256;
/// So much has to be added to a conversation between two reports before others learn from them, bytes.
pub const LEARNED_STEP_BYTES: u64 = 4 * 1024;
/// One such step counts like so many bytes at most.
pub const LEARNED_STEP_WEIGHT_BYTES: u64 = 16 * 1024;
/// Of so many bytes of a model it is remembered how many tokens they took; of older ones ever less.
pub const LEARNED_MODEL_BYTES: u64 = 64 * 1024;
/// `history_read`: bytes of text, unless told otherwise.
pub const HISTORY_BYTES: u64 = 16 * 1024;
/// `history_read`: most bytes of text in one result.
pub const MAX_HISTORY_BYTES: u64 = 64 * 1024;
/// Longest text that is taken for such a summary, bytes.
pub const MAX_SUMMARY_BYTES: usize = 16 * 1024;
/// Concurrent inferences per provider (`AAOS_MAX_CONCURRENT_INFERENCE`).
pub const MAX_CONCURRENT_INFERENCE: usize = 3;
/// Most that `AAOS_MAX_CONCURRENT_INFERENCE` may be: the gateway has no more places for one provider.
pub const MOST_INFERENCE_SLOTS: usize = 128;
/// Most providers that are configured.
pub const MAX_PROVIDERS: usize = 16;
/// Longest key of a provider in a file, bytes.
pub const MAX_KEY_BYTES: u64 = 4_096;
/// Most headers of its own that a provider is sent.
pub const MAX_PROVIDER_HEADERS: usize = 16;
/// Most models that a provider lists.
pub const MAX_PROVIDER_MODELS: usize = 256;
/// Most aliases of models.
pub const MAX_ALIASES: usize = 32;
/// Most models that one alias means.
pub const MAX_ALIAS_MEANINGS: usize = 8;
/// Time inside one tool body, milliseconds.
pub const TOOL_TIME_MS: u64 = 60_000;
/// Time of one inference attempt, milliseconds.
pub const INFERENCE_TIME_MS: u64 = 300_000;
/// Attempts at one inference before the provider's failure is the answer; those that it asked to wait for are not counted.
pub const INFERENCE_ATTEMPTS: u32 = 6;
/// Attempts at a model that an alias means and another one stands behind.
pub const ATTEMPTS_BEFORE_FALLBACK: u32 = 2;
/// Time in which a provider says whether it is there, milliseconds.
pub const PROBE_TIME_MS: u64 = 5_000;
/// How long a provider that failed is asked last, milliseconds.
pub const PROVIDER_DOWN_MS: u64 = 60_000;
/// How often one inference is turned away (429) while its provider takes others meanwhile; then that is the answer.
/// What is turned away while nobody is taken is not counted.
pub const MAX_REFUSALS_AMONG_TAKEN: u32 = 20;
/// How often a model is asked the same that replies nothing.
pub const EMPTY_REPLIES: u32 = 2;
/// Messages that wait in one mailbox; one more is a typed *full*.
pub const MAILBOX_MESSAGES: usize = 64;
/// Finished traces whose replies are kept in memory for `agent.result`.
pub const KEPT_TRACES: usize = 4_096;
/// Default deadline of a goal, seconds.
pub const GOAL_DEADLINE_SECONDS: u64 = 4 * 3600;
/// Goals that run at once; further ones are queued.
pub const MAX_RUNNING_GOALS: usize = 8;
/// Outputs that one goal may declare.
pub const MAX_OUTPUTS: usize = 256;
/// Longest deduplication key of a client, bytes.
pub const MAX_CLIENT_KEY_BYTES: usize = 256;
/// How long the workspace of a goal that ended is kept, milliseconds: seven days.
pub const WORKSPACE_KEPT_MS: u64 = 7 * 24 * 3_600_000;
/// Most bytes that the files of a workspace may have together for it to be restored for a fork.
pub const MAX_FORKED_WORKSPACE_BYTES: u64 = 64 * 1024 * 1024;
/// How often a fork may be forked again.
pub const MAX_FORK_DEPTH: usize = 16;
/// How long after a goal's end its client key is known though its entries were archived, milliseconds: seven days.
pub const CLIENT_KEY_KEPT_MS: u64 = 7 * 24 * 3_600_000;
/// Goals that may be queued.
pub const MAX_QUEUED_GOALS: usize = 1_024;
/// Of these, goals of one principal that is not the operator.
pub const MAX_QUEUED_GOALS_OF_ONE: usize = 128;
/// Bytes of a goal's text and response that a list shows.
pub const LISTED_TEXT_BYTES: usize = 512;

/// Length of the window that `max_per_minute` counts in, milliseconds.
pub const RATE_WINDOW_MS: u64 = 60_000;
/// Highest `max_per_minute`: each use in the window is remembered.
pub const MAX_RATE_PER_MINUTE: u32 = 60_000;
/// Most bytes of text that one token is taken to stand for, for the least that a reply must have cost.
pub const MAX_BYTES_PER_TOKEN: u64 = 16;
/// Agents that have stopped, and goals that have ended, whose records the fold keeps in memory.
pub const KEPT_ENDED: usize = 10_000;

/// Longest JSON-RPC request line, bytes.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// Longest JSON-RPC reply line, bytes.
pub const MAX_REPLY_BYTES: usize = 32 * 1024 * 1024;
/// Requests in flight on one connection.
pub const MAX_IN_FLIGHT: usize = 256;
/// Connections to the control socket.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Entries in one JSON-RPC batch.
pub const MAX_BATCH: usize = 256;

/// Largest frame between aaOS processes, bytes.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// Descriptors that may accompany one frame (the kernel's own limit is 253).
pub const MAX_FRAME_DESCRIPTORS: usize = 64;

/// `command_run`: time, seconds, unless told otherwise.
pub const COMMAND_SECONDS: u64 = 60;
/// `command_run`: longest time, seconds.
pub const MAX_COMMAND_SECONDS: u64 = 600;
/// `command_run`: most arguments.
pub const MAX_COMMAND_ARGUMENTS: usize = 1024;
/// `command_run`: program and arguments together, bytes. The kernel takes no longer single argument.
pub const MAX_COMMAND_ARGUMENT_BYTES: usize = 128 * 1024 - 1;
/// `command_run`: longest text for standard input, bytes.
pub const MAX_COMMAND_STDIN_BYTES: usize = 1024 * 1024;
/// `command_run`: kept beginning of each output stream, bytes; as much is kept of its end.
pub const COMMAND_OUTPUT_HALF_BYTES: usize = 64 * 1024;
/// `command_run`: longest text of one output stream, bytes. Each byte of it may have become a replacement character,
/// which is three long, and a word about what was left out stands between its halves.
pub const MAX_COMMAND_TEXT_BYTES: usize = 3 * 2 * COMMAND_OUTPUT_HALF_BYTES + 128;
/// `command_run`: most bytes that each output stream may have; whoever writes more is ended.
pub const MAX_COMMAND_OUTPUT_BYTES: u64 = 256 * 1024 * 1024;
/// `git`: filters that a repository may name.
pub const MAX_GIT_DRIVERS: usize = 64;
/// Time for everything in a killed program's sandbox to be gone, milliseconds.
pub const PROGRAM_STOP_MS: u64 = 30_000;
/// `cargo`: time of each step, seconds, unless told otherwise.
pub const CARGO_SECONDS: u64 = 300;
/// `cargo`: test executables that one call runs.
pub const MAX_CARGO_TESTS: usize = 64;
/// `cargo`: what tests write to each stream and is kept, all of them together, bytes.
pub const MAX_CARGO_REPORT_BYTES: usize = 512 * 1024;
/// Environment variables that a manifest may name.
pub const MAX_VARIABLES: usize = 32;
/// Names and values of these together, bytes.
pub const MAX_VARIABLE_BYTES: usize = 4_096;
/// Programs that run at once, all agents together.
pub const MAX_PROGRAMS_AT_ONCE: usize = 32;
/// Granted directories and files that one program may be shown.
pub const MAX_PROGRAM_ROOTS: usize = 24;
/// Memory that a program's own temporary directories may hold, bytes each.
pub const PROGRAM_SCRATCH_BYTES: u64 = 256 * 1024 * 1024;
/// Files and directories in each of them.
pub const PROGRAM_SCRATCH_FILES: u64 = 65_536;
/// By how much the file system of a directory that a program may change may grow while it runs, bytes.
pub const PROGRAM_DISK_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// By how many files and directories.
pub const PROGRAM_DISK_FILES: u64 = 1_000_000;
/// What a program leaves free of it, bytes; of a small one a twentieth.
pub const PROGRAM_DISK_RESERVE_BYTES: u64 = 512 * 1024 * 1024;
/// How often these are looked at, milliseconds.
pub const DISK_WATCH_MS: u64 = 200;
/// Processes and threads of one program, its sandbox's own two included.
pub const MAX_PROGRAM_PROCESSES: u64 = 256;
/// Bytes of a program's beginning that a worker looks at for the interpreter it names.
pub const SCRIPT_HEAD_BYTES: usize = 256;

/// Largest manifest text, bytes.
pub const MAX_MANIFEST_BYTES: usize = 256 * 1024;
/// Largest system prompt, bytes.
pub const MAX_SYSTEM_PROMPT_BYTES: usize = 128 * 1024;
/// Capabilities in one manifest.
pub const MAX_CAPABILITIES: usize = 256;
/// Hosts or names in one capability.
pub const MAX_CAPABILITY_ITEMS: usize = 256;
/// Deepest nesting in a manifest.
pub const MAX_MANIFEST_DEPTH: usize = 32;
/// Values in a manifest, aliases expanded.
pub const MAX_MANIFEST_NODES: usize = 20_000;
/// Aliases in a manifest.
pub const MAX_MANIFEST_ALIASES: usize = 64;
/// Unquoted `*` in a manifest: each costs one more reading of the text.
pub const MAX_BARE_STARS: usize = 16;
/// Models in a manifest's `models`.
pub const MAX_RUNGS: usize = 8;
/// Entries in a manifest's `metadata`.
pub const MAX_METADATA: usize = 256;
/// Longest cron expression of a schedule, bytes.
pub const MAX_SCHEDULE_BYTES: usize = 512;
/// How late a due time of a schedule may be fired and still count as on time, milliseconds.
pub const SCHEDULE_GRACE_MS: u64 = 30_000;
/// How far back due times that were missed are looked for, days.
pub const MAX_MISSED_DAYS: u64 = 3_660;
/// Restarts of an agent in the window, unless its manifest says otherwise.
pub const RESTARTS: u32 = 3;
/// The window in which restarts are counted, unless a manifest says otherwise, seconds.
pub const RESTART_WINDOW_SECONDS: u64 = 60;
/// Most restarts in the window that a manifest may ask for: each of them is remembered.
pub const MAX_RESTARTS: u32 = 1_000;
/// Longest window in which restarts are counted, seconds.
pub const MAX_RESTART_WINDOW_SECONDS: u64 = 24 * 3600;
/// Wait before the first restart, milliseconds; each further one in the window waits twice as long.
pub const RESTART_BACKOFF_FIRST_MS: u64 = 250;
/// Longest wait before a restart, milliseconds.
pub const RESTART_BACKOFF_CAP_MS: u64 = 30_000;
/// Sums that are remembered of what an agent spent, for `max_usd` of its supervision; later ones are added up.
pub const SPENDING_NOTES: usize = 256;
/// Largest goal or message text, bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Largest `prior_findings`, bytes.
pub const MAX_PRIOR_FINDINGS_BYTES: usize = 32 * 1024;
/// Longest path, bytes (the kernel's `PATH_MAX` without its final NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// `file_read` and `file_write`: largest content, bytes.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// `file_read_many`: most paths.
pub const MAX_READ_MANY_PATHS: usize = 16;
/// `file_read_many`: largest content together, bytes.
pub const MAX_READ_MANY_BYTES: u64 = 4 * 1024 * 1024;
/// `file_list`: most entries returned.
pub const MAX_LIST_ENTRIES: usize = 500;
/// Most names one directory listing reads before it says *truncated*.
pub const MAX_SCANNED_ENTRIES: usize = 100_000;
/// `grep`: most matches.
pub const MAX_GREP_MATCHES: usize = 200;
/// `grep`: largest output, bytes.
pub const MAX_GREP_BYTES: usize = 16 * 1024;
/// `grep`: longest pattern, bytes.
pub const MAX_GREP_PATTERN_BYTES: usize = 4096;
/// `grep`: most files opened in one call.
pub const MAX_GREP_FILES: usize = 20_000;
/// Deepest directory a tree walk enters below its start.
pub const MAX_WALK_DEPTH: usize = 64;
/// Names in one brokered batch.
pub const MAX_BROKER_BATCH: usize = 64;
/// Directories that one call may hold open at once.
pub const MAX_OPEN_DIRECTORIES: usize = 2 * MAX_WALK_DEPTH;
/// Children that one call may ask the broker for.
pub const MAX_BROKERED_CHILDREN: usize = 200_000;
/// `grep`: largest file that is searched, bytes; a larger one is skipped and the result says *truncated*.
pub const MAX_GREP_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// `grep`: longest shown line, bytes.
pub const MAX_GREP_LINE_BYTES: usize = 400;
/// Largest file that `file_write` with `append` may grow, bytes.
pub const MAX_APPENDED_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Missing parent directories that one write may create.
pub const MAX_CREATED_PARENTS: usize = 64;
/// Directories that the removal of a workspace holds open at once; what lies deeper is moved up first.
pub const MAX_REMOVAL_DEPTH: usize = 64;
/// Steps of one removal of a workspace; what is left then needs another one.
pub const MAX_REMOVAL_STEPS: u64 = 1_000_000;
/// Entries of a granted root that are looked at for sockets, FIFOs and devices.
pub const MAX_SURVEYED_ENTRIES: usize = 100_000;
/// Directories above one another below a root that are looked through, and so held open at once.
pub const MAX_SURVEY_DEPTH: usize = 64;
/// How long the roots that an operator grants to one agent are looked through together, milliseconds.
pub const SURVEY_TIME_MS: u64 = 3_000;
/// Agents whose roots are looked through at once.
pub const MAX_SURVEYS_AT_ONCE: usize = 4;
/// Sockets, FIFOs and devices of a root that are named; further ones are counted.
pub const MAX_NAMED_SPECIAL_FILES: usize = 8;
/// Longest path of one that is shown, characters.
pub const MAX_SPECIAL_NAME_CHARS: usize = 200;
/// Largest declared output that is hashed when it is observed, bytes.
pub const MAX_OBSERVED_OUTPUT_BYTES: u64 = 256 * 1024 * 1024;
/// Deepest element nesting of a page that is made Markdown; a deeper page becomes plain text.
pub const MAX_PAGE_DEPTH: usize = 256;
/// Fetches in flight on the egress gateway's connection.
pub const MAX_FETCHES_IN_FLIGHT: usize = 64;
/// Of them, most that are one agent's.
pub const MAX_AGENT_FETCHES: usize = 32;
/// Of them, how many are kept for agents that have none under way.
pub const SPARE_FETCHES: usize = 16;
/// `web_fetch`: default body limit, bytes.
pub const WEB_FETCH_BYTES: u64 = 50_000;
/// `web_fetch`: largest body limit, bytes.
pub const MAX_WEB_FETCH_BYTES: u64 = 5 * 1024 * 1024;
/// `web_fetch`: time, milliseconds.
pub const WEB_FETCH_TIME_MS: u64 = 30_000;
/// `web_fetch`: redirects followed.
pub const MAX_REDIRECTS: usize = 5;
/// How long a download may stand still, milliseconds. All of it takes as long as the file is large.
pub const DOWNLOAD_IDLE_MS: u64 = 60_000;
/// What a server has to send of a download in so much waiting for it as a download may stand still, bytes.
pub const MIN_DOWNLOAD_BYTES: u64 = 64 * 1024;
/// Proxied connections of programs that are open at once.
pub const MAX_PROXIED: usize = 256;
/// Of them, most that are one agent's: those of two of its programs.
pub const MAX_AGENT_PROXIED: usize = 2 * MAX_RELAYED;
/// Of them, how many are kept for agents that have none open.
pub const SPARE_PROXIED: usize = 64;
/// Time for a program to say where its connection is to go, and then for its first TLS message, milliseconds.
pub const PROXY_HEAD_MS: u64 = 10_000;
/// How long a proxied connection may stand still, milliseconds.
pub const PROXY_IDLE_MS: u64 = 120_000;
/// Longest time that a proxied connection is open, milliseconds.
pub const PROXY_TIME_MS: u64 = 3_600_000;
/// Connections that the programs of one sandbox may have open at once; further ones wait to be accepted.
pub const MAX_RELAYED: usize = 32;
/// Connections that the programs of one sandbox may make; after them nobody listens there any more.
pub const MAX_CALL_CONNECTIONS: usize = 4096;
/// What a proxied connection may move before it needs the next lease, bytes.
pub const CONNECTION_LEASE_BYTES: u64 = 1024 * 1024;
/// A lease is no smaller than this because others are to find something, too.
pub const SMALL_LEASE_BYTES: u64 = 64 * 1024;
/// Longest cassette, bytes. The gateway may write no larger file.
pub const MAX_CASSETTE_BYTES: u64 = 48 * 1024 * 1024;
/// Longest first line of a cassette, bytes.
pub const MAX_CASSETTE_HEAD_BYTES: usize = 256 * 1024;
/// Exchanges in one cassette.
pub const MAX_CASSETTE_EXCHANGES: usize = 10_000;
/// A provider's key that is shorter is a placeholder, such as `none`, and is not looked for in what is recorded.
pub const LEAST_KEY_BYTES: usize = 8;
/// Longest URL, bytes.
pub const MAX_URL_BYTES: usize = 8192;
/// Kept tail of a confined process's standard error, bytes.
pub const KEPT_STDERR_BYTES: usize = 4096;
/// Longest JSON text of a tool result shown to a model, bytes.
pub const MAX_TOOL_RESULT_BYTES: usize = 6 * 1024 * 1024;
/// Bytes of journal that one call is counted to take beside its arguments: intent, outcome and their hashes.
pub const CALL_JOURNAL_BYTES: u64 = 2_048;
/// Bytes of journal that one token of a model's reply is counted to take at most.
pub const JOURNAL_BYTES_PER_TOKEN: u64 = 8;
/// How long a person may take to answer before it counts as a denial, milliseconds.
pub const APPROVAL_WAIT_MS: u64 = 3_600_000;
/// Questions to a person that may be open at once.
pub const MAX_PENDING_APPROVALS: usize = 1_024;
/// Approvals in force for one agent.
pub const MAX_APPROVALS_PER_AGENT: usize = 256;
/// Uses that one scoped approval may cover.
pub const MAX_APPROVED_USES: u32 = 10_000;
/// How often one call is asked about anew because its target changed between question and use.
pub const MAX_CHANGED_TARGETS: u32 = 3;
/// Longest reason of an answer, bytes.
pub const MAX_APPROVAL_REASON_BYTES: usize = 4_096;
/// The same tool with the same input this often in one run gets a hint.
pub const REPEAT_GUARD: u32 = 3;
/// Distinct calls of one agent that the repeat guard remembers; beyond that it forgets the one made longest ago.
pub const MAX_REPEAT_ENTRIES: usize = 1_024;
/// Refused calls of one agent that are journalled one by one within a minute; further ones are counted.
pub const MAX_DENIALS_PER_MINUTE: u32 = 60;

/// Commands that wait for the journal's writer; a note beyond that is a typed *full*.
pub const JOURNAL_QUEUE: usize = 4_096;
/// How long entries that nobody waits for may wait for company before they are committed, milliseconds.
pub const JOURNAL_LINGER_MS: u64 = 2;
/// Entries recorded by one call, in one transaction.
pub const MAX_RECORD_BATCH: usize = 4_096;
/// Every so many entries the head of the journal is signed.
pub const HEAD_EVERY: u64 = 64;
/// Entries that one step of pruning archives and removes, so that no commit waits long for it.
pub const PRUNE_STEP: u64 = 8_000;
/// Names that are tried for an archive where other files have the first ones.
pub const MAX_ARCHIVE_NAMES: u32 = 100;
/// Longest body of one journal entry, bytes of JSON.
pub const MAX_ENTRY_BYTES: usize = 32 * 1024 * 1024;
/// Entries in one answer of a journal read.
pub const MAX_READ_ENTRIES: usize = 10_000;
/// Bodies in one answer of a journal read, bytes; a first entry that is larger comes alone.
pub const MAX_READ_BYTES: usize = 16 * 1024 * 1024;
/// Connections that read the journal at once.
pub const JOURNAL_READERS: usize = 2;
/// Erased bodies that a verification names one by one; further ones are counted.
pub const MAX_LISTED_ERASED: usize = 1_000;
/// How long closing waits for the last entries to reach standard output, milliseconds.
pub const AUDIT_DRAIN_MS: u64 = 1_000;
/// Tool calls of one model reply that are run; further ones are answered with an error.
pub const MAX_CALLS_PER_TURN: usize = 64;
/// Calls of one turn that are under way at once, where all of them may be.
pub const MAX_PARALLEL_CALLS: usize = 8;
/// Delivered messages whose replies are still awaited.
pub const MAX_OPEN_TRACES: usize = 65_536;
/// Longest id of a JSON-RPC request, bytes, quotes included.
pub const MAX_REQUEST_ID_BYTES: usize = 1_024;
/// Largest JSON Schema that is compiled, bytes of JSON text.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Deepest nesting inside a JSON Schema.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// Largest JSON Schema with every reference written out, in values.
pub const MAX_SCHEMA_VALUES: u64 = 8_192;
/// Values of a schema times values of the checked document (strings count by length).
pub const MAX_SCHEMA_WORK: u64 = 64 * 1024 * 1024;
/// Schema violations that are listed.
pub const MAX_SCHEMA_ERRORS: usize = 8;
/// Model calls that wait at one provider, all goals together: every agent may wait there.
pub const MAX_QUEUED_INFERENCES: usize = 16_384;
const _: () = assert!(MAX_QUEUED_INFERENCES >= MAX_AGENTS, "no agent is too many at a provider");
/// Memory that one worker may use, bytes.
pub const WORKER_MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// Memory that one gateway role may use, bytes.
pub const GATEWAY_MEMORY_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest file of weights of a local model.
pub const MAX_WEIGHTS_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// Memory of the process of a local model beside twice its weights.
pub const MODEL_EXTRA_MEMORY_BYTES: u64 = 128 * 1024 * 1024;
/// Address space of that process: the largest weights twice over, and what threads reserve for their stacks and heaps.
pub const MODEL_ADDRESS_BYTES: u64 = 2 * MAX_WEIGHTS_BYTES + 16 * 1024 * 1024 * 1024;
/// Threads of that process, all together.
pub const MODEL_PROCESSES: u64 = 160;
/// Threads of it that compute, at most.
pub const MAX_MODEL_THREADS: u32 = 64;
/// Threads of it that compute: one less than there are processors, and no more than this.
pub const MODEL_THREADS: u32 = 4;
/// Tokens of a conversation with a local model, unless told otherwise.
pub const MODEL_WINDOW_TOKENS: u64 = 8_192;
/// Time of one request to a local model.
pub const LOCAL_INFERENCE_TIME_MS: u64 = 1_800_000;
/// Most bytes of one reply of a model: prose, reasoning, names and arguments together.
pub const MAX_MODEL_REPLY_BYTES: usize = 2 * 1024 * 1024;
/// Most calls in one reply of a model.
pub const MAX_MODEL_REPLY_CALLS: usize = 128;
/// Characters that are kept of what the process of a local model says of a failure.
pub const LOCAL_FAILURE_CHARS: usize = 512;
/// Time in which the process of a local model takes up a request, milliseconds: an earlier one that was cancelled has to
/// end first.
pub const LOCAL_BEGIN_MS: u64 = 60_000;
/// Time in which a local model is loaded.
pub const MODEL_LOAD_MS: u64 = 60_000;
/// The process of a local model that was asked nothing for so long is ended.
pub const MODEL_IDLE_MS: u64 = 600_000;
/// Memory that a program and all that it starts may use together, where the kernel has control groups, bytes.
pub const PROGRAM_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Processes and threads of one worker.
pub const WORKER_PROCESSES: u64 = 1;
/// Processes and threads of one gateway role.
pub const GATEWAY_PROCESSES: u64 = 512;
/// A worker's share of the processors where they are all busy; 100 is the kernel's default.
pub const WORKER_WEIGHT: u64 = 50;
/// A gateway role's share: all agents wait for it.
pub const GATEWAY_WEIGHT: u64 = 100;
/// Between two looks at the memory of a process that no control group bounds, milliseconds.
pub const MEMORY_WATCH_MS: u64 = 100;
/// Time for a far process to be made, locked and proved, milliseconds.
pub const FAR_LAUNCH_MS: u64 = 5_000;
/// Workers that are launched at once; whoever else needs one waits for its turn.
pub const LAUNCHES_AT_ONCE: usize = 4;
/// Workers that are launched before an agent needs them (`AAOS_PARKED_WORKERS`).
pub const PARKED_WORKERS: usize = 2;
/// Most workers that can be asked to be parked.
pub const MAX_PARKED_WORKERS: usize = 256;
/// How long after one was taken a parked worker is replaced, milliseconds: the call that took it comes first.
pub const POOL_PAUSE_MS: u64 = 10;
/// Launches in a row that may fail before the parked workers are left as few as they are.
pub const POOL_ATTEMPTS: u32 = 3;
/// Time for a killed far process to be reaped and its last words to arrive, milliseconds.
pub const FAR_STOP_MS: u64 = 2_000;
/// Time for probes that are asked for after the launch, milliseconds.
pub const FAR_PROBE_MS: u64 = 5_000;
/// Time for a far process that closed its channel to end by itself, milliseconds.
pub const FAR_GRACE_MS: u64 = 200;
