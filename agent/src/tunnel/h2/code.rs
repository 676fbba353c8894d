//! Error codes, and what ends a connection.

use std::fmt;

use super::hpack::HpackError;

/// An error code of RFC 9113 section 7; those it does not know are kept as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// The stream or connection ends without an error.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke a rule that has no code of its own.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The sender failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// More was sent than the window allowed, or the window grew too large.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame for a stream that was half-closed or closed.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame with an invalid length.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was not processed at all: it may be tried again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer wanted.
    pub const CANCEL: Self = Self(0x8);
    /// A header block that cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The connection of a CONNECT was reset or closed abnormally.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer behaves in a way that costs too much.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    /// The transport is not secure enough.
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    /// The peer wants HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// What the peer did that ends the connection (RFC 9113 section 5.4.1); a GOAWAY with the code is
/// in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("peer broke HTTP/2: {what} ({code})")]
pub struct Violation {
    /// The code of the GOAWAY.
    pub code: Code,
    /// What it was, as a fragment.
    pub what: &'static str,
}

impl Violation {
    pub(super) const fn protocol(what: &'static str) -> Self {
        Self { code: Code::PROTOCOL_ERROR, what }
    }

    pub(super) const fn size(what: &'static str) -> Self {
        Self { code: Code::FRAME_SIZE_ERROR, what }
    }

    pub(super) const fn flow(what: &'static str) -> Self {
        Self { code: Code::FLOW_CONTROL_ERROR, what }
    }

    pub(super) const fn closed(what: &'static str) -> Self {
        Self { code: Code::STREAM_CLOSED, what }
    }

    pub(super) const fn abuse(what: &'static str) -> Self {
        Self { code: Code::ENHANCE_YOUR_CALM, what }
    }
}

impl From<HpackError> for Violation {
    fn from(error: HpackError) -> Self {
        let what = match error {
            HpackError::ListSize => return Self::abuse("header block unpacks to too much"),
            HpackError::Truncated => "header block ends within a field",
            HpackError::IntegerOverflow => "header block has an integer too large",
            HpackError::Index => "header block refers to no entry",
            HpackError::TableSize => "header block enlarges the table beyond the limit",
            HpackError::TableSizes => "header block changes the table size again and again",
            HpackError::LateTableSize => "header block changes the table size after a field",
            HpackError::HuffmanEos => "header string has EOS in it",
            HpackError::HuffmanPadding => "header string has invalid padding",
        };
        Self { code: Code::COMPRESSION_ERROR, what }
    }
}
