//! Files of a workspace, put there again from what is known of them.
//!
//! Invariants: as for every write: one rename of a complete, synced file, below a root that is open; no link is
//! followed or replaced. Putting the same content there once more changes nothing else.

use aaos_core::id::{CallId, GrantId};
use aaos_core::toolio::ToolFailure;

use crate::beneath::Links;
use crate::commit::{Write, WriteMode, commit};
use crate::roots::RootTable;

impl RootTable {
    /// Makes `content` the file at `relative` below the grant's root, with the directories on the way. `shown` is its
    /// name in messages, `call` the one of a file that is not complete. Blocks on the file system.
    ///
    /// # Errors
    /// [`ToolFailure`]: it cannot be written there; nothing was then.
    pub fn put_file(
        &self,
        grant: GrantId,
        relative: &str,
        shown: &str,
        content: &[u8],
        call: CallId,
    ) -> Result<(), ToolFailure> {
        let root = self.root(grant).map_err(|error| error.to_failure())?;
        let (mode, links) = (&WriteMode::Replace, Links::Refuse);
        let write = Write { call, repeated: true, relative, shown, content, mode, links };
        match commit(self, &root, &write) {
            Ok(size) => {
                assert_eq!(size, content.len() as u64, "a file that is replaced has the size of its content");
                Ok(())
            }
            Err(error) => Err(error.to_failure()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use aaos_core::id::{CallId, GrantId};
    use aaos_core::path::PathPattern;
    use aaos_core::toolio::ToolFailureKind;
    use testkit::scratch;
    use uuid::Uuid;

    use crate::roots::RootTable;

    const GRANT: GrantId = GrantId::from_uuid(Uuid::from_u128(1));
    const CALL: CallId = CallId::from_uuid(Uuid::from_u128(2));

    #[test]
    fn files_are_put_below_the_root_once_or_again_and_through_no_link() {
        let home = scratch();
        let root = home.path().join("workspace");
        fs::create_dir(&root).expect("made");
        let table = RootTable::new(Vec::new(), Vec::new());
        let pattern = PathPattern::parse(&format!("{}/*", root.display())).expect("a pattern");
        table.open_root(GRANT, &pattern, false).expect("opened");
        let put = |relative: &str, content: &str| {
            table.put_file(GRANT, relative, relative, content.as_bytes(), CALL)
        };
        for content in ["one", "one", "two, and longer"] {
            put("a/b/c.md", content).expect("put");
            assert_eq!(fs::read_to_string(root.join("a/b/c.md")).expect("there"), content);
        }
        assert_eq!(fs::read_dir(root.join("a/b")).expect("there").count(), 1, "and nothing beside it");

        let outside = home.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("f"), "theirs").expect("written");
        symlink(&outside, root.join("way")).expect("linked");
        symlink(outside.join("f"), root.join("link")).expect("linked");
        for (relative, kind) in
            [("way/f", ToolFailureKind::OutsideRoot), ("../outside/f", ToolFailureKind::OutsideRoot)]
        {
            assert_eq!(put(relative, "ours").expect_err("a way out").kind, kind, "{relative}");
        }
        put("link", "ours").expect_err("a link");
        assert_eq!(fs::read_to_string(outside.join("f")).expect("there"), "theirs");
        table.close(GRANT);
        assert_eq!(put("d", "late").expect_err("closed").kind, ToolFailureKind::Denied);
    }
}
