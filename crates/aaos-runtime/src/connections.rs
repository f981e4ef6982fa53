//! The connections of programs: each is an effect of its own, and what it moves is leased from the purse in pieces.
//!
//! Invariants: no agent has more of them open than its share; nothing is looked up or dialled before the intent is
//! journalled; the first permit stays open as long as the connection, so that a revocation of its grant finds and cuts
//! it; every lease is settled with what it moved, and with all of it where the gateway was lost.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::authority::Refusal;
use aaos_core::connection::{Connection, Moved};
use aaos_core::effect::{Effect, Need};
use aaos_core::id::{CallId, TraceId};
use aaos_core::limits::{FAR_STOP_MS, PROXY_TIME_MS};
use aaos_core::quantity::{Bytes, Millis, Quantity, Timestamp};
use aaos_core::toolio::{ToolFailure, ToolFailureKind};
use aaos_journal::Permit;
use aaos_sandbox::{Proxied, ProxyNews, tell_unavailable};
use tokio_util::sync::CancellationToken;

use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::places::Place;
use crate::registry::Agent;
use crate::revocation::revoked;

/// For which call of which program a connection is.
#[derive(Debug, Clone)]
pub(crate) struct ForProgram {
    /// The tool call that runs the program.
    pub(crate) call: CallId,
    /// The delivered message that the agent works on.
    pub(crate) trace: Option<TraceId>,
    /// Cancelled when the call is to end.
    pub(crate) stop: CancellationToken,
}

/// What has moved over a connection so far.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    sent: Bytes,
    received: Bytes,
}

impl Totals {
    fn since(self, earlier: Self) -> Self {
        Self { sent: self.sent.minus(earlier.sent), received: self.received.minus(earlier.received) }
    }
}

/// A lease that is not settled yet.
#[derive(Debug)]
struct Lease {
    permit: Permit<Connection>,
    begun: Timestamp,
    /// What had moved when it began.
    from: Totals,
    /// What had moved when it was used up, where it was.
    until: Option<Totals>,
}

/// An open connection.
#[derive(Debug)]
struct Open {
    /// The lease whose permit names the grant.
    first: Lease,
    /// The one in use, after the first was used up.
    later: Option<Lease>,
    /// When its grant ends by itself.
    expires: Option<Timestamp>,
    /// Why agentd cut it.
    cut: Option<ToolFailure>,
}

impl Kernel {
    /// Serves one connection of a program to its end: `program` is the gateway's end of it.
    ///
    /// # Errors
    /// [`ToolFailure`] when it is not made. Where the gateway asked, the program is told the same; else its connection ends.
    pub(crate) async fn serve_connection(
        &self,
        agent: &Arc<Agent>,
        of: &ForProgram,
        program: OwnedFd,
    ) -> Result<(), ToolFailure> {
        // The place is given back last, when the gateway has heard that the connection is over.
        let (_place, mut proxied) = self.enter_proxy(agent, program).await?;
        let asked = tokio::select! {
            news = proxied.news() => news,
            () = of.stop.cancelled() => return Err(cancelled()),
        };
        // What the gateway refuses by itself it has told the program, unless it has no place left for it; nothing moved.
        let ProxyNews::Wants { host, port } = asked else { return Ok(()) };
        let effect = Connection::new(of.call, host, port, self.free_egress(agent));
        let permit = match self.begin_until(&of.stop, agent, of.trace, effect).await {
            Ok(permit) => permit,
            Err(failure) => {
                proxied.refuse(failure.message.clone()).await;
                self.last_news(&mut proxied).await;
                return Err(failure);
            }
        };
        let running = self.follow_call(permit.call(), agent);
        proxied.open(&permit).await;
        let first = Lease { permit, begun: self.clock().now(), from: Totals::default(), until: None };
        let expires = self.expiry_of(&first.permit);
        let mut open = Open { first, later: None, expires, cut: None };
        let end = self.pay_for(agent, of, &running.cancel, &mut proxied, &mut open).await;
        self.settle_connection(agent, open, end).await.map_err(KernelError::into_tool_failure)
    }

    /// Takes a place for a connection and hands it to the gateway. Where that cannot be, the program is told.
    async fn enter_proxy(
        &self,
        agent: &Agent,
        program: OwnedFd,
    ) -> Result<(Place<'_>, Proxied), ToolFailure> {
        let entered = async {
            let place = match self.connection_places().take(agent.id) {
                Ok(place) => place,
                Err(failure) => {
                    // Nobody has heard yet where it was to go.
                    let refusal = Refusal::Limit(failure.message);
                    return Err(KernelError::from(
                        self.journal_refusal(agent, Connection::LABEL, refusal).await,
                    ));
                }
            };
            Ok((place, self.egress().await?))
        };
        match entered.await {
            Ok((place, egress)) => Ok((place, egress.proxy(program, Millis(PROXY_TIME_MS)).await?)),
            Err(error) => {
                let failure = error.into_tool_failure();
                tell_unavailable(&program, &failure.message);
                Err(failure)
            }
        }
    }

