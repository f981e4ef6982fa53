//! Questions to a person, and what the answers cover.
//!
//! Invariants: a question shows what the runtime knows, never an agent's words about it. An answer covers one very
//! effect, or effects of one tool through the same grants; it binds an agent and its descendants and is used up.

use serde::{Deserialize, Serialize};

use crate::effect::Need;
use crate::id::{AgentId, ApprovalId, CallId, GrantId};
use crate::path::{AbsPath, PathPattern};

/// Why a person is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskedBecause {
    /// The tool is listed in `approval_required` of the agent, or of an ancestor.
    Tool,
    /// A grant that is used says `approval_required: true`, or derives from one that does.
    Grant(GrantId),
}

/// One question, as the authority puts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its id, and the id of the answer.
    pub id: ApprovalId,
    /// Who wants to act.
    pub agent: AgentId,
    /// The call that waits.
    pub call: CallId,
    /// Name of the tool or effect.
    pub effect: String,
    /// Hash of the effect with its arguments.
    pub digest: String,
    /// Why it is asked.
    pub because: AskedBecause,
    /// What it needs.
    pub needs: Vec<Need>,
    /// The grants that it uses.
    pub grants: Vec<GrantId>,
    /// Its arguments.
    pub input: serde_json::Value,
    /// What stands at the paths that it would change, as found when it was asked; filled in by the runtime.
    pub targets: Vec<Target>,
}

/// What stands at a path that would be changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The path, as the agent spells it.
    pub path: String,
    /// The directory that the grant's root is.
    pub root: String,
    /// Where the file really lies, links followed as the change would follow them.
    pub place: String,
    /// BLAKE3 of the content, hexadecimal, and for a script what starts it; in words what else stands there; absent where
    /// nothing does.
    pub content_hash: Option<String>,
}

/// What an answer covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalScope {
    /// This very effect, while what it would change is what the person was shown.
    Exactly {
        /// Its hash.
        digest: String,
        /// What stood at the paths that it would change.
        targets: Vec<Target>,
    },
    /// Every use of one tool through these grants, or grants derived from them.
    Tool {
        /// Name of the tool or effect.
        effect: String,
        /// The grants.
        grants: Vec<GrantId>,
        /// Where the files have to lie that it needs; anywhere when absent.
        below: Option<PathPattern>,
    },
}

/// An approval in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ApprovalGrant {
    /// The question that it answers.
    pub id: ApprovalId,
    /// The agent that may use it, with its descendants.
    pub holder: AgentId,
    /// What it covers.
    pub scope: ApprovalScope,
    /// How often it may be used.
    pub uses: u32,
}

impl ApprovalScope {
    /// Whether files are among the needs and all lie below an approved place. `..` may lead anywhere, so it lies
    /// nowhere.
    pub fn all_lie<'n>(needs: impl IntoIterator<Item = &'n Need>, below: &PathPattern) -> bool {
        let mut files = needs.into_iter().filter_map(|need| match need {
            Need::File { path, .. } => Some(path),
            Need::Tool(_)
            | Need::Host { .. }
            | Need::Spawn(_)
            | Need::Message(_)
            | Need::Exec(_)
            | Need::Program(_) => None,
        });
        let lies = |path: &AbsPath| !path.has_parent_component() && below.matches(path).is_some();
        files.next().is_some_and(lies) && files.all(lies)
    }
}
