//! Declared outputs, observed: a goal succeeds by files, not by words.
//!
//! Invariant: an output counts only as a regular file below a write grant of the goal's root agent, reached
//! without links, and created or changed since the goal began.

use std::sync::Arc;

use aaos_core::event::OutputObserved;
use aaos_core::id::GrantId;
use aaos_core::path::AbsPath;
use aaos_sandbox::ObservedFile;

use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::spawn::off_thread;

/// What stood at each declared output before the goal began.
#[derive(Debug)]
pub(crate) struct Before {
    outputs: Vec<(AbsPath, Option<ObservedFile>)>,
}

impl Kernel {
    /// Looks at the declared outputs before the first turn.
    pub(crate) async fn outputs_before(&self, agent: &Arc<Agent>, outputs: &[AbsPath]) -> Before {
        let mut seen = Vec::with_capacity(outputs.len());
        for path in outputs {
            let file = self.look(agent, path).await.ok();
            seen.push((path.clone(), file));
        }
        Before { outputs: seen }
    }

    /// Looks at them again when the goal's agent has finished.
    pub(crate) async fn outputs_after(&self, agent: &Arc<Agent>, before: Before) -> Vec<OutputObserved> {
        let mut observed = Vec::with_capacity(before.outputs.len());
        for (path, earlier) in before.outputs {
            let found = match self.look(agent, &path).await {
                Ok(file) if earlier.as_ref() == Some(&file) => {
                    Err("it is there, but was not changed since the goal began".to_owned())
                }
                other => other,
            };
            observed.push(judged(path, found));
        }
        observed
    }

    async fn look(&self, agent: &Arc<Agent>, path: &AbsPath) -> Result<ObservedFile, String> {
        let (grant, relative) =
            self.write_grant(agent, path).ok_or("no write grant of the goal's agent holds it")?;
        let (roots, path) = (self.roots().clone(), path.clone());
        off_thread(move || roots.observe_output(&path, grant, &relative))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
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

fn judged(path: AbsPath, found: Result<ObservedFile, String>) -> OutputObserved {
    match found {
        Ok(file) => OutputObserved {
            path,
            observed: true,
            size_bytes: Some(file.size_bytes),
            content_hash: Some(file.content_hash),
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
