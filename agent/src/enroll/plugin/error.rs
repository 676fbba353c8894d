//! Errors as CNI wants them: JSON on standard output.

use std::fmt;

use serde_json::json;

/// Codes of the CNI specification that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The configuration's version is not supported.
    Version = 1,
    /// An environment variable is missing or malformed.
    Environment = 4,
    /// Input or output failed.
    Io = 5,
    /// What was read is no JSON, or not of the right shape.
    Decode = 6,
    /// The configuration cannot be right.
    Config = 7,
    /// It may go well later.
    TryAgain = 11,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CniError {
    code: Code,
    message: String,
    details: String,
}

impl CniError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub(super) fn because(mut self, cause: &dyn fmt::Display) -> Self {
        self.details = cause.to_string();
        self
    }

    pub(super) fn to_json(&self, version: &str) -> String {
        let version = if version.is_empty() { "1.0.0" } else { version };
        let mut error = json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": format!("sotto: {}", self.message),
        });
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        error.to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}
