//! Bodies over a real socket pair, with a broker that opens real files.

mod archives;
mod pages;
mod trees;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aaos_confine::Channel;
use aaos_core::limits::{MAX_BROKER_BATCH, MAX_FILE_BYTES, MAX_READ_MANY_BYTES};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{
    EchoInput, FileEditInput, FileKind, FileReadInput, FileReadOutput, FileWriteInput, ToolFailure,
    ToolFailureKind,
};
use aaos_core::wire::{
    Child, EntryName, FRAME_HEADER_BYTES, Handed, Handle, JobOutput, WorkerJob, WorkerReply, WorkerRequest,
    decode_frame, encode_frame, frame_length,
};
use rustix::fs::MemfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::session::Stop;

/// The near side: sends a job, serves children by plain paths, gives the result.
struct Near {
    socket: std::os::unix::net::UnixStream,
    directories: BTreeMap<Handle, PathBuf>,
    next: u32,
    most_open: usize,
    worker: Option<std::thread::JoinHandle<Result<(), crate::ServeError>>>,
}

impl Near {
    fn start() -> Self {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let worker = std::thread::spawn(move || crate::serve(Channel::new(far.into())));
        Self { socket: near, directories: BTreeMap::new(), next: 100, most_open: 0, worker: Some(worker) }
    }

    fn send(&mut self, frame: &WorkerRequest, descriptors: &[BorrowedFd<'_>]) {
        let bytes = encode_frame(frame).expect("a frame");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let first = [IoSlice::new(&bytes)];
        let sent = sendmsg(&self.socket, &first, &mut control, SendFlags::NOSIGNAL).expect("sent");
        self.socket.write_all(&bytes[sent..]).expect("sent");
    }

    fn receive(&mut self) -> WorkerReply {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.socket.read_exact(&mut header).expect("a header");
        let mut body = vec![0; frame_length(header).expect("short")];
        self.socket.read_exact(&mut body).expect("a body");
        decode_frame(&body).expect("a reply")
    }

    fn run(&mut self, job: WorkerJob, descriptors: &[BorrowedFd<'_>]) -> Result<JobOutput, ToolFailure> {
        self.send(&WorkerRequest::Call { call: 7, job: Box::new(job) }, descriptors);
        loop {
            match self.receive() {
                WorkerReply::Done { call, result } => {
                    assert_eq!(call, 7);
                    return result;
                }
                WorkerReply::Children { directory, names, open } => self.children(directory, &names, open),
                WorkerReply::Close { directories } => {
                    for handle in directories {
                        assert!(self.directories.remove(&handle).is_some(), "closed once");
                    }
                }
                WorkerReply::Locked(_) => panic!("serve does not lock"),
            }
        }
    }

    /// Runs a job on a directory tree.
    fn run_tree(
        &mut self,
        root: &Path,
        job: impl FnOnce(Handed) -> WorkerJob,
    ) -> Result<JobOutput, ToolFailure> {
        let directory = File::open(root).expect("a directory");
        let handle = Handle(0);
        self.directories = BTreeMap::from([(handle, root.to_owned())]);
        self.run(job(Handed::Directory { handle }), &[directory.as_fd()])
    }

    fn children(&mut self, directory: Handle, names: &[EntryName], open: bool) {
        assert!(names.len() <= MAX_BROKER_BATCH);
        let parent = self.directories.get(&directory).expect("a held directory").clone();
        let mut opened = Vec::new();
        let mut children = Vec::new();
        for name in names {
            let path = parent.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name.0));
            children.push(self.child(path, open, &mut opened));
        }
        self.most_open = self.most_open.max(self.directories.len());
        let lent: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        self.send(&WorkerRequest::Children { children }, &lent);
    }

    fn child(&mut self, path: PathBuf, open: bool, opened: &mut Vec<File>) -> Child {
        let Ok(seen) = path.symlink_metadata() else {
            return Child::Failed(ToolFailure::new(ToolFailureKind::NotFound, "gone"));
        };
        let kind = match seen.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Symlink,
            _ => FileKind::Other,
        };
        if !open || matches!(kind, FileKind::Symlink | FileKind::Other) {
            let size = if kind == FileKind::File { seen.len() } else { 0 };
            return Child::Described { kind, size: Bytes(size) };
        }
        self.next += 1;
        let handle = Handle(self.next);
        opened.push(File::open(&path).expect("readable"));
        if kind == FileKind::Directory {
            self.directories.insert(handle, path);
            return Child::Opened(Handed::Directory { handle });
        }
        Child::Opened(Handed::File { handle, size: Bytes(seen.len()) })
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).expect("shut down");
        if let Some(worker) = self.worker.take() {
            let ended = worker.join().expect("the worker never panics");
            assert!(ended.is_ok() || std::thread::panicking(), "an orderly end: {ended:?}");
        }
    }
}

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("absolute")
}

