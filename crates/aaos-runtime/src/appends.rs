//! Appends: each goes on from a known size of its file, so that after a restart it is not applied twice.
//!
//! Invariants: the size is looked at after the call was authorised and before its intent is journalled, and nobody else
//! in this daemon appends to the same place until the call has its outcome. Looking changes nothing; what cannot be
//! looked at is left to the call itself, which tells why.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aaos_core::effect::{Access, Authorized, FileRight, Need};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::tool::{ToolCall, ToolInput};
use aaos_core::toolio::ToolFailure;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::dispatch::cancelled;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::spawn::off_thread;

/// Places in the table before those that nobody holds any more are swept out.
const SWEEP_AT: usize = 256;

/// Held from the look at a file's size until the append to it has its outcome.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// The places that are appended to right now.
#[derive(Debug, Default)]
pub(crate) struct AppendTurns(Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>);

impl AppendTurns {
    fn at(&self, place: PathBuf) -> Arc<tokio::sync::Mutex<()>> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= SWEEP_AT {
            places.retain(|_, held| held.strong_count() > 0);
        }
        let held = places.entry(place).or_default();
        held.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *held = Arc::downgrade(&fresh);
            fresh
        })
    }
}

/// Where an append goes.
struct Place {
    path: AbsPath,
    access: Access,
}

impl Place {
    /// Of an append; nothing for any other call.
    fn of(call: &ToolCall, all: &[Access]) -> Option<Self> {
        let ToolInput::FileWrite(input) = &call.input else { return None };
        let writes = |access: &&Access| matches!(&access.need, Need::File { right: FileRight::Write, .. });
        let access = all.iter().find(writes).filter(|_| input.append)?.clone();
        Some(Self { path: input.path.clone(), access })
    }
}

impl Kernel {
    /// Notes in an authorised append the size that it goes on from, once no other append to the same place runs.
    pub(crate) async fn positioned(
        &self,
        stop: &CancellationToken,
        authorized: Authorized<ToolCall>,
    ) -> Result<(Authorized<ToolCall>, Option<Turn>), ToolFailure> {
        let Some(place) = Place::of(authorized.effect(), &authorized.parts().all) else {
            return Ok((authorized, None));
        };
        let turn = self.append_turn(stop, &place).await?;
        let at = match &turn {
            Some(_) => self.look_at_size(&place).await.map_err(KernelError::into_tool_failure)?,
            None => None,
        };
        Ok((at.into_iter().fold(authorized, Authorized::positioned), turn))
    }

    /// The turn of an append that an earlier daemon began.
    pub(crate) async fn turn_again(
        &self,
        stop: &CancellationToken,
        call: &ToolCall,
        all: &[Access],
    ) -> Result<Option<Turn>, ToolFailure> {
        match Place::of(call, all) {
            Some(place) => self.append_turn(stop, &place).await,
            None => Ok(None),
        }
    }

    async fn append_turn(
        &self,
        stop: &CancellationToken,
        place: &Place,
    ) -> Result<Option<Turn>, ToolFailure> {
        let (roots, path, access) = (self.roots().clone(), place.path.clone(), place.access.clone());
        let look = move || {
            let below = access.relative.as_deref().unwrap_or_default();
            roots.place_of(&path, access.grant, below, access.no_links)
        };
        let Ok(place) = off_thread(look).await.map_err(KernelError::into_tool_failure)? else {
            return Ok(None);
        };
        let turn = self.append_turns().at(place);
        tokio::select! {
            turn = turn.lock_owned() => Ok(Some(turn)),
            () = stop.cancelled() => Err(cancelled()),
            () = self.closing().cancelled() => Err(cancelled()),
        }
    }

    async fn look_at_size(&self, place: &Place) -> Result<Option<Bytes>, KernelError> {
        let (roots, path, access) = (self.roots().clone(), place.path.clone(), place.access.clone());
        let look = move || {
            let below = access.relative.as_deref().unwrap_or_default();
            roots.append_position(&path, access.grant, below, access.no_links)
        };
        Ok(off_thread(look).await?.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::{AppendTurns, SWEEP_AT};

    #[test]
    fn one_place_has_one_turn_and_free_places_are_swept() {
        let turns = AppendTurns::default();
        let first = turns.at("/a".into());
        let held = first.try_lock().expect("free");
        assert!(turns.at("/a".into()).try_lock().is_err(), "the same place waits");
        assert!(turns.at("/b".into()).try_lock().is_ok(), "another one does not");
        for number in 0..2 * SWEEP_AT {
            assert!(turns.at(format!("/c{number}").into()).try_lock().is_ok());
        }
        assert!(turns.0.lock().expect("whole").len() <= SWEEP_AT, "what nobody holds is swept out");
        assert!(turns.at("/a".into()).try_lock().is_err(), "what is held stays");
        drop(held);
        assert!(turns.at("/a".into()).try_lock().is_ok());
    }
}
