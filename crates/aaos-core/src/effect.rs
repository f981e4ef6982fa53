//! Effects, what they need, and the sealed proof that one was authorised.
//!
//! Invariants: [`Authorized`] has private fields, is not `Clone` and not `Deserialize`, and is built only
//! inside this crate by [`crate::authority::Authority::authorize`]. Dropping one that no journal consumed
//! gives its charges back (at the authority's next operation).

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::budget::Ceilings;
use crate::capability::HostRule;
use crate::event::{Event, Outcome, content_hash};
use crate::id::{AgentId, ApprovalId, CallId, GrantId, WorkerId};
use crate::known::KnownProgram;
use crate::limits::{CALL_JOURNAL_BYTES, JOURNAL_BYTES_PER_TOKEN, MAX_BYTES_PER_TOKEN};
use crate::manifest::Manifest;
use crate::model::{ModelFailure, ModelReply, ModelRequest};
use crate::name::{AgentName, ToolName};
use crate::path::AbsPath;
use crate::price::Price;
use crate::quantity::{Amounts, Bytes, MicroUsd, Millis, Quantity, Tokens};
use crate::tool::ToolCall;
use crate::toolio::ToolFailure;
use crate::world::World;

/// What may be done about an effect that began and has no recorded outcome (DESIGN §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectClass {
    /// Repeat it freely. Its caller does not wait for the disk.
    Safe,
    /// Repeat it with the same idempotency key.
    Keyed,
    /// A model call: ask again, the lost attempt stays paid.
    Paid,
    /// Never repeat; report it as unknown.
    Once,
}

/// Right to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRight {
    /// To read or list.
    Read,
    /// To create or change.
    Write,
}

/// One thing that an effect needs authority over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// To invoke a tool.
    Tool(ToolName),
    /// A file or directory.
    File {
        /// Read or write.
        right: FileRight,
        /// As the agent spells it.
        path: AbsPath,
    },
    /// A connection to a host.
    Host {
        /// Lower-case host name or IP literal.
        host: String,
        /// Port.
        port: u16,
    },
    /// To spawn a child with this name.
    Spawn(AgentName),
    /// To send a message to this agent.
    Message(AgentName),
    /// To start this program.
    Exec(AbsPath),
    /// To start the program of this name, wherever a grant says that it is. An access says which one it is.
    Program(KnownProgram),
}

/// All that an effect needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Every one of these, or the effect is denied.
    pub all: Vec<Need>,
    /// At least one of these (when there are any); the others become failed items of a batch.
    pub each: Vec<Need>,
    /// The most that it can use of each quantity: reserved on the whole path to the root.
    pub amounts: Amounts,
}

/// What a person is shown of an effect, and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// BLAKE3 of the effect's name and arguments, hexadecimal.
    pub digest: String,
    /// Its arguments.
    pub input: serde_json::Value,
}

impl Subject {
    /// The subject of an effect of this name with these arguments.
    #[must_use]
    pub fn of(label: &str, input: serde_json::Value) -> Self {
        Self { digest: content_hash(format!("{label} {input}").as_bytes()), input }
    }
}

/// Something that acts outside the kernel's own memory.
pub trait Effect: std::fmt::Debug + Send + Sized + 'static {
    /// How it ended.
    type Outcome: std::fmt::Debug + Send + 'static;
    /// What it needs authority over.
    fn needs(&self) -> Cow<'_, Needs>;
    /// What may be done about it after a crash.
    fn class(&self) -> EffectClass;
    /// Its name in denials and logs, for example `file_write` or `inference`.
    fn label(&self) -> &'static str;
    /// The same effect, moving no more than a purse has left, where it can be made smaller.
    #[must_use]
    fn clamped_to(self, _remaining: &Ceilings) -> Self {
        self
    }
    /// What a person is shown who has to approve it; `None` for an effect that is never asked about, which is
    /// denied where it would have to be.
    fn subject(&self) -> Option<Subject> {
        None
    }
    /// What it used, of what was reserved for it. Journalled with the outcome.
    fn spent(_parts: &AuthorizedParts<Self>, _outcome: &Self::Outcome) -> Amounts {
        Amounts::NONE
    }
    /// The journal entry that says it is about to happen.
    fn intent(parts: &AuthorizedParts<Self>) -> Event;
    /// The journal entry that says how it ended.
    fn result(parts: &AuthorizedParts<Self>, outcome: &Self::Outcome) -> Event;
}

