//! Attempts on files, mounts and what lies behind paths.

use crate::raw::{
    Answer, HERE, c_string, close, done, flags, in_child, into, made, nothing, open, raw, read, text,
};
use crate::scene::{Place, SECRET};

/// Opens a path and finds the secret in it.
fn read_secret(path: &str) -> Answer {
    let file = open(path, libc::O_RDONLY)?;
    let bytes = read(file)?;
    close(file)?;
    if bytes.starts_with(SECRET) { Ok(()) } else { nothing("other bytes") }
}

pub(crate) fn read_file(place: &Place) -> Answer {
    read_secret(&place.scene.at("secret"))
}

pub(crate) fn read_private(place: &Place) -> Answer {
    read_secret(&place.scene.at("private"))
}

/// Makes a fresh name each time: what an earlier case made is still there.
fn fresh(place: &Place, what: &str) -> String {
    let pid = raw(libc::SYS_getpid, &[]).unwrap_or(0);
    place.scene.at(&format!("{what}-{pid}"))
}

pub(crate) fn write_file(place: &Place) -> Answer {
    let file = open(&place.scene.at("victim"), libc::O_WRONLY | libc::O_APPEND)?;
    done(libc::SYS_write, &[file, SECRET.as_ptr() as usize, SECRET.len()])?;
    close(file)
}

