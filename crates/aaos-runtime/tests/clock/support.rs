//! A kernel in the test's process: a real journal, a real zygote with its workers and gateway, a scripted model, and a
//! clock that stands still.
//!
//! That nothing happens is shown by what waits for the clock: while nothing runs, everything that will ever happen by
//! itself is in that list. Every wait of a test ends at an event, or fails after [`PATIENCE`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aaos_core::confinement::ConfinementPolicy;
use aaos_core::event::{Entry, Event};
use aaos_core::id::{AgentId, TraceId};
use aaos_core::manifest::Manifest;
use aaos_core::name::{ModelName, ProviderName};
use aaos_core::price::{Price, PriceTable};
use aaos_core::quantity::{Bytes, Millis, Timestamp, Tokens};
use aaos_core::state::State;
use aaos_core::wire::{ModelsSetup, ProviderSetup, WireFormat};
use aaos_journal::{Filter, Journal, JournalConfig};
use aaos_runtime::{
    Clock, ClockHand, Kernel, KernelConfig, KernelError, KernelLimits, KernelParts, LocalConfig,
    LocalWeights, Principal, Principals, RunAnswer, TraceReport,
};
use aaos_sandbox::{Sandbox, ZygoteSeed};
use tempfile::TempDir;
use testkit::{ModelServer, PATIENCE, SCRIPTED_MODEL, Script, Turn, binaries, scratch};
use tokio::runtime::Runtime;

/// When the first kernel of a test starts: the beginning of 2026.
pub(crate) const START: Timestamp = Timestamp(1_767_225_600_000);
/// How often the kernel looks for idle workers and for old workspaces: all that it waits for by itself.
const ROUNDS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(3_600)];

/// What the stub's weights look like.
const WEIGHTS: &str = "GGUF weights of a stub";

/// A manifest on the scripted model, with further fields.
pub(crate) fn manifest(name: &str, more: &str) -> String {
    format!("name: {name}\nmodel: {SCRIPTED_MODEL}\nsystem_prompt: You are {name}.\n{more}")
}

/// What runs out with a restart of the kernel.
struct Running {
    kernel: Kernel,
    hand: ClockHand,
    /// When the kernel's own rounds are due next, in the order of [`ROUNDS`].
    rounds: Cell<[Timestamp; 2]>,
}

/// A kernel whose time the test makes. It is driven from outside of its own threads.
pub(crate) struct Lab {
    running: Running,
    runtime: Runtime,
    operator: Principal,
    pub(crate) models: ModelServer,
    home: TempDir,
}

impl Lab {
    pub(crate) fn new(script: Script) -> Self {
        Self::at(scratch(), script)
    }

    /// With a model that the machine runs itself: a stub that repeats what it hears.
    pub(crate) fn with_local() -> Self {
        let home = scratch();
        std::fs::write(weights(&home), WEIGHTS).expect("writes the weights");
        Self::at(home, Script::new())
    }

    fn at(home: TempDir, script: Script) -> Self {
        let models = ModelServer::start(script);
        std::fs::create_dir_all(home.path().join("state/workspace")).expect("makes the state directory");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("starts a runtime");
        let running = start(&home, &models, &runtime, START);
        let uid = rustix::process::getuid().as_raw();
        let operator = running.kernel.admit(uid).expect("the operator");
        Self { running, runtime, operator, models, home }
    }

    /// A model that always says this.
    pub(crate) fn saying(answer: &'static str) -> Self {
        Self::new(Script::dynamic(move |_| Turn::say(answer)))
    }

    /// Ends a kernel in which nothing runs, and starts another on the same journal, after so much time.
    pub(crate) fn restart(self, later: Duration) -> Self {
        self.block(self.kernel().shutdown()).expect("shuts down");
        self.start_again(later)
    }

    /// Starts a kernel on the journal of one that has ended, after so much time.
    pub(crate) fn start_again(mut self, later: Duration) -> Self {
        let at = self.now().after(millis(later));
        self.running = start(&self.home, &self.models, &self.runtime, at);
        self
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.running.kernel
    }

    pub(crate) fn operator(&self) -> Principal {
        self.operator
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.running.hand.now()
    }

    /// What `work` gives, on this thread, while the kernel runs on its own.
    pub(crate) fn block<W: Future>(&self, work: W) -> W::Output {
        block(&self.runtime, work)
    }

    /// Begins `work` beside the test.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }
}

// Time.
impl Lab {
    /// Lets time pass, and does not wait for what becomes of it.
    pub(crate) fn advance(&self, by: Duration) {
        self.running.rounds.set(self.rounds_after(by));
        self.running.hand.advance(by);
    }

