//! Declared outputs, observed: a goal succeeds by files, not by words.
//!
//! Invariant: an output counts only as a regular file below a write grant of the goal's root agent, reached
//! without links, and created or changed since the goal began.

use std::sync::Arc;

use aaos_core::event::{OutputBefore, OutputObserved, Seen};
use aaos_core::id::GrantId;
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_sandbox::{ObservedFile, RootError};

use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::spawn::off_thread;

impl Kernel {
    /// Looks at the declared outputs before the first turn.
    pub(crate) async fn outputs_before(&self, agent: &Arc<Agent>, outputs: &[AbsPath]) -> Vec<OutputBefore> {
        let mut before = Vec::with_capacity(outputs.len());
        for path in outputs {
            before.push(OutputBefore { path: path.clone(), seen: self.look(agent, path).await });
        }
        before
    }

    /// Looks at them again when the goal's agent has finished.
    pub(crate) async fn outputs_after(
        &self,
        agent: &Arc<Agent>,
        before: Vec<OutputBefore>,
    ) -> Vec<OutputObserved> {
        let mut observed = Vec::with_capacity(before.len());
        for OutputBefore { path, seen: earlier } in before {
            let found = match (earlier, self.look(agent, &path).await) {
                (earlier @ Seen::File { .. }, now) if earlier == now => {
                    Err("it is there, but was not changed since the goal began".to_owned())
                }
                // Without knowing what stood there before, no one can say that it was changed.
                (Seen::Unusable { why }, Seen::File { .. }) => Err(format!("before the goal began: {why}")),
                (_, Seen::File { size_bytes, content_hash, .. }) => Ok((size_bytes, content_hash)),
                (_, Seen::Absent { why } | Seen::Unusable { why }) => Err(why),
            };
            observed.push(judged(path, found));
        }
        observed
    }

    async fn look(&self, agent: &Arc<Agent>, path: &AbsPath) -> Seen {
        let Some((grant, relative)) = self.write_grant(agent, path) else {
            return Seen::Unusable { why: "no write grant of the goal's agent holds it".to_owned() };
        };
        let (roots, path) = (self.roots().clone(), path.clone());
        match off_thread(move || roots.observe_output(&path, grant, &relative)).await {
            Ok(Ok(ObservedFile { size_bytes, content_hash, modified })) => {
                Seen::File { size_bytes, content_hash, modified }
            }
            Ok(Err(error @ RootError::NotFound { .. })) => Seen::Absent { why: error.to_string() },
            Ok(Err(error)) => Seen::Unusable { why: error.to_string() },
            Err(error) => Seen::Unusable { why: error.to_string() },
        }
    }

    /// The write grant that holds a path, and the path below its root.
    fn write_grant(&self, agent: &Agent, path: &AbsPath) -> Option<(GrantId, String)> {
        let grants = self.authority().grants_of(agent.id);
        grants.into_iter().find_map(|grant| {
            let aaos_core::capability::Capability::FileWrite(pattern) = &grant.capability else {
                return None;
            };
            let rest = grant.spelled.as_ref().and_then(|spelled| spelled.matches(path));
            let rest = rest.or_else(|| pattern.matches(path))?;
            Some((grant.id, rest.to_owned()))
        })
    }
}

fn judged(path: AbsPath, found: Result<(Bytes, String), String>) -> OutputObserved {
    match found {
        Ok((size_bytes, content_hash)) => OutputObserved {
            path,
            observed: true,
            size_bytes: Some(size_bytes),
            content_hash: Some(content_hash),
            problem: None,
        },
        Err(problem) => OutputObserved {
            path,
            observed: false,
            size_bytes: None,
            content_hash: None,
            problem: Some(problem),
        },
    }
}
/// Declared outputs at which nothing was.
pub(crate) fn absent(before: &[OutputBefore]) -> Vec<AbsPath> {
    let absent = before.iter().filter(|one| matches!(one.seen, Seen::Absent { .. }));
    absent.map(|one| one.path.clone()).collect()
}
