//! The first line of a program: what it names to be started by, where it is a script.
//!
//! Invariants: read as the kernel reads it, but a line that the kernel would cut or guess at is a typed failure. No more
//! is read than the kernel looks at.

use std::io::Read;

use aaos_core::limits::SCRIPT_HEAD_BYTES;
use aaos_core::path::AbsPath;
use aaos_core::program::ScriptLine;
use aaos_core::toolio::ToolFailureKind;
use aaos_core::wire::{Handed, JobOutput};

use crate::session::{Session, Stop, fail, io_failure};

/// Body of the look at a program.
pub(crate) fn script_line(session: &mut Session<'_>, program: Handed) -> Result<JobOutput, Stop> {
    let (file, _) = session.file(program)?;
    let mut head = Vec::with_capacity(SCRIPT_HEAD_BYTES);
    file.take(SCRIPT_HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|error| io_failure("read the first line of the program", &error))?;
    match named(&head) {
        Ok(line) => Ok(JobOutput::ScriptLine(line)),
        Err(why) => Err(fail(ToolFailureKind::WrongKind, format!("the first line of the script {why}"))),
    }
}

/// What the beginning of a program names; nothing where it is no script.
fn named(head: &[u8]) -> Result<Option<ScriptLine>, &'static str> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or("is too long or not ended")?;
    let line = std::str::from_utf8(&rest[..end]).map_err(|_| "is not UTF-8")?.trim_matches([' ', '\t']);
    if line.contains('\0') {
        return Err("holds a NUL");
    }
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let interpreter = AbsPath::parse(interpreter).map_err(|_| "names no interpreter by an absolute path")?;
    let argument = argument.trim_matches([' ', '\t']);
    let argument = (!argument.is_empty()).then(|| argument.to_owned());
    let line = ScriptLine { interpreter, argument };
    assert!(line.is_usable(), "agentd takes what is read here");
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use aaos_core::limits::SCRIPT_HEAD_BYTES;

    use super::named;

    fn told(head: &[u8]) -> Result<Option<(String, Option<String>)>, &'static str> {
        named(head).map(|line| line.map(|line| (line.interpreter.to_string(), line.argument)))
    }

    #[test]
    fn a_script_names_its_interpreter_and_at_most_one_argument() {
        let by = |interpreter: &str, argument: Option<&str>| {
            Ok(Some((interpreter.to_owned(), argument.map(str::to_owned))))
        };
        assert_eq!(told(b"#!/bin/sh\nexit\n"), by("/bin/sh", None));
        assert_eq!(told(b"#! \t/bin/sh \t \n"), by("/bin/sh", None));
        assert_eq!(told(b"#!/usr/bin/env -S python3 -E \n"), by("/usr/bin/env", Some("-S python3 -E")));
        let longest = [b"#!/bin/sh ".as_slice(), &[b'x'; SCRIPT_HEAD_BYTES - 11], b"\n"].concat();
        assert_eq!(told(&longest), by("/bin/sh", Some(&"x".repeat(SCRIPT_HEAD_BYTES - 11))));
    }

    #[test]
    fn what_is_no_script_names_nothing() {
        for head in [b"".as_slice(), b"#", b"\x7fELF\x02\x01", b" #!/bin/sh\n", b"exit\n"] {
            assert_eq!(told(head), Ok(None), "{head:?}");
        }
    }

    #[test]
    fn a_line_that_would_be_cut_or_guessed_at_is_refused() {
        for (head, why) in [
            (b"#!/bin/sh".as_slice(), "is too long or not ended"),
            (b"#!/bin/sh\xff\n", "is not UTF-8"),
            (b"#!/bin/s\0h\n", "holds a NUL"),
            (b"#!/bin/sh a\0b\n", "holds a NUL"),
            (b"#!\n", "names no interpreter by an absolute path"),
            (b"#!sh\n", "names no interpreter by an absolute path"),
            (b"#!../sh\n", "names no interpreter by an absolute path"),
        ] {
            assert_eq!(told(head), Err(why), "{head:?}");
        }
    }
}