    /// When the kernel's own rounds are due after so much time.
    fn rounds_after(&self, by: Duration) -> [Timestamp; 2] {
        let (end, due) = (self.now().after(millis(by)), self.running.rounds.get());
        std::array::from_fn(|nth| if due[nth] > end { due[nth] } else { end.after(millis(ROUNDS[nth])) })
    }

    /// Blocks until the kernel's own rounds are over that the last passing of time began.
    pub(crate) fn until_rounds_are_over(&self) {
        let rounds = self.running.rounds.get();
        self.until_waits(|waits| rounds.iter().all(|due| waits.contains(due)));
    }

    /// Lets time pass in which nothing is due but the kernel's own rounds, and blocks until these are over. Whoever
    /// waited before waits still; nobody else does.
    pub(crate) fn pass_idly(&self, by: Duration) {
        self.until_rounds_are_over();
        let end = self.now().after(millis(by));
        let due = self.running.rounds.get().into_iter().filter(|due| *due <= end).count();
        let again = self.rounds_after(by);
        let mut expected: Vec<Timestamp> = self.waits().into_iter().filter(|due| *due > end).collect();
        assert_eq!(expected.len() + due, self.waits().len(), "only rounds are due");
        expected.extend(again.into_iter().filter(|due| !self.running.rounds.get().contains(due)));
        expected.sort_unstable();
        self.advance(by);
        self.until_waits(|waits| waits == expected);
    }

    /// The due times that somebody waits for.
    pub(crate) fn waits(&self) -> Vec<Timestamp> {
        self.running.hand.waits()
    }

    /// Blocks until the list of due times is as wanted.
    pub(crate) fn until_waits(&self, wanted: impl Fn(&[Timestamp]) -> bool) {
        self.block(self.running.hand.until_waits(wanted));
    }

    /// Blocks until somebody waits for this moment.
    pub(crate) fn until_awaited(&self, due: Timestamp) {
        self.until_waits(|waits| waits.contains(&due));
    }

    pub(crate) fn is_awaited(&self, due: Timestamp) -> bool {
        self.waits().contains(&due)
    }
}

// What the operator does, and what the journal says.
impl Lab {
    pub(crate) fn spawn(&self, manifest: &str) -> AgentId {
        self.block(self.kernel().spawn(self.operator, manifest)).expect("spawns")
    }

    /// Puts a message into a mailbox.
    pub(crate) fn deliver(&self, agent: AgentId, message: &str) -> TraceId {
        let answer = self.block(self.kernel().run(self.operator, agent, message.to_owned()));
        match answer.expect("delivered") {
            RunAnswer::Delivered(trace) => trace,
            RunAnswer::Ran(result) => panic!("an agent without a mailbox ran: {result:?}"),
        }
    }

    /// Where a message stands; blocks until it is answered, as long as the time stands still.
    pub(crate) fn result(&self, trace: TraceId) -> TraceReport {
        self.block(self.kernel().result(self.operator, trace, Duration::from_secs(1))).expect("a report")
    }

    pub(crate) fn invoke(&self, agent: AgentId, tool: &str, input: &str) -> Result<String, KernelError> {
        self.block(self.kernel().invoke_tool(self.operator, agent, tool, input))
    }

    /// Blocks until the model was asked so often.
    pub(crate) fn until_asked(&self, count: usize) {
        let seen = self.models.wait_for_requests(count);
        assert_eq!(seen.len(), count, "nobody asked again");
    }

    /// The entries of this kind that are on the disk, with all that was noted before this call.
    pub(crate) fn entries(&self, kind: &str) -> Vec<Entry> {
        let journal = self.kernel().journal();
        self.block(async {
            journal.flush().await.expect("the journal works");
            read(journal, kind).await
        })
    }

    /// Blocks until there are so many entries of this kind, and returns them.
    pub(crate) fn wait_for_entries(&self, kind: &str, count: usize) -> Vec<Entry> {
        let journal = self.kernel().journal();
        self.block(async {
            let mut head = journal.head();
            loop {
                let found = read(journal, kind).await;
                if found.len() >= count {
                    return found;
                }
                head.changed().await.expect("the journal is open");
            }
        })
    }

    /// The only entry of this kind; blocks until there is one.
    pub(crate) fn wait_for_one(&self, kind: &str) -> Entry {
        let mut found = self.wait_for_entries(kind, 1);
        assert_eq!(found.len(), 1, "one {kind}: {found:?}");
        found.remove(0)
    }
}

async fn read(journal: &Journal, kind: &str) -> Vec<Entry> {
    let filter = Filter { kinds: vec![kind.to_owned()], ..Filter::default() };
    journal.read(filter).await.expect("reads the journal")
}

