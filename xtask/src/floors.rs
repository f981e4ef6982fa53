//! Which room may use which: the floors table of ARCHITECTURE.md against the dependencies in the manifests.
//!
//! Invariants: the table and the workspaces name the same crates; a crate on a floor uses only lower floors; a far
//! crate uses only what [`FAR_MAY_USE`] names; nobody ships a dev crate. Dev-dependencies are free.

use crate::run::{program, read};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What the far side of a process boundary shares with the near side.
const FAR_MAY_USE: [&str; 2] = ["aaos-core", "aaos-confine"];

/// The crate that is a workspace of its own.
const WORKSPACE_APART: &str = "crates/aaos-model";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    Level(u32),
    Far,
    Dev,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// Absent for a normal dependency.
    kind: Option<String>,
}

type Table = BTreeMap<String, Floor>;

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let table = parse_table(&text).context("read the floors table of ARCHITECTURE.md")?;
    let mut packages = packages_of(root)?;
    packages.extend(packages_of(&root.join(WORKSPACE_APART))?);
    Ok(violations(&table, &packages))
}

/// The packages of the workspace in a folder.
fn packages_of(folder: &Path) -> Result<Vec<Package>> {
    let metadata = read(program("cargo", ["metadata", "--no-deps", "--format-version", "1"], folder))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("read cargo metadata")?;
    Ok(metadata.packages)
}

/// Rows `| floor | crate, crate | … |` below the header `| floor | crate |`.
fn parse_table(text: &str) -> Result<Table> {
    let mut rows = text.lines().map(cells).skip_while(|row| !row.starts_with(&["floor", "crate"]));
    ensure!(rows.next().is_some(), "no table that begins with | floor | crate |");
    let mut table = Table::new();
    for row in rows.take_while(|row| row.len() >= 2) {
        if row[0].starts_with("--") {
            continue;
        }
        let floor = match row[0] {
            "far" => Floor::Far,
            "dev" => Floor::Dev,
            level => Floor::Level(level.parse().with_context(|| format!("floor {level:?}"))?),
        };
        for name in row[1].split(',').map(|name| name.trim().trim_matches('`')) {
            if table.insert(name.to_owned(), floor).is_some() {
                bail!("{name} stands in the table twice");
            }
        }
    }
    ensure!(!table.is_empty(), "the table is empty");
    Ok(table)
}

fn cells(line: &str) -> Vec<&str> {
    let inner = line.trim().strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner.map(|inner| inner.split('|').map(str::trim).collect()).unwrap_or_default()
}

fn violations(table: &Table, packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for name in table.keys().filter(|name| !packages.iter().any(|package| package.name == **name)) {
        found.push(format!("ARCHITECTURE.md gives a floor to {name}, which is not in the workspace"));
    }
    for package in packages {
        let Some(floor) = table.get(&package.name) else {
            found.push(format!("{} has no floor in ARCHITECTURE.md", package.name));
            continue;
        };
        let shipped =
            package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        for dependency in shipped {
            let Some(below) = table.get(&dependency.name) else { continue };
            if !may_use(*floor, &dependency.name, *below) {
                found.push(format!(
                    "{} ({floor:?}) may not use {} ({below:?})",
                    package.name, dependency.name
                ));
            }
        }
    }
    found
}

fn may_use(floor: Floor, name: &str, below: Floor) -> bool {
    match (floor, below) {
        (Floor::Dev, _) => true,
        (Floor::Far, _) => FAR_MAY_USE.contains(&name),
        (Floor::Level(floor), Floor::Level(below)) => below < floor,
        (Floor::Level(_), Floor::Far | Floor::Dev) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "text\n\n| floor | crate | what |\n|---|---|---|\n| 0 | `aaos-core` | a |\n| 1 | `aaos-confine` | b |\n\
        | 1 | `aaos-ipc` | c |\n| 2 | `aaos-journal` | d |\n| far | `aaos-tools` | e |\n| dev | `testkit`, `xtask` | f |\n\nmore\n";

    fn packages(edges: &[(&str, &str, Option<&str>)]) -> Vec<Package> {
        let names = parse_table(TABLE).unwrap().into_keys();
        let dependencies = |name: &str| {
            let mine = edges.iter().filter(|(from, ..)| *from == name);
            mine.map(|(_, to, kind)| Dependency { name: (*to).into(), kind: kind.map(Into::into) }).collect()
        };
        names.map(|name| Package { dependencies: dependencies(&name), name }).collect()
    }

    fn check(edges: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        violations(&parse_table(TABLE).unwrap(), &packages(edges))
    }

    #[test]
    fn the_table_is_read_with_several_crates_in_a_row() {
        let table = parse_table(TABLE).unwrap();
        assert_eq!(table.len(), 7);
        assert_eq!((table["aaos-journal"], table["xtask"]), (Floor::Level(2), Floor::Dev));
        assert!(parse_table("| a | b |").is_err());
    }

    #[test]
    fn down_is_allowed() {
        let edges = [
            ("aaos-journal", "aaos-core", None),
            ("aaos-tools", "aaos-confine", None),
            ("testkit", "aaos-ipc", None),
        ];
        assert_eq!(check(&edges), Vec::<String>::new());
        assert_eq!(check(&[("aaos-core", "testkit", Some("dev"))]), Vec::<String>::new());
    }

    #[test]
    fn up_sideways_far_and_dev_are_refused() {
        let wrong = [
            ("aaos-core", "aaos-journal"),
            ("aaos-ipc", "aaos-confine"),
            ("aaos-journal", "aaos-tools"),
            ("aaos-journal", "testkit"),
            ("aaos-tools", "aaos-ipc"),
        ];
        for (from, to) in wrong {
            assert_eq!(check(&[(from, to, None)]).len(), 1, "{from} uses {to}");
            assert_eq!(check(&[(from, to, Some("build"))]).len(), 1, "{from} builds with {to}");
        }
    }

    #[test]
    fn table_and_workspace_name_the_same_crates() {
        let table = parse_table(TABLE).unwrap();
        let mut all = packages(&[]);
        all[0].name = "aaos-new".into();
        assert_eq!(violations(&table, &all).len(), 2);
    }
}
