//! Error codes and error objects of the control interface (SPEC §3).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every code the daemon answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "i64", try_from = "i64")]
pub enum ErrorCode {
    /// The line is not JSON.
    Parse,
    /// The JSON is no JSON-RPC 2.0 request.
    InvalidRequest,
    /// No such method.
    MethodNotFound,
    /// The parameters do not fit the method.
    InvalidParams,
    /// The daemon is at fault.
    Internal,
    /// No such agent, goal, trace or approval that the caller may see.
    NotFound,
    /// A capability is missing.
    CapabilityDenied,
    /// A purse is empty.
    BudgetExceeded,
    /// A limit of SPEC §6 is reached.
    LimitReached,
    /// A human said no, or nobody answered in time.
    ApprovalDenied,
    /// The model provider failed.
    Provider,
    /// The daemon is going down.
    ShuttingDown,
    /// Confinement that is required cannot be had.
    SandboxUnavailable,
    /// The tool ran and failed; the reason says how.
    ToolFailed,
}

/// A number that is no error code of this interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an error code of this interface")]
pub struct UnknownCode(pub i64);

impl ErrorCode {
    /// Every code, in order of declaration.
    pub const ALL: [Self; 14] = [
        Self::Parse,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::NotFound,
        Self::CapabilityDenied,
        Self::BudgetExceeded,
        Self::LimitReached,
        Self::ApprovalDenied,
        Self::Provider,
        Self::ShuttingDown,
        Self::SandboxUnavailable,
        Self::ToolFailed,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Parse => -32_700,
            Self::InvalidRequest => -32_600,
            Self::MethodNotFound => -32_601,
            Self::InvalidParams => -32_602,
            Self::Internal => -32_603,
            Self::NotFound => 1001,
            Self::CapabilityDenied => 1002,
            Self::BudgetExceeded => 1003,
            Self::LimitReached => 1004,
            Self::ApprovalDenied => 1005,
            Self::Provider => 1006,
            Self::ShuttingDown => 1007,
            Self::SandboxUnavailable => 1008,
            Self::ToolFailed => 1009,
        }
    }
}

impl From<ErrorCode> for i64 {
    fn from(code: ErrorCode) -> Self {
        code.number()
    }
}

impl TryFrom<i64> for ErrorCode {
    type Error = UnknownCode;
    fn try_from(number: i64) -> Result<Self, UnknownCode> {
        Self::ALL.into_iter().find(|code| code.number() == number).ok_or(UnknownCode(number))
    }
}

/// The error object of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// What kind.
    pub code: ErrorCode,
    /// What failed, why, and what to do next.
    pub message: String,
    /// A typed reason, for programs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Value>,
}

impl RpcError {
    /// An error without data.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The same error with a typed reason; a reason that cannot be JSON is left out.
    #[must_use]
    pub fn with_data<T: Serialize>(mut self, data: &T) -> Self {
        self.data = serde_json::to_value(data).ok();
        self
    }

    /// The method does not exist.
    #[must_use]
    pub fn method_not_found(method: &str) -> Self {
        let shown: String = method.chars().take(80).collect();
        Self::new(ErrorCode::MethodNotFound, format!("unknown method {shown:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorCode, RpcError};

    #[test]
    fn codes_are_those_of_the_specification() {
        let numbers: Vec<_> = ErrorCode::ALL.into_iter().map(ErrorCode::number).collect();
        let expected =
            [-32700, -32600, -32601, -32602, -32603, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009];
        assert_eq!(numbers, expected);
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::try_from(code.number()), Ok(code));
        }
        assert!(ErrorCode::try_from(1).is_err());
    }

    #[test]
    fn absent_data_is_left_out() {
        let error = RpcError::new(ErrorCode::NotFound, "no such agent");
        let json = serde_json::to_string(&error).expect("plain");
        assert_eq!(json, r#"{"code":1001,"message":"no such agent"}"#);
        assert_eq!(serde_json::from_str::<RpcError>(&json).expect("round trip"), error);
        assert_eq!(error.with_data(&[1]).data, Some(serde_json::json!([1])));
    }
}