/// The due times that were fired, in order.
pub(crate) fn fired(lab: &Lab) -> Vec<Timestamp> {
    let due = |entry: &Entry| match &entry.event {
        Event::ScheduleFired { due } => *due,
        other => panic!("not a firing: {other:?}"),
    };
    lab.entries("schedule_fired").iter().map(due).collect()
}

pub(crate) fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).expect("a span of a test"))
}

fn block<W: Future>(runtime: &Runtime, work: W) -> W::Output {
    runtime.block_on(async {
        let done = tokio::time::timeout(PATIENCE, work).await;
        done.unwrap_or_else(|_| panic!("what the test waits for did not happen"))
    })
}

fn start(home: &TempDir, models: &ModelServer, runtime: &Runtime, at: Timestamp) -> Running {
    let (seed, (journal, state)) = lay(home);
    let models = providers(models);
    let running = block(runtime, async {
        let sandbox = Sandbox::adopt(seed, ConfinementPolicy::default()).expect("adopts the zygote");
        let (clock, hand) = Clock::manual(state.latest.max(at));
        let config = config(home);
        let key_files = BTreeMap::new();
        let parts = KernelParts {
            config,
            journal,
            sandbox,
            models,
            key_files,
            cassette: None,
            metrics: None,
            spans: None,
            clock,
        };
        let kernel = Kernel::start(parts, state).await;
        let rounds = Cell::new(ROUNDS.map(|round| hand.now().after(millis(round))));
        Running { kernel: kernel.expect("starts"), hand, rounds }
    });
    let rounds = running.rounds.get();
    block(runtime, running.hand.until_waits(|waits| rounds.iter().all(|due| waits.contains(due))));
    running
}

/// Starts the zygote and opens the journal.
fn lay(home: &TempDir) -> (ZygoteSeed, (Journal, State)) {
    // A process that is being started holds copies of all descriptors until it runs its program, that of another test's
    // journal, which is being closed and opened again, among them.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = binaries();
    // On the thread of the test, which outlives the kernel: the zygote dies with the thread that started it.
    let seed = ZygoteSeed::start(&programs.worker, Some(&programs.gateway)).expect("starts the zygote");
    let stub = programs.worker.with_file_name("examples").join("model_stub");
    let seed = if weights(home).is_file() { seed.with_model(&stub).expect("the stub") } else { seed };
    let opening = JournalConfig::at(home.path().join("state/journal.db"));
    let journal = Journal::open(opening).expect("opens the journal");
    drop(one);
    (seed, journal)
}

/// Where the weights of a local model lie, where there are any.
fn weights(home: &TempDir) -> PathBuf {
    home.path().join("weights.gguf")
}

fn local(home: &TempDir) -> LocalConfig {
    let small = || LocalWeights {
        name: ModelName::parse("small").expect("a name"),
        file: weights(home),
        bytes: Bytes(WEIGHTS.len() as u64),
        window: Tokens(4_096),
    };
    let models = if weights(home).is_file() { vec![small()] } else { Vec::new() };
    LocalConfig { models, aliases: Vec::new(), window: Tokens(4_096), threads: 1 }
}

fn config(home: &TempDir) -> KernelConfig {
    let uid = rustix::process::getuid().as_raw();
    let model = ModelName::parse(SCRIPTED_MODEL).expect("a name");
    // Per million tokens.
    let price = Price::parse("1000", "1000", "1000").expect("a price");
    KernelConfig {
        version: "0".to_owned(),
        commit: String::new(),
        limits: KernelLimits { running_goals: 1, ..KernelLimits::default() },
        prices: PriceTable::new(BTreeMap::from([(model, price)])).expect("prices"),
        bootstrap: Manifest::parse(&manifest("bootstrap", "")).expect("a manifest"),
        workspaces: home.path().join("state/workspace"),
        protected: vec![home.path().join("state")],
        principals: Principals::new(uid, []).expect("nobody is listed"),
        local: local(home),
        daemon_confinement: None,
    }
}

fn providers(models: &ModelServer) -> ModelsSetup {
    let provider = ProviderSetup {
        name: ProviderName::parse("openai").expect("a name"),
        format: WireFormat::OpenAi,
        base_url: models.openai_url(),
        key: None,
        models: Vec::new(),
        any_model: true,
        headers: Vec::new(),
        slots: None,
        rates: aaos_core::model::Rates::default(),
        problem: None,
        key_follows: false,
    };
    ModelsSetup { providers: vec![provider], ..ModelsSetup::default() }
}