pub(crate) fn create_file(place: &Place) -> Answer {
    let path = fresh(place, "created");
    close(open(&path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?)?;
    remove(&path)
}

fn remove(path: &str) -> Answer {
    done(libc::SYS_unlink, &[text(&c_string(path))])
}

/// A file of one's own to rename, link or remove; the case is that call and not the making.
fn with_file(place: &Place, act: impl FnOnce(&str, &str) -> Answer) -> Answer {
    let (old, new) = (place.scene.at("victim"), fresh(place, "other"));
    act(&old, &new)
}

pub(crate) fn truncate(place: &Place) -> Answer {
    done(libc::SYS_truncate, &[text(&c_string(&place.scene.at("victim"))), 4])
}

pub(crate) fn link(place: &Place) -> Answer {
    with_file(place, |old, new| {
        done(libc::SYS_link, &[text(&c_string(old)), text(&c_string(new))])?;
        remove(new)
    })
}

pub(crate) fn symlink(place: &Place) -> Answer {
    let new = fresh(place, "link");
    done(libc::SYS_symlink, &[text(c"/etc/passwd"), text(&c_string(&new))])?;
    remove(&new)
}

pub(crate) fn rename(place: &Place) -> Answer {
    with_file(place, |old, new| {
        done(libc::SYS_rename, &[text(&c_string(old)), text(&c_string(new))])?;
        done(libc::SYS_rename, &[text(&c_string(new)), text(&c_string(old))])
    })
}

/// Exchanges two names, so that nothing is lost where it succeeds.
pub(crate) fn exchange(place: &Place) -> Answer {
    let (one, two) = (c_string(&place.scene.at("victim")), c_string(&place.scene.at("victim2")));
    done(libc::SYS_renameat2, &[HERE, text(&one), HERE, text(&two), libc::RENAME_EXCHANGE as usize])
}

pub(crate) fn unlink(place: &Place) -> Answer {
    let removed = c_string(&place.scene.at("removed"));
    done(libc::SYS_unlink, &[text(&removed)])
}

pub(crate) fn make_directory(place: &Place) -> Answer {
    let path = c_string(&fresh(place, "directory"));
    done(libc::SYS_mkdir, &[text(&path), 0o755])?;
    done(libc::SYS_rmdir, &[text(&path)])
}

fn make_node(place: &Place, kind: u32, device: libc::dev_t) -> Answer<String> {
    let path = fresh(place, "node");
    done(libc::SYS_mknod, &[text(&c_string(&path)), (kind | 0o600) as usize, device as usize])?;
    Ok(path)
}

pub(crate) fn make_fifo(place: &Place) -> Answer {
    remove(&make_node(place, libc::S_IFIFO, 0)?)
}

/// A device node of one's own: memory's zeros, which would as well be a disk.
pub(crate) fn make_device(place: &Place) -> Answer {
    let path = make_node(place, libc::S_IFCHR, libc::makedev(1, 5))?;
    let opened = open(&path, libc::O_RDONLY).and_then(close);
    remove(&path)?;
    opened
}

pub(crate) fn open_device(_place: &Place) -> Answer {
    let device = open("/dev/zero", libc::O_RDWR)?;
    read(device)?;
    close(device)
}

pub(crate) fn stat(place: &Place) -> Answer {
    let mut about = std::mem::MaybeUninit::<libc::stat>::uninit();
    done(libc::SYS_stat, &[text(&c_string(&place.scene.at("secret"))), into(&mut about)])
}

pub(crate) fn access(place: &Place) -> Answer {
    done(libc::SYS_access, &[text(&c_string(&place.scene.at("secret"))), flags(libc::R_OK)])
}

pub(crate) fn read_link(place: &Place) -> Answer {
    let mut bytes = [0_u8; 64];
    let path = c_string(&place.scene.at("arrow"));
    done(libc::SYS_readlink, &[text(&path), bytes.as_mut_ptr() as usize, bytes.len()])
}

pub(crate) fn change_mode(place: &Place) -> Answer {
    done(libc::SYS_chmod, &[text(&c_string(&place.scene.at("victim"))), 0o666])
}

/// To somebody else, so that it needs the right to.
pub(crate) fn change_owner(place: &Place) -> Answer {
    done(libc::SYS_chown, &[text(&c_string(&place.scene.at("victim"))), 65_534, 65_534])
}

pub(crate) fn change_times(place: &Place) -> Answer {
    done(libc::SYS_utimensat, &[HERE, text(&c_string(&place.scene.at("victim"))), 0, 0])
}

pub(crate) fn set_attribute(place: &Place) -> Answer {
    let path = c_string(&place.scene.at("victim"));
    done(libc::SYS_setxattr, &[text(&path), text(c"user.contest"), text(c"x"), 1, 0])
}

pub(crate) fn change_directory(place: &Place) -> Answer {
    done(libc::SYS_chdir, &[text(&c_string(&place.scene.folder))])
}

pub(crate) fn list_directory(place: &Place) -> Answer {
    let directory = open(&place.scene.folder, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut bytes = [0_u8; 4096];
    done(libc::SYS_getdents64, &[directory, bytes.as_mut_ptr() as usize, bytes.len()])?;
    close(directory)
}

pub(crate) fn watch(place: &Place) -> Answer {
    let watcher = raw(libc::SYS_inotify_init1, &[flags(libc::IN_CLOEXEC)])?;
    let path = c_string(&place.scene.folder);
    done(libc::SYS_inotify_add_watch, &[watcher, text(&path), libc::IN_CREATE as usize])?;
    close(watcher)
}

pub(crate) fn mount(place: &Place) -> Answer {
    let point = c_string(&place.scene.at("point"));
    in_child(|| {
        // Where it succeeds it is seen by nobody else.
        raw(libc::SYS_mount, &[text(c"tmpfs"), text(&point), text(c"tmpfs"), 0, 0])?;
        done(libc::SYS_umount2, &[text(&point), flags(libc::MNT_DETACH)])
    })
}

pub(crate) fn open_file_system(_place: &Place) -> Answer {
    made(libc::SYS_fsopen, &[text(c"tmpfs"), 1])
}

/// `OPEN_TREE_CLONE` of linux/mount.h.
const OPEN_TREE_CLONE: usize = 1;

pub(crate) fn clone_mount(place: &Place) -> Answer {
    let path = c_string(&place.scene.folder);
    made(libc::SYS_open_tree, &[HERE, text(&path), OPEN_TREE_CLONE | flags(libc::O_CLOEXEC)])
}

/// `struct file_handle` with room for the longest handle (`MAX_HANDLE_SZ`).
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

pub(crate) fn open_by_handle(place: &Place) -> Answer {
    let mut handle = FileHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0_i32;
    let path = c_string(&place.scene.at("secret"));
    done(libc::SYS_name_to_handle_at, &[HERE, text(&path), into(&mut handle), into(&mut mount), 0])?;
    let folder = open(&place.scene.folder, libc::O_RDONLY | libc::O_DIRECTORY)?;
    made(libc::SYS_open_by_handle_at, &[folder, into(&mut handle), flags(libc::O_RDONLY)])?;
    close(folder)
}

/// Opens without any name of the file: handles of one file system can be guessed.
pub(crate) fn open_by_guessed_handle(place: &Place) -> Answer {
    use std::os::fd::AsRawFd;
    let mut handle = FileHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0_i32;
    let file = place.file.as_raw_fd() as usize;
    let empty = flags(libc::AT_EMPTY_PATH);
    done(libc::SYS_name_to_handle_at, &[file, text(c""), into(&mut handle), into(&mut mount), empty])?;
    made(libc::SYS_open_by_handle_at, &[file, into(&mut handle), flags(libc::O_RDONLY)])
}

pub(crate) fn read_proc(place: &Place) -> Answer {
    let file = open(&format!("/proc/{}/environ", place.scene.victim), libc::O_RDONLY)?;
    read(file)?;
    close(file)
}

pub(crate) fn open_memory(place: &Place) -> Answer {
    close(open(&format!("/proc/{}/mem", place.scene.victim), libc::O_RDWR)?)
}

/// Through the link that /proc keeps of what another process has open.
pub(crate) fn open_anothers_file(place: &Place) -> Answer {
    read_secret(&format!("/proc/{}/fd/{}", place.scene.victim, crate::scene::LEAKED_FILE))
}

/// Opened for writing, and left as it is.
pub(crate) fn open_sysctl(_place: &Place) -> Answer {
    close(open("/proc/sys/kernel/core_pattern", libc::O_WRONLY)?)
}

pub(crate) fn read_sys(_place: &Place) -> Answer {
    let file = open("/sys/kernel/mm/transparent_hugepage/enabled", libc::O_RDONLY)
        .or_else(|_| open("/sys/devices/system/cpu/online", libc::O_RDONLY))?;
    read(file)?;
    close(file)
}

pub(crate) fn change_root(place: &Place) -> Answer {
    let folder = c_string(&place.scene.folder);
    in_child(|| done(libc::SYS_chroot, &[text(&folder)]))
}

/// In a copy of the mounts, so that the stage keeps its root where it succeeds.
pub(crate) fn pivot_root(place: &Place) -> Answer {
    let point = c_string(&place.scene.at("point"));
    in_child(|| {
        done(libc::SYS_unshare, &[flags(libc::CLONE_NEWNS)])?;
        done(libc::SYS_mount, &[0, text(c"/"), 0, (libc::MS_REC | libc::MS_PRIVATE) as usize, 0])?;
        done(libc::SYS_mount, &[text(c"tmpfs"), text(&point), text(c"tmpfs"), 0, 0])?;
        done(libc::SYS_chdir, &[text(&point)])?;
        done(libc::SYS_pivot_root, &[text(c"."), text(c".")])
    })
}
