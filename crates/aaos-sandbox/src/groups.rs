//! The control groups (cgroup v2) of this daemon's far processes: one sub-tree, and in it one leaf for each process.
//!
//! Invariants: a group that holds processes of somebody else is never changed, but for the root of the hierarchy, which
//! may hold any; nobody is moved but this process and process 1 where that stands in for it; what an earlier daemon left
//! under the same name is ended and removed before anything is made; the tree goes away with its last handle, and the
//! daemon is back where it was. Groups that cannot be had are a reason in words, which every receipt repeats.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aaos_confine::makes_processes_in_groups;

use crate::leaf::{GroupLimits, Leaf, end_group};

/// Without these nothing is limited.
const NEEDED: [&str; 2] = ["memory", "pids"];
/// These are used where they are.
const WELCOME: [&str; 2] = ["cpu", "io"];
/// The leaf of the daemon itself, where it had to leave its group: one that has children with limits holds no process.
const HOME: &str = "agentd";

/// Why there are no control groups for far processes.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// Nobody asked for any.
    #[error("none was asked for")]
    NotAsked,
    /// `clone3` is filtered away.
    #[error("clone3 is refused here, as in some containers")]
    Filtered,
    /// No cgroup2 file system, or the caller's group is not below it.
    #[error("no cgroup2 file system shows the group of this process")]
    NotMounted,
    /// Other processes live in the caller's group.
    #[error(
        "the group {group} has {others} other processes; start agentd in one of its own (systemd: Delegate=yes)"
    )]
    Shared {
        /// The caller's group.
        group: String,
        /// How many others.
        others: usize,
    },
    /// The kernel has not given these controllers to the group.
    #[error("the group {group} has no controller {missing}")]
    NoController {
        /// The group that would hold the tree.
        group: String,
        /// What it lacks.
        missing: &'static str,
    },
    /// A step failed.
    #[error("{step} failed ({source})")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> GroupsError {
    move |source| GroupsError::Failed { step, source }
}

/// What a sub-tree is called: a daemon finds the one that an earlier daemon of the same state left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupName(String);

impl GroupName {
    /// Of the daemon that owns this state directory.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn of_state(directory: &Path) -> io::Result<Self> {
        let found = fs::metadata(directory)?;
        let mut hash = blake3::Hasher::new();
        hash.update(&found.dev().to_le_bytes()).update(&found.ino().to_le_bytes());
        let hash = hash.finalize().to_hex();
        Ok(Self(format!("aaos-{}", &hash.as_str()[..16])))
    }

    /// Of this very process, for one that owns no state: no other has it while this one runs, in no PID namespace of
    /// the machine.
    ///
    /// # Errors
    /// When the process cannot look at its own PID namespace.
    pub fn of_process() -> io::Result<Self> {
        let namespace = fs::metadata("/proc/self/ns/pid")?;
        Ok(Self(format!("aaos-process-{:x}-{}", namespace.ino(), std::process::id())))
    }
}

/// Control groups for far processes, or the reason why there are none. A clone is another handle on the same tree.
#[derive(Debug, Clone)]
pub struct Groups(Result<Arc<Tree>, Arc<GroupsError>>);

impl Groups {
    /// No groups.
    #[must_use]
    pub fn none() -> Self {
        Self(Err(Arc::new(GroupsError::NotAsked)))
    }

    /// Makes the sub-tree. Call it while this process has one thread and no child: where its group is its own it moves
    /// into a leaf.
    #[must_use]
    pub fn claim(name: &GroupName) -> Self {
        Self(Tree::claim(name).map(Arc::new).map_err(Arc::new))
    }

    /// Why there are none.
    #[must_use]
    pub fn why_none(&self) -> Option<&GroupsError> {
        self.0.as_ref().err().map(Arc::as_ref)
    }

    /// Makes a leaf with limits for one process that is yet to be born.
    ///
    /// # Errors
    /// When there are no groups, or the kernel refuses a group or a limit; no leaf is left.
    pub fn leaf(&self, limits: GroupLimits) -> Result<Leaf, GroupsError> {
        match &self.0 {
            Ok(tree) => tree.leaf(limits).map_err(failed("making a control group")),
            Err(error) => Err(GroupsError::Failed {
                step: "finding control groups",
                source: io::Error::other(error.to_string()),
            }),
        }
    }
}

