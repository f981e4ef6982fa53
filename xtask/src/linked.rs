//! What the daemon's own process links: no tool body, no HTTP client, no TLS, nothing that is for tests, and no JSON
//! whose keys come in another order.
//!
//! The daemon parses no stranger's bytes (DESIGN law 8); what is not linked cannot be called by mistake.

use crate::run::{program, read};
use anyhow::{Result, ensure};
use std::path::Path;

/// Packages that must not be in `agentd`, by name or by the start of the name where it ends with `-`.
const BANNED: [&str; 21] = [
    "testkit",
    "aaos-tools",
    "aaos-gateway",
    "aaos-model",
    "reqwest",
    "hyper",
    "hyper-",
    "h2",
    "ureq",
    "isahc",
    "curl",
    "curl-sys",
    "genai",
    "rustls",
    "rustls-",
    "tokio-rustls",
    "ring",
    "aws-lc-",
    "native-tls",
    "openssl",
    "openssl-sys",
];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let args =
        ["tree", "--package", "agentd", "--edges", "normal", "--prefix", "none", "--format", "{p} {f}"];
    let tree = read(program("cargo", args, root))?;
    ensure!(
        tree.lines().any(|line| line.starts_with("aaos-core ")),
        "cargo tree of agentd names no aaos-core"
    );
    Ok(strangers(&tree).into_iter().chain(reordering(&tree)).collect())
}

/// Whether the order of JSON's keys depends on how it was made: what is hashed and shown is in the order of the alphabet.
fn reordering(tree: &str) -> Option<String> {
    let mut json = tree.lines().filter(|line| line.starts_with("serde_json "));
    json.any(|line| line.contains("preserve_order"))
        .then(|| "agentd's serde_json keeps the order of keys: a library turned preserve_order on".to_owned())
}

fn strangers(tree: &str) -> Vec<String> {
    let mut found: Vec<&str> =
        tree.lines().filter_map(|line| line.split(' ').next()).filter(is_banned).collect();
    found.sort_unstable();
    found.dedup();
    found
        .into_iter()
        .map(|name| format!("agentd links {name}: that belongs into a confined process, or into tests"))
        .collect()
}

fn is_banned(name: &&str) -> bool {
    BANNED.iter().any(|ban| if ban.ends_with('-') { name.starts_with(ban) } else { name == ban })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_keeps_the_order_of_keys_is_found() {
        let clean = "aaos-core v0.1.0 (/x) \nserde_json v1.0.154 alloc,default,raw_value,std\n";
        assert_eq!(reordering(clean), None);
        assert!(reordering(&clean.replace("default,", "default,preserve_order,")).is_some());
    }

    #[test]
    fn clients_and_tool_bodies_are_found_and_the_rest_is_not() {
        let clean = "agentd v0.1.0 (/x)\naaos-core v0.1.0 (/x)\ntokio v1.54.0\nringbuf v0.4.0\n";
        assert_eq!(strangers(clean), Vec::<String>::new());
        for package in [
            "reqwest",
            "hyper-util",
            "rustls",
            "ring",
            "aws-lc-rs",
            "openssl",
            "aaos-tools",
            "genai",
            "testkit",
        ] {
            let tree = format!("{clean}{package} v1.0.0 (*)\n{package} v1.0.0\n");
            assert_eq!(strangers(&tree).len(), 1, "{package}");
        }
    }
}