fn memfd(content: &[u8]) -> File {
    let fd: OwnedFd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = File::from(fd);
    file.write_all(content).expect("written");
    file.seek(SeekFrom::Start(0)).expect("rewound");
    file
}

fn content_of(mut file: File) -> String {
    file.seek(SeekFrom::Start(0)).expect("rewound");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("text");
    text
}

fn handed(content: &[u8]) -> Handed {
    Handed::File { handle: Handle(0), size: Bytes(content.len() as u64) }
}

fn read(content: &[u8], offset: Option<u64>, limit: Option<u64>) -> Result<FileReadOutput, ToolFailure> {
    let input = FileReadInput { path: path("/f"), offset, limit };
    let file = memfd(content);
    let job = WorkerJob::FileRead { input, file: handed(content) };
    match Near::start().run(job, &[file.as_fd()])? {
        JobOutput::FileRead(output) => Ok(output),
        other => panic!("not a read: {other:?}"),
    }
}

#[test]
fn echo_gives_back_what_it_got_and_calls_follow_each_other() {
    let mut near = Near::start();
    for message in ["one", "two\n\u{0}three"] {
        let output = near.run(WorkerJob::Echo(EchoInput { message: message.to_owned() }), &[]);
        assert!(matches!(output, Ok(JobOutput::Echo(echo)) if echo.message == message));
    }
}

#[test]
fn a_read_gives_whole_characters_only() {
    let text = "aé€😀z".as_bytes();
    assert_eq!(read(text, None, None).expect("text").content, "aé€😀z");
    assert_eq!(read(text, None, None).expect("text").size_bytes, Bytes(11));
    // The offset is moved forward, the end backward.
    assert_eq!(read(text, Some(2), Some(6)).expect("text").content, "€");
    assert_eq!(read(text, Some(3), Some(7)).expect("text").content, "€😀");
    assert_eq!(read(text, Some(99), None).expect("beyond the end").content, "");
    assert_eq!(read(text, Some(6), Some(1)).expect_err("no room").kind, ToolFailureKind::InvalidArguments);
    for limit in 4..=11 {
        let mut offset = 0;
        let mut all = String::new();
        while let Ok(part) = read(text, Some(offset), Some(limit)) {
            if part.content.is_empty() {
                break;
            }
            offset += part.content.len() as u64;
            all.push_str(&part.content);
        }
        assert_eq!(all, "aé€😀z", "in parts of {limit}");
    }
}

#[test]
fn what_is_no_text_is_a_typed_failure() {
    for bytes in [&b"ok\xff"[..], b"\xc3", b"\x80abc", b"abc\xe2\x82"] {
        assert_eq!(read(bytes, None, None).expect_err("binary").kind, ToolFailureKind::NotUtf8, "{bytes:?}");
    }
    // A character that the limit cuts is no fault of the file.
    assert_eq!(read("ab€".as_bytes(), None, Some(4)).expect("text").content, "ab");
}

#[test]
fn a_file_over_the_limit_must_be_read_in_parts() {
    let limit = usize::try_from(MAX_FILE_BYTES).expect("small");
    assert_eq!(read(&vec![b'x'; limit], None, None).expect("fits").content.len(), limit);
    let long = vec![b'x'; limit + 1];
    assert_eq!(read(&long, None, None).expect_err("long").kind, ToolFailureKind::TooLarge);
    assert_eq!(read(&long, None, Some(MAX_FILE_BYTES)).expect("a part").content.len(), limit);
    assert_eq!(read(&long, Some(1), None).expect("the rest").content.len(), limit);
}

#[test]
fn many_files_keep_their_order_and_fail_one_by_one() {
    let first = memfd(b"one");
    let binary = memfd(b"\xff\xff");
    let denied = ToolFailure::new(ToolFailureKind::Denied, "no");
    let file = |number, size| Handed::File { handle: Handle(number), size: Bytes(size) };
    let files = vec![
        (path("/b"), file(0, 3)),
        (path("/a"), Handed::Failed(denied.clone())),
        (path("/c"), file(1, 2)),
        (path("/d"), Handed::Failed(denied.clone())),
    ];
    let output = Near::start().run(WorkerJob::FileReadMany { files }, &[first.as_fd(), binary.as_fd()]);
    let Ok(JobOutput::FileReadMany(many)) = output else { panic!("{output:?}") };
    let shown: Vec<_> = many.files.iter().map(|item| item.path.as_str()).collect();
    assert_eq!(shown, ["/b", "/a", "/c", "/d"]);
    assert_eq!(many.files[0].result.as_ref().map(|read| read.content.as_str()), Ok("one"));
    assert_eq!(many.files[1].result, Err(denied));
    assert!(matches!(&many.files[2].result, Err(failure) if failure.kind == ToolFailureKind::NotUtf8));
}

