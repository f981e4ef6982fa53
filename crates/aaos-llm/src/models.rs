//! One inference: admitted, asked, asked again while that can help, and settled.
//!
//! Invariants: a permit always becomes a receipt, whatever happens; at most the configured attempts are made, beside
//! those that the provider turned away, none starts after the deadline, and no wait begins that would end after it. One
//! permit reserves for one attempt that is billed: after one that may have been, nothing more is asked under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aaos_core::effect::{Inference, InferenceOutcome};
use aaos_core::limits::{LOCAL_BEGIN_MS, LOCAL_INFERENCE_TIME_MS, MAX_REFUSALS_AMONG_TAKEN, PROBE_TIME_MS};
use aaos_core::model::{
    ModelFailure, ModelFailureKind, ModelReply, ModelRequest, Pace, ProviderState, Standing,
};
use aaos_core::name::ProviderName;
use aaos_core::observe::{Measured, Micros, Snapshot};
use aaos_core::quantity::Millis;
use aaos_core::route::provider_of;
use aaos_core::span::{BatchFate, CallSpan};
use aaos_core::wire::ModelsRequest;
use aaos_journal::{Permit, Receipt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::backoff::Jitter;
use crate::door::Refusals;
use crate::error::LlmError;
use crate::gate::{Admission, Gate, Slot, Wish};
use crate::host::{self, Connection, Host};
use crate::inbox::{Arrival, Ending};
use crate::link::{InFlight, Link};
use crate::local;
use crate::queue::Turn;

/// Time in which the gateway says what is configured.
const DESCRIBE_TIME: Duration = Duration::from_secs(10);
/// Bytes of text that a token is taken to stand for where only a guess is needed.
const BYTES_PER_TOKEN: u64 = 4;
/// Seed of the waits' jitter unless told otherwise. It need not differ between daemons: it spreads the
/// callers of one daemon.
const JITTER_SEED: u64 = 0x6161_4f53;

/// How models are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelsConfig {
    /// Inferences of one provider at once; at least 1.
    pub slots_per_provider: usize,
    /// Least time between two starts at one provider.
    pub min_gap: Duration,
    /// Attempts at one inference, those under earlier permits included and those that the provider turned away not;
    /// at least 1.
    pub attempts: u32,
    /// Time of one attempt.
    pub attempt_time: Duration,
}

/// What happens while an inference runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A piece of the reply's prose. After a [`Progress::Retry`] the reply starts anew.
    Delta(String),
    /// An attempt failed; there will be another one.
    Retry {
        /// Why it failed.
        failure: ModelFailure,
        /// How long is waited.
        wait: Millis,
        /// Which attempt failed, from 1.
        attempt: u32,
    },
    /// It waits for its turn.
    Waiting {
        /// At whom, where that is known.
        provider: Option<ProviderName>,
        /// How long the provider wants no request from anybody; without it a slot is waited for.
        wait: Option<Millis>,
    },
    /// It has its turn, and the model's process is started for it.
    Loading,
    /// It is asked now.
    Asked,
    /// It was answered, which took this.
    Answered(Measured),
}

/// Handle on the `models` gateway and its admission queue.
#[derive(Debug, Clone)]
pub struct Models {
    inner: Arc<Inner>,
    /// Attempts at one inference.
    attempts: u32,
}

#[derive(Debug)]
struct Inner {
    config: ModelsConfig,
    link: Link,
    admission: Arc<Admission>,
    local: Option<Local>,
    jitter: Jitter,
    providers: OnceCell<Arc<[ProviderState]>>,
    /// How many inferences wait for a slot, a gate or a retry.
    waiting: AtomicUsize,
}

/// The models that this machine runs itself, and who waits for them.
#[derive(Debug, Clone)]
struct Local {
    host: Arc<dyn Host>,
    /// One at a time, at whatever pace it computes.
    admission: Arc<Admission>,
}

/// What was tried under one permit.
#[derive(Debug, Default)]
struct Tally {
    attempts: u32,
    told_to_wait: u32,
    possibly_billed: u32,
    blames_provider: bool,
}