/// How a tool call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// JSON text of the result, or the failure.
    pub result: Result<String, ToolFailure>,
    /// The worker that ran it.
    pub worker: Option<WorkerId>,
    /// What was moved, also where the call failed afterwards: bytes from the network, bytes and files written.
    pub moved: Amounts,
    /// How long it took.
    pub elapsed: Millis,
    /// Whether it was done, though nobody is given the result: the failure says why.
    pub withheld: bool,
}

impl ToolOutcome {
    /// A call that ended before it moved anything.
    #[must_use]
    pub fn failed(failure: ToolFailure, elapsed: Millis) -> Self {
        Self { elapsed, ..Self::of(Err(failure)) }
    }

    /// A call that moved nothing and took no time to speak of.
    #[must_use]
    pub const fn of(result: Result<String, ToolFailure>) -> Self {
        Self { result, worker: None, moved: Amounts::NONE, elapsed: Millis(0), withheld: false }
    }

    /// The same call, whose result is given to nobody.
    #[must_use]
    pub fn withheld(self, why: ToolFailure) -> Self {
        let withheld = self.result.is_ok();
        Self { result: Err(why), withheld, ..self }
    }
}

/// How an inference ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferenceOutcome {
    /// The reply, or the last failure.
    pub result: Result<ModelReply, ModelFailure>,
    /// Attempts made.
    pub attempts: u32,
    /// Of those, the ones that the provider turned away and wants made again later.
    pub told_to_wait: u32,
    /// Of all, the failed ones that the provider may have billed without a report.
    pub possibly_billed: u32,
    /// Whether a failure is the provider's own, and not that it could not be asked.
    pub blames_provider: bool,
    /// How long it took, waits included.
    pub elapsed: Millis,
}

/// One use of a tool, arguments parsed.
impl Effect for ToolCall {
    type Outcome = ToolOutcome;

    fn needs(&self) -> Cow<'_, Needs> {
        Cow::Borrowed(Self::needs(self))
    }
    fn class(&self) -> EffectClass {
        self.input.class()
    }

    fn label(&self) -> &'static str {
        self.input.name()
    }

    fn clamped_to(self, remaining: &Ceilings) -> Self {
        Self::clamped_to(self, remaining)
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of(self.input.name(), self.input.arguments()))
    }

    fn spent(parts: &AuthorizedParts<Self>, outcome: &ToolOutcome) -> Amounts {
        // How long the result is, nobody knows before.
        let result = outcome.result.as_ref().map_or(0, String::len) as u64;
        let journal = parts.effect.needs().amounts.get(Quantity::JournalBytes).saturating_add(result);
        outcome.moved.with(Quantity::JournalBytes, journal)
    }

    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        let granted = parts.each.iter().filter_map(|one| one.as_ref().ok());
        let denied = parts.each.iter().filter_map(|one| one.as_ref().err());
        Event::ToolInvoked {
            call: parts.call,
            tool: parts.effect.input.tool_name(),
            input: parts.effect.input.arguments(),
            class: parts.effect.input.class(),
            access: parts.all.iter().chain(granted).cloned().collect(),
            denied: denied.cloned().collect(),
            charges: parts.charges.clone(),
            model_call: parts.effect.model_call().cloned(),
            at: parts.effect.at(),
            repeats: parts.effect.repeats(),
        }
    }

    fn result(parts: &AuthorizedParts<Self>, outcome: &ToolOutcome) -> Event {
        let text = outcome.result.as_deref().unwrap_or_default();
        let failure = outcome.result.as_ref().err();
        Event::ToolResult {
            call: parts.call,
            tool: parts.effect.input.tool_name(),
            outcome: failure.filter(|_| !outcome.withheld).map_or(Outcome::Done, ToolFailure::outcome),
            result_hash: content_hash(text.as_bytes()),
            result_bytes: Bytes(text.len() as u64),
            result: outcome.result.as_ref().ok().cloned(),
            failure: failure.cloned(),
            worker: outcome.worker,
            spent: Self::spent(parts, outcome),
            elapsed: outcome.elapsed,
        }
    }
}

