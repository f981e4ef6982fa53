//! The table of agents, goals and delivered messages: what is alive right now.
//!
//! Invariants: an agent enters the table complete and leaves it once; the table is only ever touched under
//! its one lock, never across an await. What must survive a crash is in the journal, not here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aaos_core::confinement::{ConfinementReceipt, ResourceUsage};
use aaos_core::event::Kept;
use aaos_core::id::{AgentId, GoalId, GrantId, Seq, TraceId, WorkerId};
use aaos_core::limits;
use aaos_core::manifest::Manifest;
use aaos_core::model::Usage;
use aaos_core::name::ModelName;
use aaos_core::quantity::Timestamp;
use aaos_core::supervision::Watch;
use aaos_ipc::{Correlation, Mailbox};
use aaos_sandbox::{Gauge, ProgramSandbox};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::approvals::Questions;
use crate::context::{ContextReport, Growth};
use crate::denials::Denials;
use crate::error::KernelError;
use crate::far::WorkerSlot;
use crate::goals::Goal;
use crate::meter::RunMeter;
use crate::repeat::RepeatCounts;
use crate::revocation::Ended;
use crate::view::{AgentState, RunResult};

/// What never changes about an agent, and the handles by which it is driven.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) manifest: Manifest,
    pub(crate) parent: Option<AgentId>,
    pub(crate) goal: Option<GoalId>,
    pub(crate) owner: u32,
    pub(crate) depth: u32,
    pub(crate) started_at: Timestamp,
    /// Cancelled when the agent is to stop; a child's token hangs below its parent's.
    pub(crate) cancel: CancellationToken,
    /// Everything that runs on the agent's behalf; stopping waits for it.
    pub(crate) tasks: TaskTracker,
    /// An agent makes one run at a time, whoever starts it.
    run_gate: Arc<Semaphore>,
    pub(crate) worker: WorkerSlot,
    pub(crate) denials: Arc<Denials>,
    /// Refusals because of a limit of the runtime.
    pub(crate) limits: Arc<Denials>,
    /// Refusals for want of budget: they have entries of their own, however much else was refused.
    pub(crate) shortfalls: Arc<Denials>,
    pub(crate) paused: watch::Sender<bool>,
    /// How far its leaving has come.
    pub(crate) gone: watch::Sender<Departure>,
    retiring: AtomicBool,
    live: Mutex<Live>,
}

/// How far an agent's leaving has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It is in the table.
    Here,
    /// It left, and the journal says so.
    Journalled,
    /// It left, and the journal could not say so: after a restart it may be there again.
    NotJournalled,
}

/// The right to make the only run of an agent, as long as it lives.
pub(crate) type OnlyRun = Arc<OwnedSemaphorePermit>;

/// What changes while an agent lives.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) running: bool,
    pub(crate) usage: Usage,
    /// What all its runs used.
    pub(crate) total_usage: Usage,
    /// Where the runs began that its conversation still holds, oldest first.
    pub(crate) conversation: VecDeque<Seq>,
    /// Where its conversation began, whatever went from it since; none while there is none.
    pub(crate) conversation_began: Option<Seq>,
    /// Whether a task empties its mailbox.
    awake: bool,
    /// Calls since the last run began.
    pub(crate) repeats: RepeatCounts,
    /// Of the run that is going on.
    pub(crate) meter: Option<Arc<RunMeter>>,
    /// Ends the run that is going on; it hangs below the agent's own token.
    pub(crate) run_stop: Option<CancellationToken>,
    pub(crate) waiting_for: Option<String>,
    /// What its conversation takes, once it had one since the daemon began.
    pub(crate) context: Option<ContextReport>,
    /// How it grew from report to report since then.
    pub(crate) growth: Growth,
    /// Its grants that were revoked, each with the end of the calls that ran under it.
    pub(crate) revoked: HashMap<GrantId, Ended>,
    /// Whether a person refused something that it asked for.
    pub(crate) was_refused: bool,
    /// Questions to a person that calls of it wait for, in words.
    asking: Vec<String>,
    /// Its programs that run, and what reads their use of the machine.
    programs: Vec<(WorkerId, Gauge)>,
    pub(crate) mailbox: Mailbox<Mail>,
    /// Messages that are being journalled: each has its place in the mailbox already.
    arriving: usize,
    /// What its supervision and its schedule go by.
    pub(crate) watch: Watch,
    /// Why it was given up, if it was.
    pub(crate) given_up: Option<String>,
}

/// One message in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) trace: TraceId,
    pub(crate) message: String,
}

