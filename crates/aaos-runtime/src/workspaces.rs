//! Workspaces of goals that ended are removed after a while (SPEC §6).
//!
//! Invariants: nothing of an open goal is touched; a removal follows no link and leaves no mount; each is in the journal.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use aaos_core::event::Event;
use aaos_core::id::GoalId;
use aaos_core::limits::WORKSPACE_KEPT_MS;
use aaos_core::quantity::{Millis, Timestamp};
use aaos_sandbox::remove_workspace;

use crate::kernel::Kernel;
use crate::spawn::off_thread;

/// How often is looked for old ones.
const ROUND: Duration = Duration::from_secs(3600);

impl Kernel {
    /// Removes old workspaces now and then, until the kernel closes.
    pub(crate) async fn clean_workspaces(&self) {
        loop {
            let workspaces = self.config().workspaces.clone();
            let names = off_thread(move || names_in(&workspaces)).await.unwrap_or_default();
            for goal in names.iter().filter_map(|name| name.to_str()?.parse::<GoalId>().ok()) {
                if self.is_closing() {
                    return;
                }
                let workspace = self.config().workspaces.join(goal.to_string());
                let changed = off_thread(move || changed_at(&workspace)).await.ok().flatten();
                if self.is_expired(goal, changed) {
                    self.clean_workspace(goal).await;
                }
            }
            tokio::select! {
                () = self.clock().sleep(ROUND) => {}
                () = self.closing().cancelled() => return,
            }
        }
    }

    /// `changed` is when the workspace last was.
    fn is_expired(&self, id: GoalId, changed: Option<Timestamp>) -> bool {
        let now = self.clock().now();
        let table = self.table();
        match table.goals.get(&id) {
            Some(goal) => goal.ended_at.is_some_and(|ended| is_old(ended, now)),
            // It is over, but its entries were archived, and with them when it ended.
            None => over_since(made_at(id), changed).is_some_and(|since| is_old(since, now)),
        }
    }

    async fn clean_workspace(&self, id: GoalId) {
        let (workspaces, name) = (self.config().workspaces.clone(), id.to_string());
        let removed = match off_thread(move || remove_workspace(&workspaces, &name)).await {
            Ok(Ok(removed)) => removed,
            Ok(Err(error)) => {
                return tracing::warn!(%error, goal = %id, "an old workspace could not be removed");
            }
            Err(error) => return tracing::warn!(%error, goal = %id, "an old workspace could not be removed"),
        };
        let left = removed.left.map(|left| format!("{}: {}", left.path, left.why));
        let event = Event::WorkspaceRemoved { entries: removed.entries, left };
        self.record_or_log(self.entry(Some(id), None, event)).await;
    }
}

/// The earliest that a goal can have ended which nothing is known of but its id and its workspace: not before it began,
/// and not before it made the last file.
fn over_since(made: Option<Timestamp>, changed: Option<Timestamp>) -> Option<Timestamp> {
    Some(made?.max(changed?))
}

/// When a directory last got or lost an entry.
fn changed_at(directory: &Path) -> Option<Timestamp> {
    let since =
        std::fs::symlink_metadata(directory).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Timestamp)
}

fn is_old(since: Timestamp, now: Timestamp) -> bool {
    now.since(since) >= Millis(WORKSPACE_KEPT_MS)
}

/// When an id was made: a UUID of version 7 bears its time (RFC 9562).
fn made_at(id: GoalId) -> Option<Timestamp> {
    let (seconds, nanos) = id.as_uuid().get_timestamp()?.to_unix();
    Some(Timestamp(seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000))))
}

fn names_in(directory: &Path) -> Vec<OsString> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "the workspaces cannot be listed");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_old, made_at, over_since};
    use aaos_core::id::GoalId;
    use aaos_core::limits::WORKSPACE_KEPT_MS;
    use aaos_core::quantity::Timestamp;

    #[test]
    fn a_week_is_kept_to_the_millisecond() {
        let ended = Timestamp(1_000);
        assert!(!is_old(ended, Timestamp(1_000 + WORKSPACE_KEPT_MS - 1)));
        assert!(is_old(ended, Timestamp(1_000 + WORKSPACE_KEPT_MS)));
        assert!(!is_old(ended, Timestamp(0)), "a clock that went back makes nothing old");
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let id: GoalId = "01a204db-0117-7794-8b0d-a2deded60755".parse().expect("an id");
        assert_eq!(made_at(id), Some(Timestamp(0x01a2_04db_0117)));
        let unordered: GoalId = "7d444840-9dc0-41d1-b245-5ffdce74fad2".parse().expect("an id");
        assert_eq!(made_at(unordered), None, "one of another version says nothing");
    }

    #[test]
    fn what_changed_later_than_it_was_begun_is_kept_from_then_on() {
        let (early, late) = (Some(Timestamp(1)), Some(Timestamp(2)));
        assert_eq!((over_since(early, late), over_since(late, early)), (late, late));
        assert_eq!(
            (over_since(early, None), over_since(None, late)),
            (None, None),
            "what is unknown is kept"
        );
    }
}