    /// Renews leases until the connection is over, and cuts it when it is to end.
    async fn pay_for(
        &self,
        agent: &Arc<Agent>,
        of: &ForProgram,
        stop: &CancellationToken,
        proxied: &mut Proxied,
        open: &mut Open,
    ) -> ProxyNews {
        loop {
            let news = tokio::select! {
                news = proxied.news() => news,
                why = self.end_of_connection(of, stop, open) => return self.cut_connection(proxied, open, why).await,
            };
            let (sent, received) = match news {
                ProxyNews::Spent { sent, received } => (sent, received),
                ProxyNews::Closed { .. } | ProxyNews::Lost => return news,
                ProxyNews::Wants { .. } => {
                    let why = ToolFailure::new(ToolFailureKind::Network, "the gateway asked twice");
                    return self.cut_connection(proxied, open, why).await;
                }
            };
            if let Err(why) = self.renew(agent, of, proxied, open, Totals { sent, received }).await {
                return self.cut_connection(proxied, open, why).await;
            }
        }
    }

    fn expiry_of(&self, permit: &Permit<Connection>) -> Option<Timestamp> {
        let host = permit.all().iter().find(|access| matches!(access.need, Need::Host { .. }))?;
        self.authority().expiry(host.grant)
    }

    /// Resolves when a connection may be open no longer, and says why.
    async fn end_of_connection(&self, of: &ForProgram, stop: &CancellationToken, open: &Open) -> ToolFailure {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                if self.authority().is_cut(open.first.permit.call()) { revoked() } else { cancelled() }
            }
            () = of.stop.cancelled() => cancelled(),
            () = self.clock().until(open.expires) => ToolFailure::new(
                ToolFailureKind::Revoked, "the grant of its host expired while the connection was open"),
        }
    }

    /// Takes the next lease and settles the one before, unless that is the first.
    async fn renew(
        &self,
        agent: &Arc<Agent>,
        of: &ForProgram,
        proxied: &Proxied,
        open: &mut Open,
        totals: Totals,
    ) -> Result<(), ToolFailure> {
        if let Some(used) = open.later.take() {
            self.settle_lease(agent, used, Some(totals), None)
                .await
                .map_err(KernelError::into_tool_failure)?;
        } else {
            open.first.until = Some(totals);
        }
        // The first lease is used up, and stays reserved as long as the connection.
        let first = open.first.permit.effect();
        let free = self.free_egress(agent);
        if free == Some(0) {
            let empty = Refusal::Budget { quantity: Quantity::EgressBytes, wanted: 1, remaining: 0 };
            let told = self.journal_refusal(agent, first.label(), empty).await;
            return Err(KernelError::from(told).into_tool_failure());
        }
        let permit = self.begin_at_once(agent, of.trace, first.again(open.first.permit.call(), free)).await?;
        proxied.lease(&permit).await;
        open.later = Some(Lease { permit, begun: self.clock().now(), from: totals, until: None });
        Ok(())
    }

    async fn cut_connection(&self, proxied: &mut Proxied, open: &mut Open, why: ToolFailure) -> ProxyNews {
        open.cut = Some(why);
        proxied.close().await;
        self.last_news(proxied).await
    }

    /// The end of a connection that was told to end; a gateway that does not say it in time has lost it.
    async fn last_news(&self, proxied: &mut Proxied) -> ProxyNews {
        let until_closed = async {
            loop {
                match proxied.news().await {
                    end @ (ProxyNews::Closed { .. } | ProxyNews::Lost) => return end,
                    ProxyNews::Wants { .. } | ProxyNews::Spent { .. } => {}
                }
            }
        };
        let end = self.clock().timeout(Duration::from_millis(FAR_STOP_MS), until_closed).await;
        end.unwrap_or(ProxyNews::Lost)
    }

    async fn settle_connection(&self, agent: &Agent, open: Open, end: ProxyNews) -> Result<(), KernelError> {
        let (totals, failure) = match end {
            ProxyNews::Closed { sent, received, failure } => (Some(Totals { sent, received }), failure),
            ProxyNews::Wants { .. } | ProxyNews::Spent { .. } | ProxyNews::Lost => {
                let lost = ToolFailure::new(ToolFailureKind::Network, "the egress gateway was lost");
                (None, Some(lost))
            }
        };
        let failure = open.cut.or(failure);
        if let Some(later) = open.later {
            self.settle_lease(agent, later, totals, failure.clone()).await?;
        }
        self.settle_lease(agent, open.first, totals, failure).await
    }

    /// Journals what a lease moved. Without totals nobody knows, unless it was used up before.
    async fn settle_lease(
        &self,
        agent: &Agent,
        lease: Lease,
        totals: Option<Totals>,
        failure: Option<ToolFailure>,
    ) -> Result<(), KernelError> {
        let known = lease.until.or(totals).map(|until| until.since(lease.from));
        let Totals { sent, received } = known.unwrap_or_default();
        let (unknown, elapsed) = (known.is_none(), self.clock().since(lease.begun));
        let receipt = lease.permit.settle(Moved { sent, received, unknown, failure, elapsed });
        let finished = self.journal().finish(receipt, self.clock().now()).await?;
        self.settle(agent, &finished).await.map(drop)
    }

    /// Network bytes that the agent can lease now, where somebody bounds them.
    fn free_egress(&self, agent: &Agent) -> Option<u64> {
        self.authority().free(agent.id, Quantity::EgressBytes, self.clock().now())
    }
}
