//! `cargo xtask readme`: what the README tells people to type works on a clean checkout.
//!
//! A block takes part when its info string is `sh` and a mark, such as `sh run`. Invariants: blocks run in order in a
//! clone of HEAD, without provider keys in the environment, so the result does not hang on who runs it; a mark that no
//! block carries is an error, so a renamed block cannot silently drop out.

use crate::checkout::{CleanCheckout, note_uncommitted, target_directory};
use crate::run::{program, say, succeed};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Taken out of the environment: what a README promises holds without an account anywhere.
const KEYS: [&str; 8] = [
    "DEEPSEEK_API_KEY",
    "DEEPSEEK_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "AAOS_PROVIDER",
    "AAOS_MODEL",
];
/// The marks that are run when none is named.
const MARKS: [&str; 2] = ["test", "run"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    mark: String,
    script: String,
}

pub(crate) fn run(root: &Path, marks: &[String]) -> Result<()> {
    let wanted: Vec<&str> =
        if marks.is_empty() { MARKS.to_vec() } else { marks.iter().map(String::as_str).collect() };
    note_uncommitted(root)?;
    let clone = CleanCheckout::make(root)?;
    let text = std::fs::read_to_string(clone.checkout().join("README.md")).context("read README.md")?;
    for mark in wanted {
        let blocks: Vec<Block> = blocks(&text).into_iter().filter(|block| block.mark == mark).collect();
        ensure!(!blocks.is_empty(), "README.md has no block marked `sh {mark}`");
        for block in blocks {
            run_block(&block, &clone)?;
        }
    }
    Ok(())
}

fn run_block(block: &Block, clone: &CleanCheckout) -> Result<()> {
    for line in block.script.lines() {
        say(&format!("readme [{}] $ {line}", block.mark));
    }
    let script = format!("set -euo pipefail\n{}", block.script);
    let mut command = program("bash", ["-c", &script], &clone.checkout());
    for key in KEYS {
        command.env_remove(key);
    }
    // A run of the README leaves nothing in the caller's state.
    command.env("AAOS_STATE_DIR", clone.base.join("state"));
    command.env("AAOS_SOCKET", clone.base.join("agentd.sock"));
    // A target directory shared with this checkout would hand programs from one to the other: cargo knows its
    // units by their path within a workspace, and theirs are the same.
    if let Some(shared) = target_directory() {
        command.env("CARGO_TARGET_DIR", shared.join("clean-checkout"));
    }
    succeed(command).with_context(|| format!("README.md, block marked `sh {}`", block.mark))
}

/// The marked blocks of a Markdown text, in order.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Option<Block>> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mark = info.strip_prefix("sh ").map(str::trim).filter(|mark| !mark.is_empty());
                open = Some(mark.map(|mark| Block { mark: mark.to_owned(), script: String::new() }));
            }
            (Some(_), Some(_)) => found.extend(open.take().flatten()),
            (Some(Some(block)), None) => {
                block.script.push_str(line);
                block.script.push('\n');
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_blocks_are_taken() {
        let text =
            "# T\n```sh run\n./a \"x\"\n./b\n```\n```sh\nnot me\n```\n```\nsh run\n```\n```sh test\nc\n```\n";
        let found = blocks(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], Block { mark: "run".into(), script: "./a \"x\"\n./b\n".into() });
        assert_eq!(found[1].mark, "test");
    }

    #[test]
    fn a_failing_block_fails() {
        let clone = CleanCheckout::empty("test").unwrap();
        std::fs::create_dir(clone.checkout()).unwrap();
        let block = |script: &str| Block { mark: "run".into(), script: script.into() };
        assert!(run_block(&block("true\n"), &clone).is_ok());
        assert!(run_block(&block("false\ntrue\n"), &clone).is_err(), "the first failing line ends the block");
    }
}