/// One request to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Inference {
    /// The request.
    pub request: ModelRequest,
    /// The most tokens it can use: an upper bound of the input plus `max_output_tokens`.
    pub reserve: Tokens,
    /// What the model costs, where that is known. Money is reserved and charged by it.
    pub price: Option<Price>,
    /// BLAKE3 of what the mind asked, before the reply was clamped to a purse.
    pub request_hash: String,
    /// Of a request for a summary of the agent's own conversation: how many of its newest messages are left out.
    pub keeps: Option<u64>,
    /// What the request is thought to take: estimated by what the conversation's reports told, not bounded as `reserve`.
    pub estimate: Option<Tokens>,
}

impl Effect for Inference {
    type Outcome = InferenceOutcome;

    fn needs(&self) -> Cow<'_, Needs> {
        let reply = self.request.max_output_tokens;
        let journal = reply.0.saturating_mul(JOURNAL_BYTES_PER_TOKEN).saturating_add(CALL_JOURNAL_BYTES);
        let input = self.reserve.minus(reply);
        let money = self.price.map_or(MicroUsd::ZERO, |price| price.at_most(input, reply));
        let amounts = Amounts::of(Quantity::Tokens, self.reserve.0)
            .with(Quantity::MicroUsd, money.0)
            .with(Quantity::JournalBytes, journal);
        Cow::Owned(Needs { amounts, ..Needs::default() })
    }
    fn class(&self) -> EffectClass {
        EffectClass::Paid
    }

    fn label(&self) -> &'static str {
        "inference"
    }

    fn spent(parts: &AuthorizedParts<Self>, outcome: &InferenceOutcome) -> Amounts {
        let effect = &parts.effect;
        let reserved = reserved_by(&parts.charges);
        let bytes = effect.request.text_bytes();
        let tokens = tokens_spent(&outcome.result, outcome.possibly_billed, bytes, effect.reserve);
        let unreported = reserved.get(Quantity::MicroUsd).saturating_mul(u64::from(outcome.possibly_billed));
        let reported = match (&outcome.result, effect.price) {
            (Ok(reply), Some(price)) => {
                price.cost(&reply.usage).max(price.at_least(least_tokens(reply, bytes)))
            }
            _ => MicroUsd::ZERO,
        };
        let journal =
            outcome.result.as_ref().map_or(0, |reply| reply_bytes(reply).plus(reply.thinking_bytes()).0);
        Amounts::of(Quantity::Tokens, tokens.0)
            .with(Quantity::MicroUsd, reported.0.saturating_add(unreported))
            .with(Quantity::JournalBytes, journal.saturating_add(CALL_JOURNAL_BYTES))
    }

    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        Event::InferenceRequested {
            call: parts.call,
            model: parts.effect.request.model.clone(),
            messages: parts.effect.request.messages.len() as u64,
            request_bytes: parts.effect.request.text_bytes(),
            request_hash: parts.effect.request_hash.clone(),
            reserve: parts.effect.reserve,
            estimate: parts.effect.estimate,
            price: parts.effect.price,
            charges: parts.charges.clone(),
            keeps: parts.effect.keeps,
        }
    }

    fn result(parts: &AuthorizedParts<Self>, outcome: &InferenceOutcome) -> Event {
        Event::InferenceCompleted {
            call: parts.call,
            result: outcome.result.clone(),
            attempts: outcome.attempts,
            possibly_billed: outcome.possibly_billed,
            spent: Self::spent(parts, outcome),
            elapsed: outcome.elapsed,
        }
    }
}

/// What an inference is charged. A reply costs the larger of what the provider reports and what the bytes must
/// have cost at least. Each failed attempt that the provider may have billed without a report costs the whole
/// reservation. Where nobody was asked, or everybody turned it away, nothing.
#[must_use]
pub fn tokens_spent(
    result: &Result<ModelReply, ModelFailure>,
    possibly_billed: u32,
    request_bytes: Bytes,
    reserved: Tokens,
) -> Tokens {
    let unreported = Tokens(reserved.0.saturating_mul(u64::from(possibly_billed)));
    match result {
        Ok(reply) => unreported.plus(reply.usage.total().max(least_tokens(reply, request_bytes))),
        Err(_) => unreported,
    }
}

/// The least number of tokens that a reply and its request must have been.
fn least_tokens(reply: &ModelReply, request_bytes: Bytes) -> Tokens {
    Tokens(request_bytes.plus(reply_bytes(reply)).0 / MAX_BYTES_PER_TOKEN)
}

