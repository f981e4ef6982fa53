//! Agents that are never woken, and agents that are started again for ever at somebody's expense.

use crate::manifest::{Lifecycle, Manifest};
use crate::supervision::RestartPolicy;

use super::{Finding, Level};

pub(super) fn findings(manifest: &Manifest) -> Vec<Finding> {
    never_due(&manifest.lifecycle).into_iter().chain(unbounded_restarts(manifest)).collect()
}

fn never_due(lifecycle: &Lifecycle) -> Option<Finding> {
    let spec = lifecycle.schedule().filter(|spec| !spec.schedule.can_fire())?;
    Some(Finding {
        level: Level::Error,
        rule: "schedule-never-due",
        grant: None,
        message: format!("the schedule \"{}\" names days that no year has", spec.schedule),
        advice: "name a day of month that one of its months has, or leave a day field at `*`".to_owned(),
    })
}

/// An agent for one run that is started again after each run costs money for as long as the daemon lives: what bounds
/// its restarts bounds only how many there are in a window.
fn unbounded_restarts(manifest: &Manifest) -> Option<Finding> {
    let budget = &manifest.budget_config;
    let bounded = budget.max_usd.is_some() || budget.max_tokens.is_some() || budget.max_wall.is_some();
    let again_and_again = manifest.supervision.restart == RestartPolicy::Always
        && manifest.lifecycle == Lifecycle::OnDemand
        && manifest.supervision.max_usd.is_none()
        && !bounded;
    again_and_again.then(|| Finding {
        level: Level::Warning,
        rule: "restart-without-budget",
        grant: None,
        message: "`supervision` starts this on-demand agent again after each run, and nothing bounds what that costs"
            .to_owned(),
        advice: "set `max_tokens`, `max_usd` or `max_wall_seconds` in `budget_config`, or `max_usd` in `supervision`, \
                 or write `restart: on-failure`"
            .to_owned(),
    })
}