/// The sub-tree.
#[derive(Debug)]
struct Tree {
    /// The group that it was made in.
    base: PathBuf,
    path: PathBuf,
    /// As /proc/PID/cgroup spells it.
    shown: String,
    /// Those who moved into it: this process, and process 1 where that stands in for it.
    movers: Vec<u32>,
    /// Whether controllers may be switched on in `base`.
    may_switch: bool,
    /// What was switched on in `base` for it.
    switched_on: Vec<&'static str>,
    made: AtomicU32,
}

impl Tree {
    fn claim(name: &GroupName) -> Result<Self, GroupsError> {
        if !makes_processes_in_groups() {
            return Err(GroupsError::Filtered);
        }
        let mount = Mount::find()?;
        let Base { group: base, movers, may_switch } = mount.base()?;
        let available =
            words(&base.path.join("cgroup.controllers")).map_err(failed("reading controllers"))?;
        let lacks = |needed: &&&str| !available.iter().any(|one| one == **needed);
        if let Some(missing) = NEEDED.iter().find(lacks) {
            return Err(GroupsError::NoController { group: base.shown, missing });
        }
        let path = base.path.join(&name.0);
        if path.exists() {
            end_tree(&path);
        }
        match fs::create_dir(&path) {
            // What could not be removed is empty of processes at least, or making leaves will fail.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("making a control group")(error));
            }
            _ => {}
        }
        let shown = base.child(&name.0);
        // From here on the value puts back what was changed, also where a step fails.
        let (switched_on, made) = (Vec::new(), AtomicU32::new(0));
        let mut tree = Self { base: base.path, path, shown, movers, may_switch, switched_on, made };
        tree.settle().map_err(failed("setting up its control groups"))?;
        Ok(tree)
    }

    /// Moves the daemon out of the way and hands the controllers down.
    fn settle(&mut self) -> io::Result<()> {
        if !self.movers.is_empty() {
            let home = self.path.join(HOME);
            fs::create_dir_all(&home)?;
            for pid in &self.movers {
                fs::write(home.join("cgroup.procs"), pid.to_string())?;
            }
        }
        let on = words(&self.base.join("cgroup.subtree_control"))?;
        let available = words(&self.base.join("cgroup.controllers"))?;
        for name in NEEDED.into_iter().chain(WELCOME) {
            let is_needed = NEEDED.contains(&name);
            let is_off = !on.iter().any(|one| one == name);
            if is_off && self.may_switch && available.iter().any(|one| one == name) {
                match switch(&self.base, '+', name) {
                    Ok(()) => self.switched_on.push(name),
                    Err(error) if is_needed => return Err(error),
                    Err(_) => continue,
                }
            }
            match switch(&self.path, '+', name) {
                Err(error) if is_needed => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn leaf(&self, limits: GroupLimits) -> io::Result<Leaf> {
        let name = format!("far-{}", self.made.fetch_add(1, Ordering::Relaxed));
        Leaf::make(self.path.join(&name), format!("{}/{name}", self.shown), limits)
    }

    /// Ends what is left in the tree and puts back what was changed for it.
    fn undo(&self) -> io::Result<()> {
        end_leaves(&self.path, |name| name != HOME);
        if !self.movers.is_empty() {
            for name in words(&self.path.join("cgroup.subtree_control"))? {
                switch(&self.path, '-', &name)?;
            }
            for name in &self.switched_on {
                switch(&self.base, '-', name)?;
            }
            for pid in &self.movers {
                fs::write(self.base.join("cgroup.procs"), pid.to_string())?;
            }
            fs::remove_dir(self.path.join(HOME))?;
        }
        fs::remove_dir(&self.path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            // The next daemon of this state, or whoever made the group, removes the rest.
            tracing::debug!(%error, group = %self.path.display(), "a control group could not be removed");
        }
    }
}

/// Ends and removes every group in a tree, and the tree.
fn end_tree(path: &Path) {
    end_leaves(path, |_| true);
    if let Err(error) = fs::remove_dir(path) {
        tracing::warn!(%error, group = %path.display(), "an old control group could not be removed");
    }
}

fn end_leaves(path: &Path, wanted: impl Fn(&str) -> bool) {
    let leaves = fs::read_dir(path).into_iter().flatten().flatten();
    for leaf in leaves.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if wanted(&leaf.file_name().to_string_lossy())
            && let Err(error) = end_group(&leaf.path())
        {
            tracing::warn!(%error, group = %leaf.path().display(), "a control group could not be removed");
        }
    }
}

fn switch(group: &Path, sign: char, controller: &str) -> io::Result<()> {
    fs::write(group.join("cgroup.subtree_control"), format!("{sign}{controller}"))
}

fn words(path: &Path) -> io::Result<Vec<String>> {
    Ok(fs::read_to_string(path)?.split_whitespace().map(str::to_owned).collect())
}

/// A group as a directory and as /proc/PID/cgroup spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    path: PathBuf,
    shown: String,
}

