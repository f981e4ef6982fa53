//! What a program sees around it: the programs it may start through, and the granted directories.
//!
//! Invariant: a world is data. It is put together by the authority in the step that authorises the call, and every
//! grant in it stands in the access's `through`, so that a revocation of any of them ends the call. It lasts as long as
//! all of them do.

use serde::{Deserialize, Serialize};

use crate::effect::FileRight;
use crate::id::GrantId;
use crate::path::{AbsPath, PathPattern};
use crate::quantity::Timestamp;

/// The world of one program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Programs that may be started, the asked one included: a script's interpreter has to be among them.
    pub programs: Vec<AbsPath>,
    /// Directories and files that it is shown.
    pub roots: Vec<SharedRoot>,
    /// When the first of its grants expires: nothing runs in it any more then. Never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whether it finds a proxy: its agent holds a grant of hosts. Where a connection may go is decided for each.
    #[serde(default)]
    pub network: bool,
}

/// One granted root, as a program is shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRoot {
    /// Under which grant.
    pub grant: GrantId,
    /// For reading, or for changing.
    pub right: FileRight,
    /// What it is, links resolved.
    pub pattern: PathPattern,
    /// As the manifest spells it, where that differs.
    pub spelled: Option<PathPattern>,
}
