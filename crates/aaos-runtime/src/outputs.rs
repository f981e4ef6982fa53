//! Declared outputs, observed: a goal succeeds by files, not by words.
//!
//! Invariant: an output counts only as a regular file below a write grant of the goal's root agent, reached
//! without links, and created or changed since the goal began.

use std::sync::Arc;

use aaos_core::event::OutputObserved;
use aaos_core::id::GrantId;
use aaos_core::path::AbsPath;
use aaos_sandbox::{ObservedFile, RootError};

use crate::kernel::Kernel;
use crate::registry::Agent;
use crate::spawn::off_thread;

/// What is to be seen at a declared output.
#[derive(Debug)]
enum Look {
    /// A file that would count.
    File(ObservedFile),
    /// Nothing is there.
    Absent(String),
    /// Something that does not count, or nobody can tell.
    Unusable(String),
}

/// What stood at each declared output before the goal began.
#[derive(Debug)]
pub(crate) struct Before {
    outputs: Vec<(AbsPath, Look)>,
}

impl Kernel {
    /// Looks at the declared outputs before the first turn.
    pub(crate) async fn outputs_before(&self, agent: &Arc<Agent>, outputs: &[AbsPath]) -> Before {
        let mut seen = Vec::with_capacity(outputs.len());
        for path in outputs {
            seen.push((path.clone(), self.look(agent, path).await));
        }
        Before { outputs: seen }
    }

    /// Looks at them again when the goal's agent has finished.
    pub(crate) async fn outputs_after(&self, agent: &Arc<Agent>, before: Before) -> Vec<OutputObserved> {
        let mut observed = Vec::with_capacity(before.outputs.len());
        for (path, earlier) in before.outputs {
            let found = match (earlier, self.look(agent, &path).await) {
                (Look::File(earlier), Look::File(now)) if earlier == now => {
                    Err("it is there, but was not changed since the goal began".to_owned())
                }
                // Without knowing what stood there before, no one can say that it was changed.
                (Look::Unusable(why), Look::File(_)) => Err(format!("before the goal began: {why}")),
                (_, Look::File(now)) => Ok(now),
                (_, Look::Absent(why) | Look::Unusable(why)) => Err(why),
            };
            observed.push(judged(path, found));
        }
        observed
    }

    async fn look(&self, agent: &Arc<Agent>, path: &AbsPath) -> Look {
        let Some((grant, relative)) = self.write_grant(agent, path) else {
            return Look::Unusable("no write grant of the goal's agent holds it".to_owned());
        };
        let (roots, path) = (self.roots().clone(), path.clone());
        match off_thread(move || roots.observe_output(&path, grant, &relative)).await {
            Ok(Ok(file)) => Look::File(file),
            Ok(Err(error @ RootError::NotFound { .. })) => Look::Absent(error.to_string()),
            Ok(Err(error)) => Look::Unusable(error.to_string()),
            Err(error) => Look::Unusable(error.to_string()),
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