impl Group {
    fn child(&self, name: &str) -> String {
        format!("{}/{name}", self.shown.trim_end_matches('/'))
    }

    fn parent(&self) -> Option<Self> {
        let shown = self.shown.rsplit_once('/')?.0;
        let shown = if shown.is_empty() { "/" } else { shown };
        Some(Self { path: self.path.parent()?.to_owned(), shown: shown.to_owned() })
    }

    /// Whether it is the root of the whole hierarchy, which alone may hold processes beside groups with limits.
    fn is_root(&self) -> bool {
        !self.path.join("cgroup.type").exists()
    }

    /// Whether groups in it have what is needed, as it is.
    fn hands_down(&self) -> bool {
        let on = words(&self.path.join("cgroup.subtree_control")).unwrap_or_default();
        NEEDED.iter().all(|needed| on.iter().any(|one| one == needed))
    }

    fn processes(&self) -> io::Result<Vec<u32>> {
        let all = words(&self.path.join("cgroup.procs"))?;
        Ok(all.iter().map(|pid| pid.parse().unwrap_or(0)).collect())
    }
}

/// Where the cgroup2 file system is mounted, and where this process stands in it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    top: Group,
    own: Group,
}

impl Mount {
    fn find() -> Result<Self, GroupsError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed("reading the mounts"))?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(failed("reading the own group"))?;
        Self::of(&mounts, &own).ok_or(GroupsError::NotMounted)
    }

    /// From the texts of /proc/self/mountinfo and /proc/self/cgroup.
    fn of(mounts: &str, own: &str) -> Option<Self> {
        let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        mounts.lines().find_map(|line| {
            let (place, rest) = line.split_once(" - ")?;
            let mut words = place.split_whitespace().skip(3);
            let (root, point) = (words.next()?, words.next()?);
            let below = own.strip_prefix(root.trim_end_matches('/'))?;
            let is_it = rest.split_whitespace().next() == Some("cgroup2")
                && (below.is_empty() || below.starts_with('/'))
                && !point.contains('\\');
            is_it.then(|| Self {
                top: Group { path: PathBuf::from(point), shown: root.to_owned() },
                own: Group {
                    path: Path::new(point).join(below.trim_start_matches('/')),
                    shown: own.to_owned(),
                },
            })
        })
    }

    /// The group that is to hold the tree: the own one where nobody else is in it; for root else the nearest above that
    /// hands the controllers down, so that what bounds the daemon from there on upwards bounds them too. Below its own
    /// group they cannot be: one that holds processes has no groups with limits.
    fn base(self) -> Result<Base, GroupsError> {
        let inside = self.own.processes().map_err(failed("reading who is in its group"))?;
        let ours = ours();
        let others = inside.iter().filter(|pid| !ours.contains(pid)).count();
        if others == 0 {
            return Ok(Base { group: self.own, movers: inside, may_switch: true });
        }
        let above = if rustix::process::geteuid().is_root() { self.above() } else { None };
        let Some(base) = above else {
            return Err(GroupsError::Shared { group: self.own.shown, others });
        };
        tracing::info!(
            own = self.own.shown,
            others,
            place = base.group.shown,
            "this process shares its control group: those of far processes are made beside it, where limits of its own \
             group do not hold; start it in a group of its own (systemd: Delegate=yes) to have them below"
        );
        Ok(base)
    }

    fn above(&self) -> Option<Base> {
        let mut group = self.own.clone();
        loop {
            let is_root = group.is_root();
            if is_root || group.hands_down() {
                return Some(Base { group, movers: Vec::new(), may_switch: is_root });
            }
            if group.path == self.top.path {
                return None;
            }
            group = group.parent()?;
        }
    }
}

/// Where a tree is made.
#[derive(Debug, PartialEq, Eq)]
struct Base {
    group: Group,
    /// Who has to leave it for that.
    movers: Vec<u32>,
    /// Whether controllers may be switched on in it: nobody else has it, or it is the root of the hierarchy.
    may_switch: bool,
}

/// This process, and process 1 where that started it to be what itself is: agentd in a container, which only stands in.
fn ours() -> Vec<u32> {
    let own = std::process::id();
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent == 1 && is_alike(parent) { vec![own, parent] } else { vec![own] }
}