fn reply_bytes(reply: &ModelReply) -> Bytes {
    let arguments: usize = reply.calls.iter().map(|call| call.arguments.0.len()).sum();
    Bytes((reply.text.len() + arguments) as u64)
}

/// The admission of one child agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn {
    /// The child's manifest name.
    pub child: AgentName,
    /// Size of its manifest.
    pub manifest_bytes: Bytes,
    /// Its manifest, to be shown.
    pub manifest: serde_json::Value,
    /// The tool call that spawns.
    pub under: CallId,
    /// Which of that call's children it is, from 0.
    pub index: u32,
}

impl Spawn {
    /// The admission of a child with this manifest, as one of the children of a spawning call.
    #[must_use]
    pub fn of(manifest: &Manifest, under: CallId, index: u32) -> Self {
        let shown = serde_json::to_value(manifest)
            .unwrap_or_else(|error| unreachable!("a manifest is plain JSON: {error}"));
        let bytes = Bytes(shown.to_string().len() as u64);
        Self { child: manifest.name.clone(), manifest_bytes: bytes, manifest: shown, under, index }
    }
}

impl Effect for Spawn {
    type Outcome = Result<AgentId, ToolFailure>;

    fn needs(&self) -> Cow<'_, Needs> {
        let journal = self.manifest_bytes.0.saturating_mul(2).saturating_add(CALL_JOURNAL_BYTES);
        let amounts = Amounts::of(Quantity::Children, 1).with(Quantity::JournalBytes, journal);
        Cow::Owned(Needs { all: vec![Need::Spawn(self.child.clone())], each: Vec::new(), amounts })
    }
    fn class(&self) -> EffectClass {
        EffectClass::Once
    }

    fn label(&self) -> &'static str {
        "spawn"
    }

    fn subject(&self) -> Option<Subject> {
        Some(Subject::of("spawn", serde_json::json!({ "child": self.child, "manifest": self.manifest })))
    }

    fn spent(parts: &AuthorizedParts<Self>, outcome: &Self::Outcome) -> Amounts {
        let reserved = parts.effect.needs().amounts;
        match outcome {
            Ok(_) => reserved,
            Err(_) => Amounts::of(Quantity::JournalBytes, CALL_JOURNAL_BYTES),
        }
    }

    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        Event::SpawnRequested {
            call: parts.call,
            child: parts.effect.child.clone(),
            charges: parts.charges.clone(),
            under: parts.effect.under,
            index: parts.effect.index,
        }
    }

    fn result(parts: &AuthorizedParts<Self>, outcome: &Self::Outcome) -> Event {
        Event::SpawnCompleted {
            call: parts.call,
            child: outcome.as_ref().ok().copied(),
            failure: outcome.as_ref().err().cloned(),
            spent: Self::spent(parts, outcome),
        }
    }
}

/// The delivery of one message to a persistent agent, on behalf of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The receiving agent.
    pub to: AgentId,
    /// The text.
    pub message: String,
}

impl Effect for Delivery {
    type Outcome = ();

    fn needs(&self) -> Cow<'_, Needs> {
        Cow::Owned(Needs::default())
    }
    fn class(&self) -> EffectClass {
        EffectClass::Once
    }

    fn label(&self) -> &'static str {
        "message"
    }

    fn intent(parts: &AuthorizedParts<Self>) -> Event {
        Event::MessageSent { to: parts.effect.to }
    }

    fn result(parts: &AuthorizedParts<Self>, (): &()) -> Event {
        Event::MessageDelivered { message: parts.effect.message.clone(), from: None, under: None }
    }
}

/// Through which grant a need is met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// What was needed.
    pub need: Need,
    /// The grant that meets it.
    pub grant: GrantId,
    /// For a file: the path below the grant's root, no leading slash; may hold `..`, which the kernel judges.
    pub relative: Option<String>,
    /// For a host: the rules under which redirects may go on. Empty with `public` set means any public host.
    pub hosts: Vec<HostRule>,
    /// For a host: any public address is allowed.
    pub public: bool,
    /// For a host: the grants beside it under which redirects may go on. For a program: those of its world.
    pub through: Vec<GrantId>,
    /// For a program: what there is around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<Box<World>>,
    /// For a file: no symbolic link may be followed below the root, because a person approves places.
    pub no_links: bool,
}

