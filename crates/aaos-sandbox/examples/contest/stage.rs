//! The stage: things that an escape would be after, made for this run and belonging to its user.
//!
//! Invariants: nothing of it is the machine's own; where the user is root, mounts and the host's name are
//! those of a namespace of the run. Everything goes away with the value.

use std::fs;
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use testkit::{Policy, Subject, scratch};

use crate::raw::{Answer, c_string, flags, nothing, raw, signed, text, to};
use crate::scene::{LEAKED_DIRECTORY, LEAKED_FILE, LEAKED_SOCKET, LEAKED_TERMINAL, SECRET, Scene};

/// Whom a set-uid program belongs to where the run is root's.
const SOMEBODY: u32 = 65_534;
/// What a process of the stage keeps in its memory.
static KEPT: AtomicU64 = AtomicU64::new(u64::from_ne_bytes(*SECRET));

/// Everything of one run.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) scene: Scene,
    _victim: Subject,
    _sockets: (TcpListener, UdpSocket, [UnixListener; 2], [UnixDatagram; 2], UnixStream),
    _terminal: Option<OwnedFd>,
    segment: usize,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It belongs to this run; where it cannot be removed it goes with the namespace or stays small.
        drop(raw(libc::SYS_shmctl, &[self.segment, flags(libc::IPC_RMID), 0]));
    }
}

impl Stage {
    /// Sets it up. `set_uid_program` is one that belongs to another user, if the caller could make it.
    pub(crate) fn set_up(set_uid_program: Option<PathBuf>, children: u32) -> io::Result<Self> {
        own_namespaces();
        let folder = scratch();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        make_files(folder.path())?;
        leak(&fs::File::open(folder.path().join("secret"))?.into(), LEAKED_FILE);
        leak(&fs::File::open(folder.path())?.into(), LEAKED_DIRECTORY);
        let (near, far) = UnixStream::pair()?;
        leak(&far.into(), LEAKED_SOCKET);
        let terminal = terminal();
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        let listener = UnixListener::bind(folder.path().join("stream"))?;
        let datagram = UnixDatagram::bind(folder.path().join("datagram"))?;
        let name = format!("aaos-contest-{}", std::process::id());
        let abstract_datagram = format!("{name}-datagram");
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let hidden_datagram = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_datagram)?)?;
        let set_uid_program = match set_uid_program {
            Some(program) => program.display().to_string(),
            None => own_set_uid_program(folder.path())?,
        };
        let victim = victim()?;
        let key = std::process::id().cast_signed();
        let create = flags(libc::IPC_CREAT) | 0o600;
        let segment = raw(libc::SYS_shmget, &[signed(key), 4096, create])
            .map_err(|refusal| io::Error::other(refusal.name()))?;
        let scene = Scene {
            folder: folder.path().display().to_string(),
            set_uid_program,
            victim: victim.pid(),
            address: KEPT.as_ptr() as u64,
            tcp: tcp.local_addr()?.port(),
            udp: udp.local_addr()?.port(),
            abstract_name: name,
            abstract_datagram,
            shared_memory: key,
            cgroups: fs::read_to_string("/proc/self/cgroup")?,
            children,
        };
        let sockets = (tcp, udp, [listener, hidden], [datagram, hidden_datagram], near);
        Ok(Self { folder, scene, _victim: victim, _sockets: sockets, _terminal: terminal, segment })
    }

    /// Puts back what a case that succeeded took away.
    pub(crate) fn reset(&self) -> io::Result<()> {
        fs::write(self.path("removed"), "")?;
        // A new file: the last one may have another owner by now.
        fs::remove_file(self.path("victim"))?;
        fs::write(self.path("victim"), "something of somebody")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Mounts and the host's name of our own, where we may; who may not can harm neither.
fn own_namespaces() {
    let own = raw(libc::SYS_unshare, &[flags(libc::CLONE_NEWNS | libc::CLONE_NEWUTS)]);
    if own.is_ok() {
        let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
        raw(libc::SYS_mount, &[0, text(c"/"), 0, private, 0]).expect("the mounts are ours");
    }
}

fn make_files(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("secret"), SECRET)?;
    fs::write(folder.join("private"), SECRET)?;
    fs::set_permissions(folder.join("private"), PermissionsExt::from_mode(0o600))?;
    for name in ["victim", "victim2"] {
        fs::write(folder.join(name), "something of somebody")?;
    }
    for name in ["point", "cores", "handed"] {
        fs::create_dir(folder.join(name))?;
    }
    symlink("/etc/passwd", folder.join("arrow"))
}

/// Leaves a descriptor open on a number, for everything that is started from here.
fn leak(descriptor: &OwnedFd, number: usize) {
    let from = descriptor.as_raw_fd().unsigned_abs() as usize;
    raw(libc::SYS_dup3, &[from, number, 0]).expect("a number below the limit");
}

/// A terminal whose near end leaks; `None` where there is none to be had.
fn terminal() -> Option<OwnedFd> {
    let master = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").ok()?;
    let number = master.as_raw_fd().unsigned_abs() as usize;
    let unlock = 0_i32;
    raw(libc::SYS_ioctl, &[number, libc::TIOCSPTLCK as usize, to(&unlock)]).ok()?;
    let how = flags(libc::O_RDWR | libc::O_NOCTTY);
    let slave = raw(libc::SYS_ioctl, &[number, libc::TIOCGPTPEER as usize, how]).ok()?;
    raw(libc::SYS_dup3, &[slave, LEAKED_TERMINAL, 0]).ok()?;
    raw(libc::SYS_close, &[slave]).ok()?;
    Some(master.into())
}

/// This program, belonging to somebody else and with the set-uid bit; empty where we may not make one.
fn own_set_uid_program(folder: &Path) -> io::Result<String> {
    let path = folder.join("set-uid");
    if !rustix::process::geteuid().is_root() {
        return Ok(String::new());
    }
    fs::copy(std::env::current_exe()?, &path)?;
    std::os::unix::fs::chown(&path, Some(SOMEBODY), Some(SOMEBODY))?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4755))?;
    Ok(path.display().to_string())
}

/// A process that keeps the secret and ignores the harmless signal until it is ended.
fn victim() -> io::Result<Subject> {
    let (mut ready, mut waiting) = UnixStream::pair()?;
    let subject = Policy::none().start(|| {
        // `struct kernel_sigaction`: the handler is `SIG_IGN`.
        let action = [1_u64, 0, 0, 0];
        let ignored = raw(libc::SYS_rt_sigaction, &[libc::SIGUSR1 as usize, to(&action), 0, 8]);
        let said = waiting.write_all(&[u8::from(ignored.is_ok())]);
        while said.is_ok() && KEPT.load(Ordering::Relaxed) != 0 {
            drop(raw(libc::SYS_pause, &[]));
        }
        1
    })?;
    let mut word = [0];
    io::Read::read_exact(&mut ready, &mut word)?;
    if word == [1] { Ok(subject) } else { Err(io::Error::other("the victim is not ready")) }
}

/// The host's name, as the stage has it.
pub(crate) fn host_name() -> Answer<String> {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .or_else(|_| nothing("no name"))
}

/// Gives the stage's host its name again.
pub(crate) fn name_host(name: &str) -> Answer {
    raw(libc::SYS_sethostname, &[text(&c_string(name)), name.len()]).map(drop)
}
