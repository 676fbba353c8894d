//! W3C trace context: one identifier for a connection, seen at both ends.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;

/// A `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The connection; not zero.
    pub trace: u128,
    /// The hop; not zero.
    pub span: u64,
    /// Trace flags; 0 is "not sampled".
    pub flags: u8,
}

/// The text is no `traceparent` that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version 00 traceparent")]
pub struct TraceParentError;

impl TraceParent {
    /// A new connection's, from 24 random bytes' worth of numbers; a zero becomes 1.
    pub fn new(trace: u128, span: u64) -> Self {
        Self { trace: trace.max(1), span: span.max(1), flags: 0 }
    }

    /// The header's value.
    pub fn header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_string()).ok()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            // `from_str_radix` takes a sign and capitals; the grammar does not.
            let lower = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            lower.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let (version, trace, span, flags) = (hex(2), hex(32), hex(16), hex(2));
        let end = parts.next().is_none();
        match (version, trace, span, flags) {
            (Some(0), Some(trace @ 1..), Some(span @ 1..), Some(flags)) if end => Ok(Self {
                trace,
                span: u64::try_from(span).map_err(|_| TraceParentError)?,
                flags: u8::try_from(flags).map_err(|_| TraceParentError)?,
            }),
            _ => Err(TraceParentError),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_version_00() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(good.parse::<TraceParent>().unwrap().to_string(), good);
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-1",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(TraceParentError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            _ = text.parse::<TraceParent>();
        }

        #[test]
        fn what_is_built_is_read_back(trace: u128, span: u64) {
            let parent = TraceParent::new(trace, span);
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }
    }
}