/// Why something was denied, in a form the model and a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}; missing {missing}")]
pub struct Denied {
    /// The missing grant in the grammar's own words, for example `file_write: /out/a.txt`.
    pub missing: String,
    /// Why what is there does not do: no such grant, used up, expired, rate, not usable.
    pub reason: String,
    /// What to do next.
    pub hint: String,
}

/// A charge that can be given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// One use of a grant and of every grant it derives from.
    Use {
        /// The grant that was used.
        grant: GrantId,
    },
    /// Amounts reserved at an agent and all its ancestors.
    Purse {
        /// The agent whose purse it is.
        agent: AgentId,
        /// How much of each quantity.
        reserved: Amounts,
    },
    /// One use of what a person approved.
    Approval {
        /// Which approval.
        approval: ApprovalId,
    },
}

/// All that `charges` reserve.
#[must_use]
pub fn reserved_by(charges: &[Charge]) -> Amounts {
    let reserved = charges.iter().filter_map(|charge| match charge {
        Charge::Purse { reserved, .. } => Some(reserved),
        Charge::Use { .. } | Charge::Approval { .. } => None,
    });
    reserved.fold(Amounts::NONE, |sum, one| sum.plus(one))
}

/// The charges of an effect that was authorised and dropped.
type Dropped = (CallId, Vec<Charge>);

/// Where dropped authorisations put their charges until the authority takes them back.
#[derive(Debug, Clone, Default)]
pub struct RefundQueue(Arc<Mutex<Vec<Dropped>>>);

impl RefundQueue {
    pub(crate) fn put(&self, call: CallId, charges: Vec<Charge>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((call, charges));
    }

    pub(crate) fn take(&self) -> Vec<Dropped> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Proof that an effect was authorised and charged. Only the authority makes one; only the journal, by
/// making it a permit, uses one up.
#[derive(Debug)]
#[must_use = "an authorisation that is dropped is refunded"]
pub struct Authorized<E: Effect> {
    inner: Option<AuthorizedParts<E>>,
    refunds: RefundQueue,
}

/// What an authorisation holds, once the journal has taken it apart.
#[derive(Debug)]
pub struct AuthorizedParts<E> {
    /// Joins intent and outcome in the journal.
    pub call: CallId,
    /// Who acts.
    pub agent: AgentId,
    /// What is done.
    pub effect: E,
    /// How each of `Needs::all` is met, in order.
    pub all: Vec<Access>,
    /// How each of `Needs::each` is met or why not, in order.
    pub each: Vec<Result<Access, Denied>>,
    /// What was charged; settled by the authority when the outcome is known.
    pub charges: Vec<Charge>,
}

impl<E: Effect> Authorized<E> {
    pub(crate) fn mint(parts: AuthorizedParts<E>, refunds: RefundQueue) -> Self {
        Self { inner: Some(parts), refunds }
    }

    /// The call's id.
    #[must_use]
    pub fn call(&self) -> CallId {
        self.parts().call
    }

    /// Who acts.
    #[must_use]
    pub fn agent(&self) -> AgentId {
        self.parts().agent
    }

    /// What is to be done.
    #[must_use]
    pub fn effect(&self) -> &E {
        &self.parts().effect
    }

    /// Takes the authorisation apart; from here on nothing is refunded by a drop. For the journal, which
    /// alone turns the parts into a permit.
    #[must_use]
    pub fn into_parts(mut self) -> AuthorizedParts<E> {
        self.inner.take().unwrap_or_else(|| unreachable!("only this function and drop take the parts"))
    }

    /// What it holds, to look at.
    #[must_use]
    pub fn parts(&self) -> &AuthorizedParts<E> {
        self.inner.as_ref().unwrap_or_else(|| unreachable!("the parts leave only with self"))
    }
}

impl Authorized<ToolCall> {
    /// The same authorisation of an append that goes on from this size of its file.
    pub fn positioned(mut self, at: Bytes) -> Self {
        if let Some(parts) = &mut self.inner {
            parts.effect = parts.effect.clone().positioned(at);
        }
        self
    }
}

impl<E: Effect> Drop for Authorized<E> {
    fn drop(&mut self) {
        if let Some(parts) = self.inner.take() {
            self.refunds.put(parts.call, parts.charges);
        }
    }
}