/// Whether another process was started as this one was: by the same words and, where this one may see that, from the
/// same file.
fn is_alike(pid: u32) -> bool {
    let words = |of: &str| fs::read(format!("/proc/{of}/cmdline")).ok().filter(|words| !words.is_empty());
    let file = |of: &str| fs::metadata(format!("/proc/{of}/exe")).map(|file| (file.dev(), file.ino())).ok();
    let pid = pid.to_string();
    let same_file = file(&pid).is_none_or(|other| file("self") == Some(other));
    words(&pid).is_some() && words(&pid) == words("self") && same_file
}

#[cfg(test)]
mod tests {
    use super::{Group, GroupName, Groups, GroupsError, Mount, is_alike};
    use crate::leaf::GroupLimits;
    use aaos_core::quantity::Bytes;
    use std::path::Path;

    const MOUNTS: &str = "24 30 0:22 / /proc rw,nosuid - proc proc rw\n\
                          35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_below_the_mount() {
        let found = Mount::of(MOUNTS, "1:name=x:/y\n0::/system.slice/agentd.service\n").expect("found");
        assert_eq!(found.own.path, Path::new("/sys/fs/cgroup/system.slice/agentd.service"));
        assert_eq!(found.own.shown, "/system.slice/agentd.service");
        assert_eq!(found.own.child("far"), "/system.slice/agentd.service/far");
        assert_eq!((found.top.path.to_str(), found.top.shown.as_str()), (Some("/sys/fs/cgroup"), "/"));
        assert_eq!(found.top.child("far"), "/far");
        let top = Mount::of(MOUNTS, "0::/\n").expect("found");
        assert_eq!(top.own.path, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_mount_that_shows_another_part_of_the_hierarchy_is_not_used() {
        let part = MOUNTS.replace("0:30 / ", "0:30 /machine ");
        let found = Mount::of(&part, "0::/machine/one\n").expect("found");
        assert_eq!(found.own.path, Path::new("/sys/fs/cgroup/one"));
        assert_eq!(Mount::of(&part, "0::/machines\n"), None);
        assert_eq!(Mount::of(&part, "0::/user\n"), None);
        assert_eq!(Mount::of(MOUNTS, "4:memory:/\n"), None, "no cgroup v2 at all");
        assert_eq!(Mount::of(&MOUNTS.replace("cgroup2 ", "cgroup "), "0::/\n"), None);
    }

    #[test]
    fn the_groups_above_are_named_up_to_the_top() {
        let group = |path: &str, shown: &str| Group { path: path.into(), shown: shown.to_owned() };
        let found = Mount::of(MOUNTS, "0::/system.slice/agentd.service\n").expect("found");
        let above = found.own.parent().expect("one");
        assert_eq!(above, group("/sys/fs/cgroup/system.slice", "/system.slice"));
        assert_eq!(above.parent().expect("the top"), found.top);
        let part =
            Mount::of(&MOUNTS.replace("0:30 / ", "0:30 /machine "), "0::/machine/one\n").expect("found");
        assert_eq!(part.own.parent().expect("one"), part.top);
    }

    #[test]
    fn only_a_process_that_was_started_like_this_one_is_taken_for_it() {
        assert!(is_alike(std::process::id()));
        let parent = rustix::process::getppid().expect("whoever runs the tests").as_raw_nonzero().get();
        assert!(!is_alike(parent.unsigned_abs()));
        assert!(!is_alike(u32::MAX), "nobody");
    }

    #[test]
    fn a_process_without_state_has_a_name_of_its_own_in_the_whole_machine() {
        let GroupName(name) = GroupName::of_process().expect("a name");
        let namespace = std::fs::read_link("/proc/self/ns/pid").expect("readable");
        let number: u64 = namespace
            .to_string_lossy()
            .trim_matches(|one: char| !one.is_ascii_digit())
            .parse()
            .expect("pid:[N]");
        assert_eq!(name, format!("aaos-process-{number:x}-{}", std::process::id()));
    }

    #[test]
    fn without_groups_there_are_no_leaves_and_a_reason() {
        let groups = Groups::none();
        assert!(matches!(groups.why_none(), Some(GroupsError::NotAsked)));
        let limits = GroupLimits { memory: Bytes(1), processes: 1, weight: 100 };
        assert!(groups.leaf(limits).expect_err("none").to_string().contains("none was asked for"));
    }
}
