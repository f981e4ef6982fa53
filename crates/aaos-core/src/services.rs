//! The agent ABI: what a mind may ask of the kernel, whatever substrate it runs on.
//!
//! Invariant: small, versioned, free of Linux words. A request carries no identity: the kernel knows the agent
//! by the channel the request came through. Today it is served in process to built-in minds.

use serde::{Deserialize, Serialize};

use crate::model::{CallResult, ModelCall, ModelFailure, ModelReply, ModelRequest, Usage};
use crate::quantity::Quantity;

/// Version of this interface; a far end that speaks another major version is refused.
pub const AGENT_ABI_VERSION: u32 = 1;

/// What a mind asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceRequest {
    /// Ask a model.
    AskModel(Box<ModelRequest>),
    /// Ask a model for a summary of the agent's own conversation.
    Summarise {
        /// What it is asked.
        request: Box<ModelRequest>,
        /// How many of the newest messages are left out.
        keeps: u64,
    },
    /// Invoke a tool, as the model asked for it; validated by the kernel. Spawning is a tool too.
    InvokeTool(ModelCall),
    /// Say what was used so far.
    ReportUsage(Usage),
}

/// What the kernel answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceReply {
    /// The model's reply.
    Model(Box<ModelReply>),
    /// The model could not be asked.
    ModelFailed(ModelFailure),
    /// The purse cannot cover it.
    BudgetExceeded {
        /// Of what.
        quantity: Quantity,
        /// What is left.
        remaining: u64,
    },
    /// The tool's result, ready to be shown to the model (failures and denials too).
    ToolResult(CallResult),
    /// Noted.
    Ok,
    /// The agent is being stopped; no further request will be served.
    Cancelled,
}

/// The kernel's side of the agent ABI.
pub trait AgentServices: Send + Sync {
    /// Serves one request of the agent that this value belongs to.
    fn serve(&self, request: ServiceRequest) -> impl Future<Output = ServiceReply> + Send;
}
