//! Streams: journal entries as they become durable, then the reply.
//!
//! Invariants: a stream is read from the journal, so nothing is ever dropped: a client that falls behind is told
//! where it stands (`lag`) and gets every entry all the same; a stream ends when its client is gone.

use std::time::Instant;

use aaos_core::event::Event;
use aaos_core::id::{AgentId, GoalId, Seq};
use aaos_core::quantity::Millis;
use aaos_ipc::{ErrorCode, FrameBody, Request, RequestId, RpcError, StreamFrame, stream_frame_line};
use aaos_journal::Filter;
use aaos_runtime::{AuditPage, AuditReader, GoalRequest, GoalView, Kernel, KernelError, Principal};
use serde::Serialize;
use serde_json::value::RawValue;

use super::connection::{Gone, Outbox};
use super::methods::{json, refused};

type Answer = Result<Box<RawValue>, RpcError>;

/// How long `follow` goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until there are no more entries.
    Now,
    /// Until the last entry comes.
    Last,
}

/// What `follow` was told to stop at, and why it stopped.
#[derive(Debug, PartialEq, Eq)]
enum Stopped {
    /// The last entry was seen.
    AtEnd,
    /// The client is gone.
    ClientGone,
    /// The kernel closes.
    Closing,
}

/// One stream to one client.
struct Stream<'s> {
    kernel: &'s Kernel,
    outbox: &'s Outbox,
    id: RequestId,
}

impl<'s> Stream<'s> {
    fn new(kernel: &'s Kernel, outbox: &'s Outbox, request: &Request) -> Result<Self, RpcError> {
        let id = request.id.clone().ok_or_else(|| {
            RpcError::new(ErrorCode::InvalidRequest, "a stream needs an id, by which its frames are known")
        })?;
        Ok(Self { kernel, outbox, id })
    }

    async fn frame(&self, body: FrameBody) -> Result<(), Gone> {
        let frame = StreamFrame { request_id: self.id.clone(), body };
        match stream_frame_line(&frame) {
            Ok(line) => self.outbox.send(line).await,
            Err(error) => {
                tracing::error!(%error, "a frame could not be written");
                Ok(())
            }
        }
    }

    /// Sends matching entries as they become durable, until `is_last` holds for one or that is all for now.
    async fn follow(
        &self,
        caller: Principal,
        mut filter: Filter,
        until: Until,
        is_last: impl Fn(&Event) -> bool,
    ) -> Result<Stopped, KernelError> {
        let mut head = self.kernel.journal().head();
        let mut was_behind = false;
        let mut reader = AuditReader::new(self.kernel, caller);
        loop {
            let durable = *head.borrow_and_update();
            loop {
                let AuditPage { entries, last: Some(last) } = reader.page(&filter).await? else { break };
                for entry in entries {
                    let at_end = is_last(&entry.event);
                    // Told once each time it falls behind.
                    let is_behind = self.outbox.is_behind();
                    let fell_behind = !std::mem::replace(&mut was_behind, is_behind) && is_behind;
                    if fell_behind && self.frame(FrameBody::Lag { resume_seq: entry.seq }).await.is_err() {
                        return Ok(Stopped::ClientGone);
                    }
                    if self.frame(FrameBody::Event(Box::new(entry))).await.is_err() {
                        return Ok(Stopped::ClientGone);
                    }
                    if at_end {
                        return Ok(Stopped::AtEnd);
                    }
                }
                filter.after_seq = Some(last);
            }
            if until == Until::Now {
                return Ok(Stopped::AtEnd);
            }
            filter.after_seq = filter.after_seq.max(Some(durable));
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return Ok(Stopped::Closing) },
                () = self.outbox.gone.cancelled() => return Ok(Stopped::ClientGone),
                () = self.kernel.closing().cancelled() => return Ok(Stopped::Closing),
            }
        }
    }
}

