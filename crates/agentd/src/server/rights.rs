//! Which right each method of the control socket needs.
//!
//! Invariant: a method without a row here cannot be called: it is answered like one that does not exist.

use aaos_ipc::{ErrorCode, RpcError};
use aaos_runtime::{Principal, Right};
use serde::Serialize;

/// The right that a method needs; nothing for a method that there is not.
fn needed(method: &str) -> Option<Right> {
    Some(match method {
        "agent.list" | "agent.status" | "agent.result" | "agent.logs_streaming" => Right::Observe,
        "agent.spawn" | "agent.spawn_and_run" | "agent.run" | "agent.submit_streaming" => Right::Submit,
        "agent.stop" | "agent.pause" | "agent.resume" => Right::Submit,
        "goal.list" | "goal.status" | "goal.follow" => Right::Observe,
        "goal.submit" | "goal.fork" | "goal.cancel" => Right::Submit,
        "tool.list" => Right::Observe,
        "tool.invoke" => Right::Submit,
        "approval.list" | "approval.respond" => Right::Approve,
        "capability.list" | "capability.explain" => Right::Observe,
        "capability.revoke" => Right::Submit,
        "audit.query" | "audit.stream" => Right::Observe,
        "audit.verify" | "audit.prune" => Right::Administer,
        "runtime.status" => Right::Observe,
        "runtime.models" => Right::Administer,
        _ => return None,
    })
}

/// Refuses a method that there is not, or for which the caller lacks the right.
pub(super) fn check(caller: Principal, method: &str) -> Result<(), RpcError> {
    #[derive(Serialize)]
    struct MissingRight {
        reason: &'static str,
        right: Right,
    }
    let right = needed(method).ok_or_else(|| RpcError::method_not_found(method))?;
    if caller.may(right) {
        return Ok(());
    }
    let uid = caller.uid();
    let message = format!(
        "uid {uid} has no right to {right}, which {method} needs; the operator gives it in [[principals]] of the \
         configuration file"
    );
    tracing::info!(uid, method, %right, "a request was refused");
    let error = RpcError::new(ErrorCode::CapabilityDenied, message);
    Err(error.with_data(&MissingRight { reason: "missing_right", right }))
}

#[cfg(test)]
mod tests {
    use super::{check, needed};
    use aaos_runtime::{Ceiling, Listed, Principals, Right};

    /// The server's methods, read where they stand.
    const SERVER: &str = include_str!("methods.rs");
    const GROUPS: [&str; 7] = ["agent", "goal", "tool", "audit", "runtime", "approval", "capability"];

    fn served() -> Vec<&'static str> {
        let is_method = |word: &&str| {
            let (group, method) = word.split_once('.').unwrap_or_default();
            GROUPS.contains(&group) && method.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        SERVER.split('"').filter(is_method).collect()
    }

    #[test]
    fn every_method_of_the_server_needs_a_right() {
        let served = served();
        assert!(served.len() > 20, "{served:?}");
        for method in served {
            assert!(needed(method).is_some(), "{method} has no row");
        }
        assert_eq!(needed("agent.spwan"), None, "the control");
    }

    #[test]
    fn a_method_is_open_to_its_right_alone() {
        let every = [Right::Observe, Right::Submit, Right::Approve, Right::Administer];
        let listed = every.iter().enumerate().map(|(at, right)| Listed {
            uid: 2000 + at as u32,
            rights: [*right].into_iter().collect(),
            ceiling: Ceiling::new(Vec::new(), Default::default()),
        });
        let principals = Principals::new(1000, listed).expect("a list");
        for method in served() {
            for (at, right) in every.iter().enumerate() {
                let caller = principals.admit(2000 + at as u32).expect("listed");
                assert_eq!(check(caller, method).is_ok(), needed(method) == Some(*right), "{method} {right}");
            }
            assert!(check(principals.admit(1000).expect("the daemon's own"), method).is_ok(), "{method}");
        }
        let observer = principals.admit(2000).expect("listed");
        let refused = check(observer, "goal.submit").expect_err("may only look");
        assert_eq!(i64::from(refused.code), 1002);
        let told = serde_json::json!({ "reason": "missing_right", "right": "submit" });
        assert_eq!(refused.data, Some(told));
        let unknown = check(observer, "agent.spwan").expect_err("no such method");
        assert_eq!(i64::from(unknown.code), -32601);
    }
}
