//! The part of a program sandbox that is the same for every program, made before anybody knows which one it will be.
//!
//! Invariants: it is for one program and then gone. What is granted is copied from the machine's mounts as they are at
//! the call, never from a copy that waited with it. It waits only as long as the machine's mounts stay as they are: it is
//! given up, so that no mount is kept in use, and what was made is compared with the machine before it is used.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use aaos_core::program::{ProgramOrder, ProgramPlan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::channel::Channel;
use crate::domain::Draft;
use crate::mounts::{Depth, Detached, find};
use crate::namespaces::{Identity, MountNamespace, ProcSelf, keep_mounts_private, turn_into_root, unshare};
use crate::program_system::{PLACE, SystemView};
use crate::sys::{AtStep, LockError, in_child_leaving, last_words};

/// How long what was seen of the machine's files counts, when a plan was expected. Mounts are told of at once.
const FRESH: Duration = Duration::from_millis(10);

/// The ground of one program.
#[derive(Debug)]
pub(crate) struct Ground {
    identity: Identity,
    changes: MountChanges,
    /// Nothing once it was given up.
    prepared: Option<Prepared>,
    /// When it was last seen that the machine is as it was prepared.
    seen: Option<Instant>,
}

#[derive(Debug)]
struct Prepared {
    view: SystemView,
    root: Root,
    /// Lets the places of the view through, as for most calls; attached to no mount.
    draft: Draft,
}

/// A private root with everything that a call does not decide; nobody is in it yet.
#[derive(Debug)]
enum Root {
    /// In a mount namespace of its own: of a caller that is root, who can go there and back.
    Own(MountNamespace),
    /// Attached nowhere. An ordinary user can leave the machine's mounts, and not come back to them.
    Apart(Detached),
}

impl Ground {
    /// Makes it, for a caller that is born into every namespace but a mount namespace. Files in it are `identity`'s.
    pub(crate) fn prepare(identity: Identity) -> Result<Self, LockError> {
        let changes = MountChanges::watch().at("watching the machine's mounts")?;
        let prepared = Some(Prepared::make(identity)?);
        Ok(Self { identity, changes, prepared, seen: None })
    }

    /// Waits for the plan, and gives it with the descriptors that ride on it.
    pub(crate) fn wait(&mut self, channel: &Channel) -> Result<(ProgramPlan, Vec<OwnedFd>), LockError> {
        loop {
            self.wait_for_order(channel).at("waiting for its plan")?;
            match channel.receive().map_err(io::Error::other).at("receiving its plan")? {
                (ProgramOrder::Plan(plan), descriptors) => return Ok((plan, descriptors)),
                (ProgramOrder::Expect {}, _) => self.look().at("looking at the system")?,
            }
        }
    }

    /// Waits until something has come by the channel.
    fn wait_for_order(&mut self, channel: &Channel) -> io::Result<()> {
        while self.prepared.is_some() {
            let mut watched = [PollFd::new(channel, PollFlags::IN), self.changes.asked()];
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [came, changed] = watched.map(|one| !one.revents().is_empty());
            if changed {
                self.prepared = None;
            }
            if came {
                break;
            }
        }
        Ok(())
    }

    /// Looks whether the machine is as it was prepared.
    fn look(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let is_current = self.prepared.as_ref().map(Prepared::is_current).transpose()?;
        self.seen = is_current.is_some_and(|is_current| is_current).then_some(begun);
        Ok(())
    }

