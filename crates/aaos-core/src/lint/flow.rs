//! Whether private data can leave: reading it, untrusted content and a way out, together.
//!
//! What counts: everything that a `file_read` grant reaches is private; everything that is fetched from the
//! network is untrusted, and may hold instructions; a request carries data out in its URL, so every host that
//! can be fetched from can be sent to. What a file that others can write holds is not judged.

use crate::capability::{Capability, GrantSpec};
use crate::tool::ResourceKind;

use super::{Finding, Held, Level, Way, named};

const RULE: &str = "lethal-trifecta";

/// The grants that meet.
struct Meeting<'m> {
    read: Vec<&'m GrantSpec>,
    network: Vec<&'m GrantSpec>,
}

impl<'m> Meeting<'m> {
    fn of(held: &Held<'m>, ways: &[Way]) -> Option<Self> {
        let effective = |kind| -> Vec<&'m GrantSpec> {
            held.grants
                .iter()
                .filter(|spec| ResourceKind::of(&spec.capability) == Some(kind))
                .filter(|spec| ways.iter().any(|way| held.has_effect(*way, spec)))
                .collect()
        };
        let meeting =
            Self { read: effective(ResourceKind::FileRead), network: effective(ResourceKind::Network) };
        (!meeting.read.is_empty() && !meeting.network.is_empty()).then_some(meeting)
    }

    /// Named hosts were somebody's choice; whoever attacks can own one of all others.
    fn level(&self) -> Level {
        let named = |spec: &&GrantSpec| match &spec.capability {
            Capability::Network(rules) => rules.iter().all(|rule| !rule.subdomains),
            _ => false,
        };
        if self.network.iter().all(named) { Level::Note } else { Level::Warning }
    }

    fn finding(&self, who: &str, how: &str) -> Finding {
        let (read, network) = (named(self.read.iter().copied()), named(self.network.iter().copied()));
        let level = self.level();
        let hosts = match level {
            Level::Note => {
                "check that none of these hosts shows what strangers write or keeps what it is sent"
            }
            Level::Error | Level::Warning => "or name exact hosts with `network:`",
        };
        Finding {
            level,
            rule: RULE,
            grant: None,
            message: format!(
                "{who} can read private data ({read}) and can take in untrusted content and send data out \
                 ({network}): a page can talk it into putting a file's text into a URL"
            ),
            advice: format!("{how}; {hosts}"),
        }
    }
}

pub(super) fn findings(held: &Held<'_>) -> Vec<Finding> {
    let alone = Meeting::of(held, &[Way::Use]);
    let together = Meeting::of(held, &[Way::Use, Way::HandOn]);
    let mut findings = Vec::new();
    if let Some(meeting) = &alone {
        findings.push(meeting.finding(
            "this one agent, by its own use,",
            "let one child read without a network and another fetch without files, and hold the grants for \
             them with `use: false`",
        ));
    }
    // Said besides the first only where it is worse.
    if let Some(meeting) = &together
        && alone.as_ref().is_none_or(|alone| alone.level() > meeting.level())
    {
        findings.push(meeting.finding(
            "not this agent alone, but only with what it can delegate, it",
            "give no child both, nor what one has read to one that fetches; a grant with `delegate: false` \
             is given to none",
        ));
    }
    findings
}