#[test]
fn many_files_share_one_budget() {
    let size = MAX_FILE_BYTES;
    let content = vec![b'x'; usize::try_from(size).expect("small")];
    let count = u32::try_from(MAX_READ_MANY_BYTES / size).expect("few") + 1;
    let open: Vec<_> = (0..count).map(|_| memfd(&content)).collect();
    let files = (0..count)
        .map(|number| (path("/f"), Handed::File { handle: Handle(number), size: Bytes(size) }))
        .collect();
    let lent: Vec<_> = open.iter().map(AsFd::as_fd).collect();
    let output = Near::start().run(WorkerJob::FileReadMany { files }, &lent);
    let Ok(JobOutput::FileReadMany(many)) = output else { panic!("a result") };
    let (last, fitting) = many.files.split_last().expect("some");
    assert!(fitting.iter().all(|item| item.result.is_ok()));
    assert!(matches!(&last.result, Err(failure) if failure.kind == ToolFailureKind::TooLarge));
}

#[test]
fn a_write_fills_the_memfd() {
    let scratch = memfd(b"");
    let input = FileWriteInput { path: path("/f"), content: "new\n".to_owned(), append: false };
    let job = WorkerJob::FileWrite { input, scratch: Handle(0) };
    let output = Near::start().run(job, &[scratch.as_fd()]);
    assert!(matches!(output, Ok(JobOutput::FileWrite(written)) if written.bytes_written == Bytes(4)));
    assert_eq!(content_of(scratch), "new\n");
}

fn edit(before: &str, old: &str, new: &str, replace_all: bool) -> Result<(u64, String), ToolFailure> {
    let (file, scratch) = (memfd(before.as_bytes()), memfd(b""));
    let input =
        FileEditInput { path: path("/f"), old_string: old.into(), new_string: new.into(), replace_all };
    let job = WorkerJob::FileEdit { input, file: handed(before.as_bytes()), scratch: Handle(1) };
    match Near::start().run(job, &[file.as_fd(), scratch.as_fd()])? {
        JobOutput::FileEdit(output) => {
            let after = content_of(scratch);
            assert_eq!(output.bytes_before, Bytes(before.len() as u64));
            assert_eq!(output.bytes_after, Bytes(after.len() as u64));
            Ok((output.replacements, after))
        }
        other => panic!("not an edit: {other:?}"),
    }
}

#[test]
fn an_edit_needs_a_unique_match() {
    assert_eq!(edit("a b c", "b", "x", false), Ok((1, "a x c".to_owned())));
    assert_eq!(edit("b b b", "b", "xy", true), Ok((3, "xy xy xy".to_owned())));
    assert_eq!(edit("a b c", "b ", "", false), Ok((1, "a c".to_owned())));
    for (before, old) in [("b b", "b"), ("abc", "x")] {
        let failure = edit(before, old, "y", false).expect_err("not unique");
        assert_eq!(failure.kind, ToolFailureKind::NoUniqueMatch);
    }
    let failure = edit(&"b".repeat(10_000), "b", &"x".repeat(1000), true).expect_err("too long");
    assert_eq!(failure.kind, ToolFailureKind::TooLarge);
}

#[test]
fn a_body_that_panics_fails_its_call() {
    let result = crate::guarded(|| panic!("a defect"));
    assert!(matches!(result, Err(Stop::Failed(failure)) if failure.kind == ToolFailureKind::Io));
}

#[test]
fn a_result_that_no_frame_holds_is_a_failure_and_the_worker_lives() {
    // Every byte becomes six in JSON: 4 MiB of them is more than a frame.
    let content = vec![1_u8; usize::try_from(MAX_FILE_BYTES).expect("small")];
    let open: Vec<_> = (0..4).map(|_| memfd(&content)).collect();
    let files = (0..4)
        .map(|number| (path("/f"), Handed::File { handle: Handle(number), size: Bytes(MAX_FILE_BYTES) }))
        .collect();
    let lent: Vec<_> = open.iter().map(AsFd::as_fd).collect();
    let mut near = Near::start();
    let failure = near.run(WorkerJob::FileReadMany { files }, &lent).expect_err("too long");
    assert_eq!(failure.kind, ToolFailureKind::TooLarge);
    assert!(near.run(WorkerJob::Echo(EchoInput { message: String::new() }), &[]).is_ok());
}

#[test]
fn a_job_with_a_descriptor_too_few_ends_the_worker() {
    let mut near = Near::start();
    let input = FileReadInput { path: path("/f"), offset: None, limit: None };
    let job = WorkerJob::FileRead { input, file: handed(b"") };
    near.send(&WorkerRequest::Call { call: 1, job: Box::new(job) }, &[]);
    let ended = near.worker.take().expect("running").join().expect("no panic");
    assert!(matches!(ended, Err(crate::ServeError::Protocol { .. })));
}