    /// Runs `look` where the machine's own mounts are seen, then makes the private root the caller's. Gives what is in
    /// that root, and the domain that lets that through for [most calls](SystemView::drafted). What `look` copies may not
    /// let itself be copied there (an unbindable mount); then it is run once more, in mounts of the caller's own, as they
    /// are at that moment.
    pub(crate) fn enter<T>(
        self,
        mut look: impl FnMut(&SystemView) -> Result<T, LockError>,
    ) -> Result<(SystemView, Draft, T), LockError> {
        let has_changed = self.changes.have_come().at("looking for changes of mounts")?;
        let kept = self.prepared.filter(|_| !has_changed);
        let was_seen = self.seen.is_some_and(|seen| seen.elapsed() < FRESH);
        let Prepared { view, root, draft } = match kept {
            Some(prepared) if was_seen || prepared.is_current().at("looking at the system")? => prepared,
            _ => Prepared::make(self.identity)?,
        };
        let seen = match root {
            Root::Own(own) => {
                let seen = match look(&view) {
                    Err(error) if error.source.raw_os_error() == Some(libc::EINVAL) => {
                        leave_mounts()?;
                        look(&view)?
                    }
                    seen => seen?,
                };
                own.enter().at("entering its own mounts")?;
                seen
            }
            Root::Apart(root) => {
                leave_mounts()?;
                let seen = look(&view)?;
                let place = find(PLACE).at("finding a place for the new root")?;
                root.attach(place.as_fd()).at("attaching the new root")?;
                turn_into_root(PLACE).at("changing the root")?;
                seen
            }
        };
        Ok((view, draft, seen))
    }
}

impl Prepared {
    fn make(identity: Identity) -> Result<Self, LockError> {
        let view = SystemView::look().at("looking at the system")?;
        let proc = ProcSelf::open().at("opening /proc/self")?;
        let machine = MountNamespace::of(&proc).at("the machine's mounts")?;
        let (root, draft) = match machine.enter() {
            Ok(()) => {
                let (own, draft) = own(&view, &machine, identity)?;
                (Root::Own(own), draft)
            }
            // Nobody but its owner comes back to a mount namespace.
            Err(_) => {
                let root = apart(&view, identity)?;
                let draft = view.drafted(root.as_fd()).at("drafting its Landlock domain")?;
                (Root::Apart(root), draft)
            }
        };
        Ok(Self { view, root, draft })
    }

    /// Whether the machine has still what this shows of it.
    fn is_current(&self) -> io::Result<bool> {
        Ok(SystemView::look()? == self.view)
    }
}

/// Builds it in a mount namespace of its own, and comes back.
fn own(
    view: &SystemView,
    machine: &MountNamespace,
    identity: Identity,
) -> Result<(MountNamespace, Draft), LockError> {
    leave_mounts()?;
    let proc = ProcSelf::open().at("opening /proc/self")?;
    view.build(identity)?;
    let own = MountNamespace::of(&proc).at("its own mounts")?;
    let root = find(c"/").at("looking at the new root")?;
    let draft = view.drafted(root.as_fd()).at("drafting its Landlock domain")?;
    machine.enter().at("going back to the machine's mounts")?;
    Ok((own, draft))
}

/// Has a mount namespace of the caller's own, which begins as the one that it was in.
fn leave_mounts() -> Result<(), LockError> {
    unshare(libc::CLONE_NEWNS).at("its mount namespace")?;
    keep_mounts_private().at("keeping mounts private")
}

/// Builds it in a mount namespace of a throwaway child, and copies it from there.
fn apart(view: &SystemView, identity: Identity) -> Result<Detached, LockError> {
    let build = || {
        leave_mounts()?;
        view.build(identity)?;
        let root = find(c"/").at("looking at the new root")?;
        Detached::copy(root.as_fd(), Depth::All, 0).at("copying the new root")
    };
    // SAFETY: this process is single-threaded.
    let left = unsafe {
        in_child_leaving(|| {
            let built = build().map(OwnedFd::from);
            built.map_err(|error| last_words(error.step, &Err::<(), _>(&error.source))).ok()
        })
    };
    left.map(Detached::from).at("building its root apart")
}

/// Tells that something was mounted or unmounted in the mount namespace in which it was opened.
#[derive(Debug)]
struct MountChanges(OwnedFd);

impl MountChanges {
    fn watch() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty())?))
    }

    /// The kernel says so once for all that has come since it was asked last (proc_pid_mounts(5)).
    fn asked(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::PRI)
    }

    fn have_come(&self) -> io::Result<bool> {
        let mut asked = [self.asked()];
        poll(&mut asked, Some(&Timespec::default()))?;
        Ok(!asked[0].revents().is_empty())
    }
}
