//! Looking through the roots that an operator grants, before an agent has them: what holds sockets, FIFOs or devices is
//! said with the grant.
//!
//! Invariants: only the operator's own roots are looked through, once each; what a child is granted lies below them. The
//! time is bounded over all roots of an agent, and few are looked through at once; a root that was not reached within it
//! says so. Nothing waits for a file system that does not answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aaos_core::grant::{GrantRequest, RootIdentity};
use aaos_core::limits::SURVEY_TIME_MS;
use aaos_core::path::Reach;
use aaos_sandbox::Survey;

use crate::kernel::Kernel;

impl Kernel {
    /// Looks through the opened roots of an operator's grants, and notes in each what it holds.
    pub(crate) async fn look_through(&self, requests: &mut [GrantRequest]) {
        let mut surveys: HashMap<RootIdentity, Survey> = HashMap::new();
        let mut order = Vec::new();
        for request in requests.iter() {
            // Of one file there is nothing to look through.
            if let Some(root) = root_of(request)
                && !surveys.contains_key(root)
            {
                let survey = Survey::new();
                surveys.insert(root.clone(), survey.clone());
                order.push((request.id, survey));
            }
        }
        let all = async {
            for (grant, survey) in order {
                // Held by who looks: a file system that does not answer keeps it, whoever waits no longer.
                let Ok(place) = Arc::clone(self.survey_places()).acquire_owned().await else { return };
                let roots = self.roots().clone();
                let look = move || {
                    survey.look_through(&roots, grant);
                    drop(place);
                };
                let looked = tokio::task::spawn_blocking(look).await;
                if let Err(error) = looked {
                    tracing::error!(%error, "looking through a granted root died");
                }
            }
        };
        if self.clock().timeout(Duration::from_millis(SURVEY_TIME_MS), all).await.is_none() {
            tracing::debug!("granted roots were not looked through in time");
        }
        for request in requests {
            request.special = root_of(request).and_then(|root| surveys.get(root)?.end());
        }
    }
}

/// The root that a grant of files opened, unless it is one file.
fn root_of(request: &GrantRequest) -> Option<&RootIdentity> {
    let pattern = request.capability.file_pattern()?;
    request.root.as_ref().filter(|_| pattern.reach() == Reach::Subtree)
}