/// Who an agent is, before it has handles.
pub(crate) struct AgentFacts {
    pub(crate) id: AgentId,
    pub(crate) manifest: Manifest,
    pub(crate) parent: Option<AgentId>,
    pub(crate) goal: Option<GoalId>,
    pub(crate) owner: u32,
    pub(crate) depth: u32,
    pub(crate) started_at: Timestamp,
    pub(crate) cancel: CancellationToken,
}

impl Agent {
    pub(crate) fn new(facts: AgentFacts) -> Arc<Self> {
        Arc::new(Self {
            id: facts.id,
            manifest: facts.manifest,
            parent: facts.parent,
            goal: facts.goal,
            owner: facts.owner,
            depth: facts.depth,
            started_at: facts.started_at,
            cancel: facts.cancel,
            tasks: TaskTracker::new(),
            run_gate: Arc::new(Semaphore::new(1)),
            worker: WorkerSlot::default(),
            denials: Arc::default(),
            limits: Arc::default(),
            shortfalls: Arc::default(),
            paused: watch::Sender::new(false),
            gone: watch::Sender::new(Departure::Here),
            retiring: AtomicBool::new(false),
            live: Mutex::new(Live {
                running: false,
                usage: Usage::default(),
                total_usage: Usage::default(),
                conversation: VecDeque::new(),
                conversation_began: None,
                awake: false,
                repeats: RepeatCounts::default(),
                meter: None,
                run_stop: None,
                waiting_for: None,
                context: None,
                growth: Growth::default(),
                revoked: HashMap::new(),
                was_refused: false,
                asking: Vec::new(),
                programs: Vec::new(),
                mailbox: Mailbox::default(),
                arriving: 0,
                watch: Watch::default(),
                given_up: None,
            }),
        })
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled when what the agent does now is to end: it is stopped, or the time of its run is up. A call that a
    /// client makes while a run goes on ends with that run's time.
    pub(crate) fn stop_signal(&self) -> CancellationToken {
        self.live().run_stop.clone().unwrap_or_else(|| self.cancel.clone())
    }

    /// The model that it asks now, or asked last.
    pub(crate) fn model(&self) -> &ModelName {
        let rung = self.live().watch.ladder.rung();
        self.manifest.model_at(rung)
    }

    /// The right to make a run now; none while another one goes on.
    pub(crate) fn try_only_run(&self) -> Option<OnlyRun> {
        Arc::clone(&self.run_gate).try_acquire_owned().ok().map(Arc::new)
    }

    /// The right to make a run, once no other goes on; none when the agent is stopped meanwhile.
    pub(crate) async fn only_run(&self) -> Option<OnlyRun> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            only = Arc::clone(&self.run_gate).acquire_owned() => only.ok().map(Arc::new),
        }
    }

    /// What it waits for, in words; a person before anything else.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        let live = self.live();
        live.asking.first().or(live.waiting_for.as_ref()).cloned()
    }

    /// Shows that a call waits for a person, as long as what is returned lives.
    pub(crate) fn show_question(&self, words: String) -> ShownQuestion<'_> {
        self.live().asking.push(words.clone());
        ShownQuestion { agent: self, words }
    }

    /// Claims the right to end this agent; true for exactly one caller.
    pub(crate) fn claim_retirement(&self) -> bool {
        !self.retiring.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn state(&self) -> AgentState {
        if self.cancel.is_cancelled() || self.retiring.load(Ordering::Acquire) {
            AgentState::Stopping
        } else if *self.paused.borrow() {
            AgentState::Paused
        } else if self.live().running {
            AgentState::Running
        } else {
            AgentState::Idle
        }
    }

    /// What its worker uses of the machine, while it has one.
    pub(crate) fn resources(&self) -> Option<ResourceUsage> {
        self.worker.usage()
    }

    /// What its programs use of the machine, where control groups say it.
    pub(crate) fn program_resources(&self) -> Vec<ResourceUsage> {
        let gauges: Vec<Gauge> = self.live().programs.iter().map(|(_, gauge)| gauge.clone()).collect();
        gauges.iter().filter_map(Gauge::read).collect()
    }

    /// Shows what a program uses, as long as what is returned lives.
    pub(crate) fn show_program(&self, sandbox: &ProgramSandbox) -> ShownProgram<'_> {
        let program = sandbox.receipt().worker;
        self.live().programs.extend(sandbox.gauge().map(|gauge| (program, gauge)));
        ShownProgram { agent: self, program }
    }

    pub(crate) fn receipt(&self) -> Option<ConfinementReceipt> {
        self.worker.receipt()
    }

    /// Whether it has a mailbox, and lives until it is stopped.
    pub(crate) fn has_mailbox(&self) -> bool {
        self.manifest.lifecycle.outlives_a_run()
    }

    /// Whether its end is on record.
    pub(crate) fn has_stopped(&self) -> bool {
        *self.gone.borrow() == Departure::Journalled
    }

    /// Whether messages wait.
    pub(crate) fn has_mail(&self) -> bool {
        !self.live().mailbox.is_empty()
    }

    /// Claims the task that empties the mailbox; true for exactly one caller until the agent falls asleep.
    pub(crate) fn wake_up(&self) -> bool {
        !std::mem::replace(&mut self.live().awake, true)
    }

    /// Gives that task up; false where a message came meanwhile that is to be taken first.
    pub(crate) fn fall_asleep(&self) -> bool {
        let mut live = self.live();
        live.awake = !live.mailbox.is_empty() && !self.cancel.is_cancelled();
        !live.awake
    }

    /// Notes where a run began and what the conversation keeps of earlier ones.
    pub(crate) fn note_run(&self, began: Seq, kept: Kept) {
        let runs = usize::try_from(kept.runs).unwrap_or(usize::MAX);
        let mut live = self.live();
        while live.conversation.len() > runs {
            live.conversation.pop_front();
        }
        live.conversation.push_back(began);
        if kept.is_nothing() {
            live.conversation_began = Some(began);
        }
        live.watch.ladder.begin(kept.rung);
    }

    /// Takes a place in the mailbox for a message that is about to be journalled.
    pub(crate) fn reserve_mail(&self) -> Result<(), KernelError> {
        let mut live = self.live();
        if live.mailbox.len() + live.arriving >= limits::MAILBOX_MESSAGES {
            let why =
                format!("the mailbox of agent {} is full ({} messages)", self.id, limits::MAILBOX_MESSAGES);
            return Err(KernelError::Limit(why));
        }
        live.arriving += 1;
        Ok(())
    }

    /// Fills the place that was taken, or gives it back.
    pub(crate) fn settle_mail(&self, mail: Option<Mail>) {
        let mut live = self.live();
        assert!(live.arriving > 0, "a place is settled once, after it was taken");
        live.arriving -= 1;
        let Some(mail) = mail else { return };
        if live.mailbox.try_push(mail).is_err() {
            unreachable!("the message's place was reserved");
        }
    }

    /// Waits until the agent is not paused; false when it was cancelled meanwhile.
    pub(crate) async fn wait_unpaused(&self) -> bool {
        let mut paused = self.paused.subscribe();
        tokio::select! {
            // An agent that is being stopped takes nothing more, paused or not.
            biased;
            () = self.cancel.cancelled() => false,
            seen = paused.wait_for(|paused| !paused) => seen.is_ok(),
        }
    }
}

