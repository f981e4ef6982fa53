//! Which machine this is, and which commit: what figures are worth nothing without.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::goal::GOALS;

/// Digits of a commit that are shown.
const SHOWN_DIGITS: usize = 12;

/// The processor and the kernel.
pub(crate) fn described() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let information = read("/proc/cpuinfo");
    let model = information.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim());
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} × {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// The commit of this checkout, in which nothing but `page` may differ from it.
pub(crate) fn committed(root: &Path, page: &str) -> Result<String> {
    let dirty = git(root, &["status", "--porcelain"])?;
    let other: Vec<&str> = dirty.lines().filter(|line| !line.ends_with(page)).collect();
    ensure!(other.is_empty(), "figures are of a commit, and this is not committed:\n{}", other.join("\n"));
    let commit = git(root, &["rev-parse", "HEAD"])?;
    Ok(commit.trim().chars().take(SHOWN_DIGITS).collect())
}

/// Whether two commits have the same goals; not where one of them is not known.
pub(crate) fn same_goals(root: &Path, one: &str, other: &str) -> bool {
    git(root, &["diff", "--quiet", one, other, "--", GOALS]).is_ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool of the checkout asks git about it; no part of the runtime"
)]
fn git(root: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    let output = command.args(args).current_dir(root).stdin(Stdio::null()).output().context("start git")?;
    ensure!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).context("read what git says")
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::scratch;

    const PAGE: &str = "docs/page.md";

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits everything and gives the commit.
    fn commit(root: &Path) -> String {
        git(root, &["add", "--all"]).unwrap();
        let by = ["-c", "user.name=a", "-c", "user.email=a@b.example"];
        git(root, &[&by[..], &["commit", "--quiet", "--message", "change"]].concat()).unwrap();
        committed(root, PAGE).unwrap()
    }

    #[test]
    fn figures_are_of_a_commit_and_its_goals() {
        let home = scratch();
        let root = home.path();
        git(root, &["init", "--quiet"]).unwrap();
        put(root, &format!("{GOALS}/a.toml"), "1");
        put(root, PAGE, "1");
        let first = commit(root);
        assert_eq!(first.len(), SHOWN_DIGITS);
        put(root, PAGE, "2");
        assert_eq!(committed(root, PAGE).unwrap(), first, "the page itself may differ");
        put(root, "source", "1");
        assert!(committed(root, PAGE).unwrap_err().to_string().contains("source"));
        let second = commit(root);
        assert!(second != first && same_goals(root, &first, &second));
        put(root, &format!("{GOALS}/a.toml"), "2");
        let third = commit(root);
        assert!(!same_goals(root, &first, &third) && !same_goals(root, "no-such-commit", &third));
    }
}