/// An attempt under way. Unless it is cleared it counts as possibly billed when it ends, in whatever way that
/// happens, if the gateway may have read it.
struct Unsettled<'t> {
    in_flight: InFlight,
    tally: &'t mut Tally,
    cleared: bool,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if !self.cleared && !self.in_flight.withdraw() {
            self.tally.possibly_billed += 1;
        }
    }
}

/// Why an attempt gave no reply.
enum AttemptError {
    /// The model or the gateway failed it.
    Failed(ModelFailure),
    /// The connection is of no more use.
    Link(LlmError),
    /// Nothing came in so long a time.
    TimedOut(Duration),
}

impl Models {
    /// Takes over a connection that is past its `Locked` frame. Must be called within a runtime.
    #[must_use]
    pub fn new(stream: UnixStream, config: ModelsConfig) -> Self {
        Self::with_seed(stream, config, JITTER_SEED)
    }

    /// The same with a seed of its own for the jitter of waits.
    ///
    /// # Panics
    /// When the configuration has no slot or no attempt.
    #[must_use]
    pub fn with_seed(stream: UnixStream, config: ModelsConfig, seed: u64) -> Self {
        let (reader, writer) = stream.into_split();
        Self::over(Link::start(reader, writer), config, seed)
    }

    /// The same over the connection to another gateway, which took the place of a lost one: what was asked for of this
    /// one's callers holds.
    #[must_use]
    pub fn over_again(&self, stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        self.relinked(Link::start(reader, writer))
    }

    pub(crate) fn relinked(&self, link: Link) -> Self {
        let Inner { config, admission, local, .. } = &*self.inner;
        Self::with(link, *config, Jitter::new(JITTER_SEED), Arc::clone(admission), local.clone())
    }

    /// The same, which asks this host, and never the gateway, for the models that it serves.
    #[must_use]
    pub fn beside(self, host: Arc<dyn Host>) -> Self {
        let local = Local { host, admission: Arc::new(Admission::new(1, Duration::ZERO)) };
        let Inner { config, link, admission, .. } = &*self.inner;
        Self::with(link.clone(), *config, Jitter::new(JITTER_SEED), Arc::clone(admission), Some(local))
    }

    pub(crate) fn over(link: Link, config: ModelsConfig, seed: u64) -> Self {
        let admission = Arc::new(Admission::new(config.slots_per_provider, config.min_gap));
        Self::with(link, config, Jitter::new(seed), admission, None)
    }

