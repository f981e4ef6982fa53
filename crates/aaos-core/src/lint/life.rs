//! Agents that are never woken.

use crate::manifest::{Lifecycle, Manifest};

use super::{Finding, Level};

pub(super) fn findings(manifest: &Manifest) -> Vec<Finding> {
    never_due(&manifest.lifecycle).into_iter().collect()
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
