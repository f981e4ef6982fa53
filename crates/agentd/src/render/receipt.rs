//! A confinement receipt as a table.

use aaos_core::confinement::{Boundary, BoundaryReceipt, ConfinementPolicy, ConfinementReceipt, Evidence};

use super::entry::word;
use super::table::Table;

/// What a policy says of a boundary.
pub(crate) fn demand(policy: &ConfinementPolicy, boundary: Boundary) -> &'static str {
    if policy.require.contains(&boundary) {
        "required"
    } else if policy.prefer.contains(&boundary) {
        "preferred"
    } else {
        "-"
    }
}

/// The lines of the table: what the policy demands, what was proved, and how.
pub(crate) fn lines(receipt: &ConfinementReceipt, policy: &ConfinementPolicy) -> Vec<String> {
    let mut table = Table::new(&["boundary", "policy", "evidence", "seen"]);
    for BoundaryReceipt { boundary, evidence, detail } in &receipt.boundaries {
        table.row(&[&word(boundary), demand(policy, *boundary), &word(evidence), &detail.replace('\t', " ")]);
    }
    table.lines()
}

/// Boundaries of a list that nothing proves.
pub(crate) fn unproved(receipt: &ConfinementReceipt, list: &[Boundary]) -> Vec<Boundary> {
    let unproved = |boundary: &&Boundary| !Evidence::is_proof(receipt.evidence(**boundary));
    list.iter().filter(unproved).copied().collect()
}
