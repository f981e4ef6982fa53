//! How a goal ended, judged from what was observed.
//!
//! Invariants: prose never turns a failure into success; exit code 0 means `done` and nothing else does.

use aaos_agent::RunEnd;
use aaos_core::event::{GoalState, OutputObserved};
use aaos_core::exit::Exit;
use aaos_core::model::ModelFailureKind;
use aaos_core::name::AgentName;
use aaos_core::state::FailedChildren;
use aaos_core::toolio::StopReason;

use crate::error::KernelError;

/// What is known when a goal's agent has ended.
pub(crate) struct Facts<'f> {
    pub(crate) end: &'f RunEnd,
    pub(crate) outputs: Vec<OutputObserved>,
    pub(crate) timed_out: bool,
    pub(crate) failed_children: Option<&'f FailedChildren>,
    pub(crate) was_denied: bool,
}

/// How a goal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) state: GoalState,
    pub(crate) response: String,
    pub(crate) outputs: Vec<OutputObserved>,
    pub(crate) error: Option<String>,
    pub(crate) exit_code: u8,
}

impl Verdict {
    pub(crate) fn cancelled() -> Self {
        Self {
            state: GoalState::Cancelled,
            response: String::new(),
            outputs: Vec::new(),
            error: Some("the goal was cancelled".to_owned()),
            exit_code: Exit::Cancelled as u8,
        }
    }

    /// For a goal whose deadline passed before its turn came.
    pub(crate) fn too_late() -> Self {
        let error =
            "the goal's deadline passed while it waited for its turn; give it more time or a higher priority";
        Self {
            state: GoalState::Failed,
            response: String::new(),
            outputs: Vec::new(),
            error: Some(error.to_owned()),
            exit_code: Exit::Failed as u8,
        }
    }

    /// For a goal whose agent could not be started or driven.
    pub(crate) fn could_not_run(error: &KernelError, cancelled: bool) -> Self {
        if cancelled {
            return Self::cancelled();
        }
        let exit = match error {
            KernelError::Sandbox(_) => Exit::Confinement,
            KernelError::Provider(failure) => exit_of(failure.kind),
            KernelError::Denied(_) | KernelError::Approval(_) => Exit::Denied,
            KernelError::Budget { .. } => Exit::Budget,
            KernelError::Manifest(_) | KernelError::Invalid(_) => Exit::Usage,
            _ => Exit::Failed,
        };
        Self {
            state: GoalState::Failed,
            response: String::new(),
            outputs: Vec::new(),
            error: Some(error.to_string()),
            exit_code: exit as u8,
        }
    }
}

fn exit_of(kind: ModelFailureKind) -> Exit {
    match kind {
        ModelFailureKind::NotUnderstood | ModelFailureKind::WorkFailed => Exit::Failed,
        ModelFailureKind::UnknownModel => Exit::Usage,
        _ => Exit::Provider,
    }
}

/// Judges a goal whose agent ran.
pub(crate) fn judge(facts: Facts<'_>) -> Verdict {
    let (state, exit, error) = weigh(&facts);
    debug_assert_eq!(state == GoalState::Done, exit == Exit::Done, "0 means done");
    Verdict {
        state,
        response: facts.end.response.clone(),
        outputs: facts.outputs,
        error,
        exit_code: exit as u8,
    }
}

fn weigh(facts: &Facts<'_>) -> (GoalState, Exit, Option<String>) {
    let failed = |exit: Exit, why: String| (GoalState::Failed, exit, Some(why));
    if facts.timed_out {
        return failed(Exit::Failed, "the goal's deadline passed".to_owned());
    }
    match facts.end.stop_reason {
        StopReason::Complete => weigh_completed(facts),
        StopReason::Cancelled => {
            (GoalState::Cancelled, Exit::Cancelled, Some("the goal was cancelled".to_owned()))
        }
        StopReason::BudgetExceeded => {
            let why = facts.end.error.as_deref().unwrap_or("the goal's budget is used up");
            failed(
                Exit::Budget,
                format!(
                    "{why}; give the goal a larger budget (--budget-tokens, --budget-usd, --budget-seconds)"
                ),
            )
        }
        stop => {
            let why = facts.end.error.clone().unwrap_or_else(|| format!("its agent stopped: {stop:?}"));
            failed(facts.end.failure.map_or(Exit::Failed, exit_of), why)
        }
    }
}