    fn with(
        link: Link,
        config: ModelsConfig,
        jitter: Jitter,
        admission: Arc<Admission>,
        local: Option<Local>,
    ) -> Self {
        assert!(config.attempts > 0, "an inference is tried at least once");
        let inner = Inner {
            config,
            link,
            admission,
            local,
            jitter,
            providers: OnceCell::new(),
            waiting: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner), attempts: config.attempts }
    }

    /// The same, which gives up after fewer attempts: for a model that another one stands behind.
    ///
    /// # Panics
    /// When there is no attempt.
    #[must_use]
    pub fn trying(&self, attempts: u32) -> Self {
        assert!(attempts > 0, "an inference is tried at least once");
        Self { inner: Arc::clone(&self.inner), attempts: attempts.min(self.inner.config.attempts) }
    }

    /// Runs one inference until a reply, a failure that asking again cannot help, an attempt that may have been
    /// billed, the deadline, or `stop`, which ends it in the gateway and settles the permit as a failure.
    /// Dropping the future ends it in the gateway too; the permit is then used up without an outcome.
    ///
    /// `earlier` is how many attempts count that were made at it under earlier permits; see
    /// [`Self::wait_to_ask_again`].
    pub async fn run(
        &self,
        permit: Permit<Inference>,
        turn: Turn,
        earlier: u32,
        deadline: Instant,
        stop: impl Future<Output = ()> + Send,
        progress: impl FnMut(Progress) + Send,
    ) -> Receipt<Inference> {
        let outcome = self.infer(&permit.effect().request, turn, earlier, deadline, stop, progress).await;
        permit.settle(outcome)
    }

    /// How long to wait until an inference whose last attempt may have been billed is asked again, under a
    /// permit of its own. `made` counts its attempts but those that were turned away. None where it is not to be asked
    /// again.
    #[must_use]
    pub fn wait_to_ask_again(
        &self,
        outcome: &InferenceOutcome,
        made: u32,
        deadline: Instant,
    ) -> Option<Millis> {
        let failure = outcome.result.as_ref().err()?;
        let helps = failure.kind.is_transient() && failure.kind.may_be_billed();
        if outcome.possibly_billed == 0 || !helps || made >= self.attempts {
            return None;
        }
        let wait = self.wait(failure, made);
        Instant::now().checked_add(wait).is_some_and(|end| end < deadline).then(|| millis(wait))
    }

    /// Whether the gateway is gone for good; a new one has to be launched.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.link.is_closed()
    }

    /// What the gateway has configured, asked anew each time.
    ///
    /// # Errors
    /// [`LlmError`] when the gateway is gone or does not answer.
    pub async fn describe(&self) -> Result<Vec<ProviderState>, LlmError> {
        let ask = async {
            let in_flight = self.inner.link.send(|serial| ModelsRequest::Describe { serial }).await?;
            match in_flight.next().await {
                Arrival::End(Ending::Described(providers)) => Ok(providers),
                Arrival::End(Ending::Lost { reason }) => Err(LlmError::Lost { reason }),
                Arrival::Begun(_) | Arrival::Delta(_) | Arrival::End(_) => Err(LlmError::OutOfTurn),
            }
        };
        timeout(DESCRIBE_TIME, ask).await.unwrap_or(Err(LlmError::Timeout))
    }

    /// How a provider is found now; nothing is inferred.
    ///
    /// # Errors
    /// As [`Self::describe`].
    pub async fn probe(&self, provider: &ProviderName) -> Result<Standing, LlmError> {
        let ask = async {
            let (provider, time) = (provider.clone(), Millis(PROBE_TIME_MS));
            let probe = |serial| ModelsRequest::Probe { serial, provider, time };
            let in_flight = self.inner.link.send(probe).await?;
            match in_flight.next().await {
                Arrival::End(Ending::Probed(standing)) => Ok(standing),
                Arrival::End(Ending::Lost { reason }) => Err(LlmError::Lost { reason }),
                Arrival::Begun(_) | Arrival::Delta(_) | Arrival::End(_) => Err(LlmError::OutOfTurn),
            }
        };
        timeout(Duration::from_millis(PROBE_TIME_MS) + DESCRIBE_TIME, ask)
            .await
            .unwrap_or(Err(LlmError::Timeout))
    }

    /// Shows figures to whoever reads the metrics, and waits until newer ones are wanted.
    ///
    /// # Errors
    /// [`LlmError`] when the gateway is gone.
    pub async fn show(&self, snapshot: Snapshot) -> Result<(), LlmError> {
        let show = |serial| ModelsRequest::Show { serial, snapshot: Box::new(snapshot) };
        match self.inner.link.send(show).await?.next().await {
            Arrival::End(Ending::Wanted) => Ok(()),
            Arrival::End(Ending::Lost { reason }) => Err(LlmError::Lost { reason }),
            Arrival::Begun(_) | Arrival::Delta(_) | Arrival::End(_) => Err(LlmError::OutOfTurn),
        }
    }

    /// Sends spans to the collector, and waits until it took them or did not.
    ///
    /// # Errors
    /// [`LlmError`] when the gateway is gone.
    pub async fn export(&self, spans: Vec<CallSpan>) -> Result<BatchFate, LlmError> {
        let export = |serial| ModelsRequest::Export { serial, spans };
        match self.inner.link.send(export).await?.next().await {
            Arrival::End(Ending::Exported(fate)) => Ok(fate),
            Arrival::End(Ending::Lost { reason }) => Err(LlmError::Lost { reason }),
            Arrival::Begun(_) | Arrival::Delta(_) | Arrival::End(_) => Err(LlmError::OutOfTurn),
        }
    }

    /// What the gateway has configured, which does not change while it lives.
    ///
    /// # Errors
    /// As [`Self::describe`]; the next call asks again.
    pub async fn providers(&self) -> Result<Arc<[ProviderState]>, LlmError> {
        let describe = || async { self.describe().await.map(Arc::from) };
        self.inner.providers.get_or_try_init(describe).await.cloned()
    }

    /// How many inferences wait for a slot, for a provider that asked for quiet, or for their next attempt.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.inner.waiting.load(Ordering::Relaxed)
    }

    /// [`Self::run`] without the seal. A reply that has arrived wins over a stop: it is paid for.
    pub(crate) async fn infer(
        &self,
        request: &ModelRequest,
        turn: Turn,
        earlier: u32,
        deadline: Instant,
        stop: impl Future<Output = ()> + Send,
        mut progress: impl FnMut(Progress) + Send,
    ) -> InferenceOutcome {
        let began = Instant::now();
        let mut tally = Tally::default();
        let result = tokio::select! {
            biased;
            result = self.attempts(request, turn, earlier, deadline, &mut tally, &mut progress) => result,
            () = stop => Err(LlmError::Stopped.into_failure()),
        };
        let Tally { attempts, told_to_wait, possibly_billed, blames_provider } = tally;
        assert!(possibly_billed <= attempts.min(1), "a permit pays for one attempt");
        let elapsed = millis(began.elapsed());
        InferenceOutcome { result, attempts, told_to_wait, possibly_billed, blames_provider, elapsed }
    }

    async fn attempts(
        &self,
        request: &ModelRequest,
        turn: Turn,
        earlier: u32,
        deadline: Instant,
        tally: &mut Tally,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<ModelReply, ModelFailure> {
        let gate = self.gate(request, deadline).await?;
        let mut wish =
            Wish { turn, tokens: request.text_bytes().0 / BYTES_PER_TOKEN, refusals: Refusals::NONE };
        let mut last = None;
        loop {
            tally.blames_provider = false;
            let mut slot = self.admit(&gate, wish, deadline, last.take(), progress).await?;
            // Who serves a model of this machine is its provider.
            tally.blames_provider = self.local(request).is_some();
            let link = self.link(request, deadline, progress).await?;
            tally.attempts += 1;
            let failure = match self.attempt(&link, request, deadline, &mut slot, tally, progress).await {
                Ok(reply) => return Ok(reply),
                Err(AttemptError::Link(error)) => return Err(self.lost(request, link, error).await),
                Err(AttemptError::TimedOut(time)) => self.timed_out(request, link, time).await,
                Err(AttemptError::Failed(failure)) => failure,
            };
            tally.blames_provider = true;
            let is_turned_away = failure.is_wait();
            tally.told_to_wait += u32::from(is_turned_away);
            let made = earlier.saturating_add(tally.attempts - tally.told_to_wait);
            let until = if is_turned_away {
                let quiet = Instant::now().checked_add(self.wait(&failure, slot.wishes()));
                let (refusals, until) = slot.turned_away(quiet.unwrap_or(deadline), wish.refusals);
                if refusals.among_taken >= MAX_REFUSALS_AMONG_TAKEN {
                    return Err(always_refused(&failure));
                }
                wish.refusals = refusals;
                until
            } else {
                drop(slot);
                let is_last = made >= self.attempts || tally.possibly_billed > 0;
                if !failure.kind.is_transient() || is_last {
                    return Err(failure);
                }
                wish.refusals = Refusals::NONE;
                Instant::now().checked_add(self.wait(&failure, made)).unwrap_or(deadline)
            };
            if until >= deadline {
                return Err(past_deadline(Some(failure)));
            }
            let wait = millis(until.saturating_duration_since(Instant::now()));
            let attempt = earlier.saturating_add(tally.attempts);
            progress(Progress::Retry { failure: failure.clone(), wait, attempt });
            last = Some(failure);
            // What keeps everybody out is waited for in the queue.
            if !is_turned_away {
                let _waiting = Counted::up(&self.inner.waiting);
                sleep_until(until).await;
            }
        }
    }

    /// Waits for a turn, until the deadline; where another model stands behind, only while the provider may be asked
    /// before that. `last` is why it was asked before and failed.
    async fn admit(
        &self,
        gate: &Arc<Gate>,
        wish: Wish,
        deadline: Instant,
        last: Option<ModelFailure>,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Slot, ModelFailure> {
        let waiting = Counted::up(&self.inner.waiting);
        let has_another = self.attempts < self.inner.config.attempts;
        let outlasts = Notify::new();
        let show = |until: Option<Instant>| {
            if has_another && until.is_some_and(|until| until >= deadline) {
                outlasts.notify_one();
            }
            let wait = until.map(|until| millis(until.saturating_duration_since(Instant::now())));
            progress(Progress::Waiting { provider: gate.provider().cloned(), wait });
        };
        let admitted = tokio::select! {
            biased;
            admitted = timeout_at(deadline, gate.admit(wish, show)) => admitted,
            () = outlasts.notified() => return Err(past_deadline(Some(last.unwrap_or_else(quiet)))),
        };
        let Ok(admitted) = admitted else { return Err(past_deadline(last)) };
        drop(waiting);
        let slot = admitted.map_err(LlmError::into_failure)?;
        // A slot can be freed by the very deadline that ends this wait.
        if Instant::now() >= deadline {
            return Err(past_deadline(last));
        }
        progress(Progress::Asked);
        Ok(slot)
    }

    /// As long as the provider asks for and a little longer, since others may share its patience, and never shorter than
    /// the time that doubles with each failure in a row.
    fn wait(&self, failure: &ModelFailure, failed_attempts: u32) -> Duration {
        let own = self.inner.jitter.wait(failed_attempts);
        wish_of(failure).map_or(own, |wish| self.inner.jitter.spread(wish).max(own))
    }

    /// The gate of the provider that serves this model. While the gateway cannot say, the shared one.
    async fn gate(&self, request: &ModelRequest, deadline: Instant) -> Result<Arc<Gate>, ModelFailure> {
        if let Some(local) = self.local(request) {
            return Ok(local.admission.gate(Some(local.host.provider())));
        }
        let asked = timeout_at(deadline, self.providers()).await;
        let provider = match &asked {
            Ok(Ok(providers)) => provider_of(providers, &request.model),
            Ok(Err(LlmError::Lost { reason })) => {
                return Err(LlmError::Lost { reason: reason.clone() }.into_failure());
            }
            Ok(Err(_)) => None,
            Err(_) => return Err(past_deadline(None)),
        };
        Ok(self.inner.admission.gate(provider))
    }

    /// What this machine runs itself, where it serves the model.
    fn local(&self, request: &ModelRequest) -> Option<&Local> {
        self.inner.local.as_ref().filter(|local| host::serves(&*local.host, &request.model))
    }

    /// The connection to whoever serves the model. A process of this machine is started if need be.
    async fn link(
        &self,
        request: &ModelRequest,
        deadline: Instant,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<Link, ModelFailure> {
        let Some(Local { host, .. }) = self.local(request) else { return Ok(self.inner.link.clone()) };
        if let Some(connection) = host.connected(&request.model) {
            return Ok(connection.0);
        }
        progress(Progress::Loading);
        let connected = timeout_at(deadline, host.connect(&request.model)).await;
        let connection = connected.unwrap_or_else(|_| Err(past_deadline(None)))?;
        progress(Progress::Asked);
        Ok(connection.0)
    }

    /// Why whoever serves the model is gone.
    async fn lost(&self, request: &ModelRequest, link: Link, error: LlmError) -> ModelFailure {
        match (self.local(request), error) {
            (Some(local), LlmError::Lost { reason }) => local.host.lost(&Connection(link), &reason).await,
            (_, error) => error.into_failure(),
        }
    }

    /// The failure of an attempt that was not answered in time. A process of this machine is ended with it: it may never
    /// answer.
    async fn timed_out(&self, request: &ModelRequest, link: Link, time: Duration) -> ModelFailure {
        let failure = timed_out(time);
        let Some(local) = self.local(request) else { return failure };
        let lost = local.host.lost(&Connection(link), &failure.message).await;
        ModelFailure { kind: failure.kind, ..lost }
    }

    /// Asks once.
    async fn attempt(
        &self,
        link: &Link,
        request: &ModelRequest,
        deadline: Instant,
        slot: &mut Slot,
        tally: &mut Tally,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<ModelReply, AttemptError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let (most, begin) = match self.local(request) {
            Some(_) => {
                (Duration::from_millis(LOCAL_INFERENCE_TIME_MS), Some(Duration::from_millis(LOCAL_BEGIN_MS)))
            }
            None => (self.inner.config.attempt_time, None),
        };
        let time = most.min(left);
        let mut patience = begin.unwrap_or(time);
        let ask =
            |serial| ModelsRequest::Ask { serial, request: Box::new(request.clone()), time: millis(time) };
        let (began, mut first) = (Instant::now(), None);
        let listen = async {
            let out_of_time = |_| AttemptError::TimedOut(patience);
            let sent = timeout(patience, link.send(ask)).await.map_err(out_of_time)?;
            let in_flight = sent.map_err(AttemptError::Link)?;
            let mut asked = Unsettled { in_flight, tally, cleared: false };
            loop {
                let arrived = timeout(patience, asked.in_flight.next()).await;
                let arrival = arrived.map_err(|_| AttemptError::TimedOut(patience))?;
                patience = time;
                match if begin.is_some() { local::heard(arrival) } else { arrival } {
                    Arrival::Begun(pace) => slot.taken(pace),
                    Arrival::Delta(text) => {
                        first.get_or_insert_with(|| Micros::of(began.elapsed()));
                        progress(Progress::Delta(text));
                    }
                    Arrival::End(Ending::Done(reply, measured)) => {
                        asked.cleared = true;
                        slot.taken(Pace::default());
                        slot.took(reply.usage.total());
                        let own = || Measured { first, whole: Micros::of(began.elapsed()), model: None };
                        progress(Progress::Answered(measured.map_or_else(own, |measured| *measured)));
                        return Ok(*reply);
                    }
                    Arrival::End(Ending::Failed(failure)) => {
                        asked.cleared = !failure.kind.may_be_billed();
                        if !failure.is_wait() {
                            slot.heard();
                        }
                        return Err(AttemptError::Failed(failure));
                    }
                    Arrival::End(Ending::Lost { reason }) => {
                        return Err(AttemptError::Link(LlmError::Lost { reason }));
                    }
                    Arrival::End(
                        Ending::Described(_) | Ending::Probed(_) | Ending::Wanted | Ending::Exported(_),
                    ) => {
                        return Err(AttemptError::Failed(LlmError::OutOfTurn.into_failure()));
                    }
                }
            }
        };
        timeout(time, listen).await.unwrap_or(Err(AttemptError::TimedOut(time)))
    }
}

/// How long the provider wants quiet.
fn wish_of(failure: &ModelFailure) -> Option<Duration> {
    failure.retry_after.map(|wish| Duration::from_millis(wish.0))
}

fn timed_out(time: Duration) -> ModelFailure {
    let message = format!("the model did not answer within {} ms", time.as_millis());
    ModelFailure { kind: ModelFailureKind::Timeout, message, retry_after: None }
}

/// The failure of an inference that the provider turns away while it takes others.
fn always_refused(failure: &ModelFailure) -> ModelFailure {
    let message = format!(
        "{}; it was turned away {MAX_REFUSALS_AMONG_TAKEN} times while other requests were taken",
        failure.message
    );
    ModelFailure { message, ..failure.clone() }
}

/// The failure of an inference whose provider wants no request from anybody.
fn quiet() -> ModelFailure {
    let message = "the provider wants no request yet".to_owned();
    ModelFailure { kind: ModelFailureKind::RateLimited, message, retry_after: None }
}

/// The failure of an inference whose deadline leaves no room for another attempt.
fn past_deadline(last: Option<ModelFailure>) -> ModelFailure {
    match last {
        Some(failure) => ModelFailure {
            message: format!("{}; another attempt would pass the deadline", failure.message),
            ..failure
        },
        None => ModelFailure {
            kind: ModelFailureKind::Timeout,
            message: "the deadline passed before the model could be asked".to_owned(),
            retry_after: None,
        },
    }
}

fn millis(time: Duration) -> Millis {
    Millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// One of several that are counted while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn up(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "what is counted down was counted up");
    }
}
