//! The principals of the configuration file, and the group of the control socket.
//!
//! Invariants: a name that the machine does not know, an unknown key, a uid that is listed twice and one that needs
//! no listing are errors at the daemon's start; nobody is let in by a guess.

use std::path::Path;

use aaos_core::budget::Ceilings;
use aaos_core::capability::GrantSpec;
use aaos_core::limits::MAX_CAPABILITIES;
use aaos_core::quantity::{MicroUsd, Quantity};
use aaos_runtime::{Ceiling, Listed, Principals, Right};
use anyhow::{Context, Result, bail};
use serde::Deserialize;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// One `[[principals]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalEntry {
    uid: Option<u32>,
    user: Option<String>,
    rights: Vec<Right>,
    #[serde(default)]
    grants: Vec<String>,
    max_tokens: Option<u64>,
    max_usd: Option<String>,
}

impl PrincipalEntry {
    fn resolve(&self) -> Result<Listed> {
        let uid = match (self.uid, &self.user) {
            (Some(uid), None) => uid,
            (None, Some(user)) => id_of(Path::new(USERS), user)
                .with_context(|| format!("there is no user {user:?}; name one, or give its uid"))?,
            _ => bail!("one of the [[principals]] names not exactly one of `uid` and `user`"),
        };
        let ceiling = self.ceiling().with_context(|| format!("[[principals]] of uid {uid}"))?;
        Ok(Listed { uid, rights: self.rights.iter().copied().collect(), ceiling })
    }

    fn ceiling(&self) -> Result<Ceiling> {
        if self.grants.len() > MAX_CAPABILITIES {
            bail!("more than {MAX_CAPABILITIES} grants");
        }
        let parse = |text: &String| GrantSpec::parse(text).with_context(|| format!("the grant {text:?}"));
        let grants = self.grants.iter().map(parse).collect::<Result<Vec<_>>>()?;
        let usd = |text: &String| {
            let amount = MicroUsd::from_decimal(text);
            let words =
                || format!("max_usd is {text:?}; write dollars with at most six decimals, as in \"5.00\"");
            amount.map(|amount| amount.0).with_context(words)
        };
        let dollars = self.max_usd.as_ref().map(usd).transpose()?;
        let max = Ceilings::NONE.with(Quantity::Tokens, self.max_tokens).with(Quantity::MicroUsd, dollars);
        Ok(Ceiling::new(grants, max))
    }
}

/// Who may speak to a daemon of this uid.
pub(super) fn resolve(entries: &[PrincipalEntry], daemon_uid: u32) -> Result<Principals> {
    let listed = entries.iter().map(PrincipalEntry::resolve).collect::<Result<Vec<_>>>();
    let listed = listed.context("the [[principals]] of the configuration file cannot be used")?;
    Principals::new(daemon_uid, listed).context("the [[principals]] of the configuration file cannot be used")
}

/// The number of a group that is given by name or by number.
pub(super) fn group(text: &str) -> Result<u32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    id_of(Path::new(GROUPS), text)
        .with_context(|| format!("socket_group: there is no group {text:?}; name one, or give its number"))
}

/// The number behind a name, in a file of the form of passwd(5) and group(5).
fn id_of(database: &Path, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(database).ok()?;
    let mut rows = text.lines().map(|line| line.split(':'));
    rows.find_map(|mut row| if row.next() == Some(name) { row.nth(1)?.parse().ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::{group, resolve};
    use crate::settings::file::ConfigFile;
    use aaos_runtime::{Principals, Right};

    fn read(text: &str) -> Result<Principals, String> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| error.to_string())?;
        resolve(&file.principals, 1000).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_uid_or_a_user_gets_its_rights() {
        let some = "[[principals]]\nuid = 1001\nrights = [\"observe\", \"submit\"]\n\
                    grants = [\"file_read: /srv/data/*\", \"{ tool: echo, max_invocations: 3 }\"]\n\
                    max_tokens = 5\nmax_usd = \"5.00\"\n[[principals]]\nuser = \"daemon\"\nrights = []\n";
        let principals = read(some).expect("usable");
        let one = principals.admit(1001).expect("listed");
        assert!(one.may(Right::Observe) && one.may(Right::Submit) && !one.may(Right::Administer));
        let other = principals.admit(group("daemon").expect("a group of that number too")).expect("listed");
        assert!(!other.may(Right::Observe));
        assert!(read("").expect("nobody").admit(1001).is_none());
    }

    #[test]
    fn what_is_not_clear_is_refused_with_words() {
        for (text, word) in [
            ("uid = 1001\nrights = []\nmax_toknes = 5", "max_toknes"),
            ("uid = 1001\nrights = [\"submti\"]", "submti"),
            ("uid = 1001", "rights"),
            ("rights = []", "exactly one of `uid` and `user`"),
            ("uid = 1001\nuser = \"daemon\"\nrights = []", "exactly one of `uid` and `user`"),
            ("user = \"no-such-user-here\"\nrights = []", "no-such-user-here"),
            ("uid = 1000\nrights = []", "the daemon's own uid"),
            ("uid = 0\nrights = []", "root"),
            ("uid = 1001\nrights = []\ngrants = [\"file_reed: /x\"]", "file_reed"),
            ("uid = 1001\nrights = []\nmax_usd = \"5,00\"", "5,00"),
            ("uid = 1\nrights = []\n[[principals]]\nuid = 1\nrights = []", "uid 1 is listed twice"),
        ] {
            let error = read(&format!("[[principals]]\n{text}\n")).expect_err(text);
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(group("root").expect("there"), 0);
        assert_eq!(group("4242").expect("a number"), 4242);
        let error = group("no-such-group-here").expect_err("unknown").to_string();
        assert!(error.contains("no-such-group-here"), "{error}");
    }
}
