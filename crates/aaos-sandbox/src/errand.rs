//! A program that the operator's own command starts, such as `pip` for a download: in a program sandbox like any other.
//!
//! Invariants: no agent stands behind it, so there is no permit, and no daemon starts one; it is shown what the command
//! names and nothing of what it may write is executed. It reaches the hosts of its command alone, each connection is
//! decided by name before anything is looked up, and all of them together move no more than the command allows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aaos_core::capability::HostRule;
use aaos_core::effect::FileRight;
use aaos_core::id::GrantId;
use aaos_core::limits::{CONNECTION_LEASE_BYTES, MAX_CALL_CONNECTIONS, MAX_RELAYED, PROXY_TIME_MS};
use aaos_core::path::{AbsPath, PathPattern};
use aaos_core::program::Executes;
use aaos_core::quantity::{Bytes, Millis};
use aaos_core::toolio::{CommandRunInput, CommandRunOutput, ToolFailure, ToolFailureKind};
use aaos_core::world::{SharedRoot, World};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::doorbell::Doorbell;
use crate::egress::Egress;
use crate::egress::proxied::ProxyNews;
use crate::launch::Sandbox;
use crate::program_call::ProgramCall;
use crate::roots::RootTable;

/// What a command starts, and what is around it.
#[derive(Debug, Clone)]
pub struct Errand {
    /// The program.
    pub program: AbsPath,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its variables, each as `NAME=value`.
    pub environment: Vec<String>,
    /// What it may read besides the system's programs.
    pub reads: Vec<PathPattern>,
    /// What it may change.
    pub writes: Vec<PathPattern>,
    /// How long it may run, seconds.
    pub seconds: u64,
}

/// Where an errand's connections may go.
#[derive(Debug, Clone)]
pub struct Ways {
    egress: Egress,
    hosts: Arc<[HostRule]>,
    left: Arc<AtomicU64>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Ways {
    /// To these hosts, for so many bytes together.
    #[must_use]
    pub fn new(egress: Egress, hosts: Vec<HostRule>, most: Bytes) -> Self {
        Self { egress, hosts: hosts.into(), left: Arc::new(AtomicU64::new(most.0)), trouble: Arc::default() }
    }

    /// Why the last connection that came to nothing did, told once.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn blame(&self, why: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Takes the next lease; none where all was moved.
    fn lease(&self) -> Option<Bytes> {
        let take = |left: u64| (left > 0).then(|| left.saturating_sub(CONNECTION_LEASE_BYTES));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Bytes(before.min(CONNECTION_LEASE_BYTES)))
    }

    /// Serves everybody who knocks, until the sandbox hangs up.
    async fn serve(&self, mut doorbell: Doorbell) {
        let mut served = JoinSet::new();
        let mut left = MAX_CALL_CONNECTIONS;
        loop {
            tokio::select! {
                rung = doorbell.rung(), if served.len() < MAX_RELAYED => {
                    if rung.is_err() {
                        break;
                    }
                    match doorbell.answer_within(&mut left).await {
                        Ok(Some(program)) => {
                            let ways = self.clone();
                            served.spawn(async move { ways.connect(program).await });
                        }
                        Ok(None) => {}
                        Err(_) => break,
                    }
                }
                Some(_) = served.join_next(), if !served.is_empty() => {}
            }
        }
    }

    async fn connect(&self, program: std::os::fd::OwnedFd) {
        let Ok(mut proxied) = self.egress.proxy(program, Millis(PROXY_TIME_MS)).await else { return };
        loop {
            match proxied.news().await {
                ProxyNews::Wants { host, port } => {
                    let is_meant = self.hosts.iter().any(|rule| rule.matches(&host, port));
                    let lease = if is_meant { self.lease() } else { None };
                    match lease {
                        Some(lease) => proxied.open_under(self.hosts.to_vec(), false, lease).await,
                        None => {
                            let why = if is_meant { "moved all that it may" } else { "has no business" };
                            let why = format!("it {why} at {host}:{port}");
                            self.blame(why.clone());
                            proxied.refuse(why).await;
                        }
                    }
                }
                ProxyNews::Spent { .. } => match self.lease() {
                    Some(lease) => proxied.lease_more(lease).await,
                    None => proxied.close().await,
                },
                ProxyNews::Closed { failure, .. } => {
                    if let Some(failure) = failure {
                        self.blame(failure.message);
                    }
                    return;
                }
                ProxyNews::Lost => return,
            }
        }
    }
}

impl Sandbox {
    /// Runs a program for the operator's own command, with a network where there are ways.
    ///
    /// # Errors
    /// [`ToolFailure`] where it was not started, or did not end by itself.
    pub async fn run_errand(
        &self,
        errand: Errand,
        ways: Option<&Ways>,
    ) -> Result<CommandRunOutput, ToolFailure> {
        let Errand { program, arguments, environment, reads, writes, seconds } = errand;
        let table = RootTable::new(Vec::new(), Vec::new());
        let mut roots = Vec::new();
        let reads = reads.into_iter().map(|pattern| (FileRight::Read, pattern));
        let writes = writes.into_iter().map(|pattern| (FileRight::Write, pattern));
        for (at, (right, pattern)) in (1_u128..).zip(reads.chain(writes)) {
            let grant = GrantId::from_uuid(Uuid::from_u128(at));
            let opened = table.open_root(grant, &pattern, false).map_err(|error| error.to_failure())?;
            let spelled = Some(pattern).filter(|spelled| *spelled != opened.pattern);
            roots.push(SharedRoot { grant, right, pattern: opened.pattern, spelled });
        }
        let world = World { programs: vec![program.clone()], roots, until: None, network: ways.is_some() };
        let input = CommandRunInput {
            program: program.clone(),
            args: arguments,
            directory: None,
            stdin: None,
            timeout_seconds: seconds,
        };
        let call = ProgramCall {
            input,
            environment,
            executes: Executes::Shown,
            world: world.clone(),
            is_granted: true,
        };
        let mut worker = self.launch_worker().await.map_err(|error| {
            ToolFailure::new(
                ToolFailureKind::ConfinementUnavailable,
                format!("no worker can be had: {error}"),
            )
        })?;
        let opening = worker.open_program(&program, &world, &table);
        let mut prepared = self.prepare_program(call, opening, &table).await?;
        drop(worker.stop().await);
        let doorbell = prepared.take_doorbell();
        let serving = async {
            if let (Some(ways), Some(doorbell)) = (ways, doorbell) {
                ways.serve(doorbell).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            end = prepared.run(std::future::pending()) => end.result,
            never = serving => never,
        }
    }
}
