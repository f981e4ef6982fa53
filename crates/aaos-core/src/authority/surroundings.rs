//! What a program is shown of its agent's grants: an authorisation of one program is one of its whole world.
//!
//! Invariants: a program uses a grant as often as it likes and asks nobody, so a grant whose uses are counted, or about
//! which a person is to be asked, is no part of its world; neither is one that its holder may only hand on. What is
//! changed by a program is not counted, so where a purse bounds that, it may change nothing. Each of its connections is
//! an effect of its own, which is decided, counted and asked about by itself: here stands only whether there can be any.

use crate::capability::Capability;
use crate::effect::{FileRight, Need};
use crate::id::GrantId;
use crate::known::KnownProgram;
use crate::quantity::{Quantity, Timestamp};
use crate::tool::{CommandRun, Tool};
use crate::world::{SharedRoot, World};

use super::narrow::covers;
use super::table::GrantIx;
use super::{AgentIx, AgentNode, Authority};

/// Tools that read files; where a person is asked about one of them, a program does not read past the question.
const READING: [&str; 4] = ["file_read", "file_read_many", "file_list", "grep"];
/// Tools that change files, likewise.
const WRITING: [&str; 2] = ["file_write", "file_edit"];
/// Tools that reach the network, likewise.
const REACHING: [&str; 1] = ["web_fetch"];

/// A world, and the grants that it is made of beside the one that is used.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) world: World,
    pub(super) through: Vec<GrantId>,
}

impl Surroundings {
    /// It lasts no longer than this grant does.
    fn lasts(&mut self, expires_at: Option<Timestamp>) {
        self.world.until = self.world.until.into_iter().chain(expires_at).min();
    }
}

impl Authority {
    /// The world of a program that is started under the chosen grant, because of this need.
    pub(super) fn surroundings(
        &self,
        at: AgentIx,
        chosen: GrantIx,
        need: &Need,
        now: Timestamp,
    ) -> Surroundings {
        let node = self.agents.at(at);
        let (tool, company) = match need {
            Need::Program(known) => (known.tool(), Company::of(*known)),
            _ => (CommandRun::NAME, Company::Free),
        };
        let is_free = company == Company::Free;
        let free = |ix: &&GrantIx| self.is_free(at, **ix, now);
        let mut found = Surroundings::default();
        found.lasts(self.grants.expires_at(chosen));
        for ix in node.index.exec.iter().filter(|ix| **ix == chosen || (is_free && free(ix))) {
            if let Capability::Exec(program) = &self.grants.record(*ix).capability {
                found.world.programs.push(program.clone());
            }
            if *ix != chosen {
                found.through.push(self.grants.id(*ix));
                found.lasts(self.grants.expires_at(*ix));
            }
        }
        let readable = node.index.read.all().iter().filter(|_| !asks_around(node, tool, &READING));
        let changeable = node.index.write.all().iter().filter(|_| is_free && self.may_change(at, tool, now));
        for ix in readable.chain(changeable).filter(free) {
            found.world.roots.extend(self.shared(*ix));
            found.through.push(self.grants.id(*ix));
            found.lasts(self.grants.expires_at(*ix));
        }
        found.world.network = is_free && self.may_connect(node, tool, now);
        found
    }

    /// Whether some host can be reached at all.
    fn may_connect(&self, node: &AgentNode, tool: &str, now: Timestamp) -> bool {
        let mut held = node.index.network.iter().chain(&node.index.web);
        !asks_around(node, tool, &REACHING) && held.any(|ix| self.grants.usable(*ix, now).is_ok())
    }

    /// Whether a grant may be used any number of times without a question.
    fn is_free(&self, at: AgentIx, ix: GrantIx, now: Timestamp) -> bool {
        let own = &self.grants.record(ix).capability;
        // A wider grant is no way round a narrower one that asks.
        let meets = |asking: &Capability| covers(asking, own) || covers(own, asking);
        !self.grants.is_counted(ix)
            && !self.grants.asks(ix)
            && self.grants.usable(ix, now).is_ok()
            && !self.asking(at).any(|asking| meets(&asking.capability))
    }

    fn may_change(&self, at: AgentIx, tool: &str, now: Timestamp) -> bool {
        let is_bounded = |quantity| self.remaining(at, quantity, now).is_some();
        !asks_around(self.agents.at(at), tool, &WRITING)
            && !is_bounded(Quantity::WrittenBytes)
            && !is_bounded(Quantity::Files)
    }

    fn shared(&self, ix: GrantIx) -> Option<SharedRoot> {
        let record = self.grants.record(ix);
        let (right, pattern) = match &record.capability {
            Capability::FileRead(pattern) => (FileRight::Read, pattern.clone()),
            Capability::FileWrite(pattern) => (FileRight::Write, pattern.clone()),
            _ => return None,
        };
        Some(SharedRoot { grant: record.id, right, pattern, spelled: record.spelled.clone() })
    }
}

/// What a program has beside it of its agent's grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    /// All that may be used freely.
    Free,
    /// Directories to read, and no other program.
    ToRead,
}

impl Company {
    const fn of(known: KnownProgram) -> Self {
        match known {
            KnownProgram::Git => Self::ToRead,
            KnownProgram::Cargo | KnownProgram::Rustc => Self::Free,
        }
    }
}

/// Whether a person is asked about one of these tools and not about the one that starts the program.
fn asks_around(node: &AgentNode, starting: &str, tools: &[&str]) -> bool {
    let asks = |tool: &str| node.approval_required.iter().any(|one| one.as_str() == tool);
    !asks(starting) && tools.iter().any(|tool| asks(tool))
}
