//! A grant: the record that an agent holds a capability.
//!
//! Invariant: a record is data. Holding one proves nothing; only the authority's table decides.

use serde::{Deserialize, Serialize};

use crate::capability::{Capability, Constraints, GrantSpec};
use crate::id::{AgentId, GrantId};
use crate::path::{AbsPath, PathPattern};
use crate::quantity::Timestamp;
use crate::special::SpecialFiles;

/// What identifies a granted root, so that recovery can reopen and compare it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RootIdentity {
    /// The directory that was opened, as the kernel names it (for an exact-file grant, the file's parent).
    pub path: AbsPath,
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since the epoch; 0 where the file system has none.
    pub birth_ns: u64,
}

/// One grant, as issued and as journalled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Its id.
    pub id: GrantId,
    /// Who holds it.
    pub agent: AgentId,
    /// The grant it derives from; `None` for a root grant of the operator.
    pub parent: Option<GrantId>,
    /// The authority. File patterns are resolved: their root is the directory that was opened.
    pub capability: Capability,
    /// The file pattern as the manifest spells it, where that differs from the resolved one: requests may use
    /// either spelling.
    pub spelled: Option<PathPattern>,
    /// Bounds, counted from `issued_at`.
    pub constraints: Constraints,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// The opened root of a file grant.
    pub root: Option<RootIdentity>,
    /// What a root of the operator's own held beside files and directories when it was granted, where there is something
    /// to tell of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special: Option<SpecialFiles>,
}

impl GrantRecord {
    /// As a manifest would write it, constraints as issued.
    #[must_use]
    pub fn spec(&self) -> GrantSpec {
        GrantSpec { capability: self.capability.clone(), constraints: self.constraints }
    }
}

/// A capability to be issued, after the runtime opened the root of a file grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRequest {
    /// The id it will have.
    pub id: GrantId,
    /// The authority wanted, file patterns resolved.
    pub capability: Capability,
    /// The manifest's spelling, where it differs.
    pub spelled: Option<PathPattern>,
    /// Bounds wanted.
    pub constraints: Constraints,
    /// The opened root of a file grant.
    pub root: Option<RootIdentity>,
    /// What was found below it; nothing below a root that derives from another.
    pub special: Option<SpecialFiles>,
}