/// `agent.submit_streaming`: submits a goal, streams its entries, then answers with its end.
pub(super) async fn submit(
    kernel: &Kernel,
    caller: Principal,
    outbox: &Outbox,
    request: &Request,
    goal: GoalRequest,
) -> Answer {
    let stream = Stream::new(kernel, outbox, request)?;
    let before = *kernel.journal().head().borrow();
    let (goal_id, _follower) = kernel.submit_followed(caller, goal).await.map_err(refused)?;
    // A goal known by its client key began earlier: all of it is shown.
    let known = kernel.goal(caller, goal_id).map_err(refused)?;
    let after_seq = if known.root_agent.is_some() { None } else { Some(before) };
    until_over(&stream, caller, &known, after_seq).await
}

/// `goal.follow`: streams a goal's entries from its first, then answers with its end.
pub(super) async fn goal(
    kernel: &Kernel,
    caller: Principal,
    outbox: &Outbox,
    request: &Request,
    goal_id: GoalId,
) -> Answer {
    let stream = Stream::new(kernel, outbox, request)?;
    let known = kernel.goal(caller, goal_id).map_err(refused)?;
    until_over(&stream, caller, &known, None).await
}

async fn until_over(
    stream: &Stream<'_>,
    caller: Principal,
    known: &GoalView,
    after_seq: Option<Seq>,
) -> Answer {
    #[derive(Serialize)]
    struct Ended {
        goal_id: GoalId,
        goal: GoalView,
    }
    let (begun, kernel, goal_id) = (Instant::now(), stream.kernel, known.goal_id);
    let _follower = kernel.follow(caller, goal_id);
    let filter = Filter { goal: Some(goal_id), after_seq, ..Filter::default() };
    let is_last = |event: &Event| matches!(event, Event::GoalFinished { .. });
    // The end of one that was over before may lie anywhere, even in an archive.
    let until = if known.state.is_final() { Until::Now } else { Until::Last };
    let stopped = stream.follow(caller, filter, until, is_last).await.map_err(refused)?;
    if stopped == Stopped::Closing {
        return Err(refused(KernelError::ShuttingDown));
    }
    let goal = kernel.wait_goal(caller, goal_id).await.map_err(refused)?;
    let text = goal.response.clone().unwrap_or_default();
    let end = FrameBody::End {
        exit_code: goal.exit_code.unwrap_or(1),
        error: goal.error.clone(),
        input_tokens: goal.usage.input_tokens,
        output_tokens: goal.usage.output_tokens,
        elapsed_ms: Millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)),
    };
    for body in [FrameBody::FinalText { text }, end] {
        if stream.frame(body).await.is_err() {
            break;
        }
    }
    json(&Ended { goal_id, goal })
}

/// `agent.logs_streaming`: an agent's entries until it stops.
pub(super) async fn logs(
    kernel: &Kernel,
    caller: Principal,
    outbox: &Outbox,
    request: &Request,
    agent: AgentId,
    after_seq: Option<Seq>,
) -> Answer {
    #[derive(Serialize)]
    struct Ended {
        agent_id: AgentId,
        ended: bool,
    }
    let stream = Stream::new(kernel, outbox, request)?;
    kernel.agent_status(caller, agent).map_err(refused)?;
    let filter = Filter { agent: Some(agent), after_seq, ..Filter::default() };
    let is_last = |event: &Event| matches!(event, Event::AgentStopped { .. });
    let stopped = stream.follow(caller, filter, Until::Last, is_last).await.map_err(refused)?;
    json(&Ended { agent_id: agent, ended: stopped == Stopped::AtEnd })
}

/// `audit.stream`: every matching entry, from a position on, until the client or the daemon goes.
pub(super) async fn audit(
    kernel: &Kernel,
    caller: Principal,
    outbox: &Outbox,
    request: &Request,
    filter: Filter,
) -> Answer {
    let stream = Stream::new(kernel, outbox, request)?;
    stream.follow(caller, filter, Until::Last, |_| false).await.map_err(refused)?;
    Err(refused(KernelError::ShuttingDown))
}
