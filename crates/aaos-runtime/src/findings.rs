//! What a parent hands to a child beside its message: text of its own, or what the journal recorded of another child.
//!
//! Invariant: a result that is named stands in the child's message as it was recorded, whatever the parent says of it;
//! an id that is none of the parent's children answers as an unknown one.

use aaos_agent::{RecordedAnswer, wrap_findings, wrap_recorded};
use aaos_core::event::Event;
use aaos_core::id::AgentId;
use aaos_core::limits::MAX_PRIOR_FINDINGS_BYTES;
use aaos_core::name::AgentName;
use aaos_core::quantity::{Bytes, Timestamp};
use aaos_core::toolio::{PriorFindings, SpawnAgentInput, SpawnAgentOutput, ToolFailure, ToolFailureKind};

use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::registry::Agent;

/// How a child ended, as its parent was told.
struct Recorded {
    name: AgentName,
    at: Timestamp,
    output: SpawnAgentOutput,
}

impl Kernel {
    /// The child's first message: what its parent hands over, labelled as data, then what it is asked.
    pub(crate) async fn child_message(
        &self,
        parent: &Agent,
        input: &SpawnAgentInput,
    ) -> Result<String, ToolFailure> {
        let Some(findings) = &input.prior_findings else { return Ok(input.message.clone()) };
        let (handing, now) = (&parent.manifest.name, self.clock().now());
        let nonce = self.clock().fresh().simple().to_string();
        let block = match findings {
            PriorFindings::Text(text) if text.len() > MAX_PRIOR_FINDINGS_BYTES => {
                let why = "prior_findings are over 32 KiB; put long data into a workspace file";
                return Err(ToolFailure::new(ToolFailureKind::InvalidArguments, why));
            }
            PriorFindings::Text(text) => wrap_findings(handing, now, &nonce, text),
            PriorFindings::Recorded(named) => {
                let recorded = self.recorded(parent, named.result).await?;
                wrap_recorded(handing, now, &nonce, &answer_of(&recorded, named.result)?)
            }
        };
        Ok(format!("{block}\n\n{}", input.message))
    }

    /// How this child of the parent ended.
    async fn recorded(&self, parent: &Agent, child: AgentId) -> Result<Recorded, ToolFailure> {
        let mut found = None;
        self.each_child_ended(parent, |entry| {
            if let Event::ChildEnded { name: Some(name), outcome: Ok(output), .. } = entry.event
                && output.agent_id == Some(child)
            {
                found = Some(Recorded { name, at: entry.timestamp, output });
            }
        })
        .await
        .map_err(KernelError::into_tool_failure)?;
        found.ok_or_else(|| {
            let why = format!(
                "no child of yours that ended has the id {child}; \
                 a result is named by the agent_id that spawn_agent or spawn_agents returned"
            );
            ToolFailure::new(ToolFailureKind::NotFound, why)
        })
    }
}

/// What of it is handed on: as much of the answer as fits.
fn answer_of(recorded: &Recorded, child: AgentId) -> Result<RecordedAnswer<'_>, ToolFailure> {
    let Recorded { name, at, output } = recorded;
    let stop_reason = output.stop_reason.ok_or_else(|| {
        let why = format!("the child {child} never ran, so it has no result");
        ToolFailure::new(ToolFailureKind::NotFound, why)
    })?;
    let text = &output.response;
    let text = &text[..text.floor_char_boundary(MAX_PRIOR_FINDINGS_BYTES)];
    let full = Bytes(output.response.len() as u64);
    Ok(RecordedAnswer { child, name, at: *at, stop_reason, text, full })
}