fn weigh_completed(facts: &Facts<'_>) -> (GoalState, Exit, Option<String>) {
    let missing: Vec<String> = facts
        .outputs
        .iter()
        .filter(|output| !output.observed)
        .map(|output| format!("{} ({})", output.path, output.problem.as_deref().unwrap_or("not there")))
        .collect();
    if !missing.is_empty() {
        let exit = if facts.was_denied { Exit::Denied } else { Exit::Failed };
        let why =
            format!("the agent says it is done, but declared outputs are missing: {}", missing.join(", "));
        return (GoalState::Failed, exit, Some(why));
    }
    let failed = facts.failed_children.and_then(FailedChildren::first);
    if let (true, Some((child, reason))) = (facts.outputs.is_empty(), failed) {
        let child = child.map_or("with an unreadable manifest", AgentName::as_str);
        let why = format!("its child {child} failed: {reason}");
        return (GoalState::Failed, Exit::Failed, Some(why));
    }
    (GoalState::Done, Exit::Done, None)
}

#[cfg(test)]
mod tests {
    use super::{Facts, judge};
    use aaos_agent::RunEnd;
    use aaos_core::event::{GoalState, OutputObserved};
    use aaos_core::model::{ModelFailureKind, Usage};
    use aaos_core::name::AgentName;
    use aaos_core::path::AbsPath;
    use aaos_core::state::FailedChildren;
    use aaos_core::toolio::{StopReason, ToolFailure, ToolFailureKind};

    fn end(stop_reason: StopReason) -> RunEnd {
        RunEnd {
            response: "All files are written.".to_owned(),
            usage: Usage::default(),
            iterations: 1,
            stop_reason,
            error: None,
            failure: None,
        }
    }

    fn output(observed: bool) -> OutputObserved {
        OutputObserved {
            path: AbsPath::parse("/out/a.md").expect("path"),
            observed,
            size_bytes: None,
            content_hash: None,
            problem: None,
        }
    }

    fn facts(end: &RunEnd, outputs: Vec<OutputObserved>) -> Facts<'_> {
        Facts { end, outputs, timed_out: false, failed_children: None, was_denied: false }
    }

    #[test]
    fn a_claim_without_the_file_is_a_failure() {
        let end = end(StopReason::Complete);
        let verdict = judge(facts(&end, vec![output(false)]));
        assert_eq!((verdict.state, verdict.exit_code), (GoalState::Failed, 1));
        let denied = judge(Facts { was_denied: true, ..facts(&end, vec![output(false)]) });
        assert_eq!(denied.exit_code, 3);
        let verdict = judge(facts(&end, vec![output(true)]));
        assert_eq!((verdict.state, verdict.exit_code), (GoalState::Done, 0));
    }

    #[test]
    fn a_failed_child_fails_a_goal_without_outputs() {
        let end = end(StopReason::Complete);
        let mut failed = FailedChildren::default();
        let disk = ToolFailure::new(ToolFailureKind::ChildFailed, "disk");
        failed.note(Some(&AgentName::parse("writer").expect("name")), &Err(disk));
        let with = Facts { failed_children: Some(&failed), ..facts(&end, Vec::new()) };
        assert_eq!(judge(with).exit_code, 1);
        let observed = Facts { failed_children: Some(&failed), ..facts(&end, vec![output(true)]) };
        assert_eq!(judge(observed).exit_code, 0);
    }

    #[test]
    fn every_stop_has_its_exit_code() {
        let code = |stop, failure| {
            let end = RunEnd { failure, ..end(stop) };
            judge(facts(&end, vec![output(true)])).exit_code
        };
        assert_eq!(code(StopReason::Cancelled, None), 130);
        assert_eq!(code(StopReason::BudgetExceeded, None), 4);
        assert_eq!(code(StopReason::Error, Some(ModelFailureKind::Unauthorized)), 5);
        assert_eq!(code(StopReason::Error, Some(ModelFailureKind::NotUnderstood)), 1);
        assert_eq!(code(StopReason::Error, Some(ModelFailureKind::WorkFailed)), 1);
        assert_eq!(code(StopReason::Error, Some(ModelFailureKind::Rejected)), 5);
        assert_eq!(code(StopReason::MaxIterations, None), 1);
        assert_eq!(code(StopReason::Truncated, None), 1);
    }
}