/// Shows that a call waits for a person, as long as this lives.
#[derive(Debug)]
pub(crate) struct ShownQuestion<'a> {
    agent: &'a Agent,
    words: String,
}

impl Drop for ShownQuestion<'_> {
    fn drop(&mut self) {
        let asking = &mut self.agent.live().asking;
        if let Some(at) = asking.iter().position(|words| *words == self.words) {
            asking.remove(at);
        }
    }
}

/// Shows what a program uses, as long as this lives.
#[derive(Debug)]
pub(crate) struct ShownProgram<'a> {
    agent: &'a Agent,
    program: WorkerId,
}

impl Drop for ShownProgram<'_> {
    fn drop(&mut self) {
        self.agent.live().programs.retain(|(program, _)| *program != self.program);
    }
}

/// Everything alive.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// What people are asked.
    pub(crate) questions: Questions,
    pub(crate) agents: HashMap<AgentId, Arc<Agent>>,
    pub(crate) goals: BTreeMap<GoalId, Goal>,
    /// Goals that wait for their turn, next first.
    pub(crate) queue: VecDeque<GoalId>,
    pub(crate) goal_of_key: HashMap<(u32, String), GoalId>,
    pub(crate) traces: Correlation<RunResult>,
    pub(crate) trace_owner: HashMap<TraceId, u32>,
}

impl Table {
    pub(crate) fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.agents.get(&id).cloned()
    }

    /// Drops the oldest ended goals beyond what is kept; the journal still has them.
    pub(crate) fn forget_old_goals(&mut self) {
        let ended = self.goals.values().filter(|goal| goal.state.is_final()).count();
        let old: Vec<GoalId> = self
            .goals
            .iter()
            .filter(|(_, goal)| goal.state.is_final())
            .map(|(id, _)| *id)
            .take(ended.saturating_sub(limits::KEPT_ENDED))
            .collect();
        for id in &old {
            self.goals.remove(id);
        }
        if !old.is_empty() {
            self.goal_of_key.retain(|_, id| !old.contains(id));
        }
    }

    pub(crate) fn running_goals(&self) -> usize {
        self.goals.values().filter(|goal| goal.is_running()).count()
    }
}
