//! `file_read` and `file_read_many`: text out of file descriptors.
//!
//! Invariants: what is returned is whole UTF-8 characters; a file that is no text is a typed failure and never
//! replaced characters. No more is read than the limit and a few bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use aaos_core::limits::{MAX_FILE_BYTES, MAX_READ_MANY_BYTES};
use aaos_core::path::AbsPath;
use aaos_core::quantity::Bytes;
use aaos_core::toolio::{
    FileReadInput, FileReadManyOutput, FileReadOutput, ReadManyItem, ToolFailure, ToolFailureKind,
};
use aaos_core::wire::{Handed, JobOutput};

use crate::session::{Session, Stop, io_failure};

/// Longest UTF-8 encoding of one character.
const LONGEST_CHARACTER: u64 = 4;

/// Body of `file_read`.
pub(crate) fn file_read(
    session: &mut Session<'_>,
    input: &FileReadInput,
    file: Handed,
) -> Result<JobOutput, Stop> {
    let (file, size) = session.file(file)?;
    Ok(JobOutput::FileRead(read_part(file, size, input.offset.unwrap_or(0), input.limit)?))
}

/// Body of `file_read_many`: each item by itself, all of them within one budget.
pub(crate) fn file_read_many(session: &mut Session<'_>, files: Vec<(AbsPath, Handed)>) -> JobOutput {
    let mut left = MAX_READ_MANY_BYTES;
    let mut items = Vec::with_capacity(files.len());
    for (path, handed) in files {
        let result = session.file(handed).and_then(|(file, size)| {
            if size > left {
                let message = format!(
                    "{size} bytes do not fit into what is left of {MAX_READ_MANY_BYTES} for one call; \
                     read it by itself"
                );
                return Err(ToolFailure::new(ToolFailureKind::TooLarge, message));
            }
            read_part(file, size, 0, None)
        });
        if let Ok(read) = &result {
            left = left.saturating_sub(read.content.len() as u64);
        }
        items.push(ReadManyItem { path, result });
    }
    JobOutput::FileReadMany(FileReadManyOutput { files: items })
}

/// The whole content of a file as text, up to the limit of one file.
pub(crate) fn read_whole(file: File, size: u64) -> Result<String, ToolFailure> {
    Ok(read_part(file, size, 0, None)?.content)
}

/// Up to `limit` bytes from `offset` on, moved inward to whole characters.
fn read_part(
    mut file: File,
    size: u64,
    offset: u64,
    limit: Option<u64>,
) -> Result<FileReadOutput, ToolFailure> {
    let most = limit.unwrap_or(MAX_FILE_BYTES).min(MAX_FILE_BYTES);
    let failed = |error: std::io::Error| io_failure("read the file", &error);
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let due = size.saturating_sub(offset).min(most) + LONGEST_CHARACTER + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(due).unwrap_or(0));
    // One character more than wanted shows whether the end of the part is the end of the file.
    (&file).take(most + LONGEST_CHARACTER).read_to_end(&mut bytes).map_err(failed)?;
    let goes_on = bytes.len() as u64 > most;
    if goes_on && limit.is_none() {
        let message = format!(
            "the file has {size} bytes, more than the limit of {MAX_FILE_BYTES}; read it in parts with \
             offset and limit"
        );
        return Err(ToolFailure::new(ToolFailureKind::TooLarge, message));
    }
    let start = if offset == 0 { 0 } else { leading_continuation(&bytes) };
    let end = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
    let part = bytes.get(start..end).unwrap_or_default();
    let content = whole_characters(part, goes_on)?;
    if content.is_empty() && goes_on {
        let message =
            format!("limit {most} is shorter than the character there; ask for {LONGEST_CHARACTER}");
        return Err(ToolFailure::new(ToolFailureKind::InvalidArguments, message));
    }
    Ok(FileReadOutput { content: content.to_owned(), size_bytes: Bytes(size) })
}

/// Bytes at the start that belong to a character which began before.
fn leading_continuation(bytes: &[u8]) -> usize {
    let longest = usize::try_from(LONGEST_CHARACTER - 1).unwrap_or(0);
    bytes.iter().take(longest).take_while(|byte| **byte & 0xc0 == 0x80).count()
}

/// The part as text; a character that the part's own end cuts is left out.
fn whole_characters(part: &[u8], may_be_cut: bool) -> Result<&str, ToolFailure> {
    let error = match std::str::from_utf8(part) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let (good, _) = part.split_at(error.valid_up_to());
    match std::str::from_utf8(good) {
        Ok(text) if may_be_cut && error.error_len().is_none() => Ok(text),
        _ => Err(ToolFailure::new(
            ToolFailureKind::NotUtf8,
            format!("not UTF-8 text (byte {} of what was read); this tool reads text only", good.len()),
        )),
    }
}
