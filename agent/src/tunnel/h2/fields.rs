//! Header lists, from decoded fields to requests and responses (RFC 9113 section 8).

use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, StatusCode};

use super::hpack::ENTRY_OVERHEAD;

/// Which fields a header block may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    Trailers,
    /// Nobody wants it; it is decoded for the sake of the compression state.
    Ignored,
}

/// Why a header list is not taken: a stream error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// RFC 9113 section 8.1.1: PROTOCOL_ERROR.
    Malformed,
    /// Larger than we allow (section 10.5.1).
    TooLarge,
}

/// A header list as it is decoded.
#[derive(Debug)]
pub(super) struct Fields {
    kind: Kind,
    /// Bytes left, as section 6.5.2 counts them.
    room: usize,
    fault: Option<Fault>,
    /// A field came that is no pseudo-header: no pseudo-header may follow (section 8.3).
    regular: bool,
    method: Option<Method>,
    authority: Option<String>,
    scheme: Option<()>,
    path: Option<()>,
    status: Option<StatusCode>,
    headers: HeaderMap,
}

impl Fields {
    pub(super) fn new(kind: Kind, max: u32) -> Self {
        Self {
            kind,
            room: max as usize,
            fault: None,
            regular: false,
            method: None,
            authority: None,
            scheme: None,
            path: None,
            status: None,
            headers: HeaderMap::new(),
        }
    }

    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) {
        if self.fault.is_some() || self.kind == Kind::Ignored {
            return;
        }
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        let Some(room) = self.room.checked_sub(size) else {
            self.fault = Some(Fault::TooLarge);
            return;
        };
        self.room = room;
        let taken = match name.split_first() {
            Some((b':', pseudo)) => self.pseudo(pseudo, value),
            _ => self.field(name, value),
        };
        if taken.is_none() {
            self.fault = Some(Fault::Malformed);
        }
    }

    /// Section 8.3: known, of the right kind of message, once, and before all other fields.
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if self.regular {
            return None;
        }
        let request = self.kind == Kind::Request;
        match name {
            b"method" if request => once(&mut self.method, Method::from_bytes(value).ok()?),
            b"authority" if request => once(&mut self.authority, visible(value)?),
            b"scheme" if request && !value.is_empty() => once(&mut self.scheme, ()),
            b"path" if request && !value.is_empty() => once(&mut self.path, ()),
            b"status" if self.kind == Kind::Response => {
                once(&mut self.status, StatusCode::from_bytes(value).ok()?)
            }
            // `:protocol` too: we do not offer extended CONNECT (RFC 8441).
            _ => None,
        }
    }

    /// Sections 8.2.1 and 8.2.2.
    fn field(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        self.regular = true;
        // Refuses upper case and all that is no token.
        let name = HeaderName::from_lowercase(name).ok()?;
        if is_connection_specific(name.as_str()) || (name == TE && value != b"trailers") {
            return None;
        }
        if [value.first(), value.last()].iter().any(|end| matches!(end, Some(b' ' | b'\t'))) {
            return None;
        }
        self.headers.try_append(name, HeaderValue::from_bytes(value).ok()?).ok()?;
        Some(())
    }

    /// Section 8.3.1, and 8.5 for CONNECT.
    pub(super) fn request(self) -> Result<(Method, String, HeaderMap), Fault> {
        self.fault.map_or(Ok(()), Err)?;
        let method = self.method.ok_or(Fault::Malformed)?;
        let target = (self.scheme.is_some(), self.path.is_some());
        let fits = if method == Method::CONNECT {
            self.authority.is_some()
                && target == (false, false)
                // It has no content whose length could be told (RFC 9110 section 9.3.6).
                && !self.headers.contains_key(CONTENT_LENGTH)
        } else {
            target == (true, true)
        };
        let authority = self.authority.unwrap_or_default();
        let same = self.headers.get_all(HOST).iter().all(|host| {
            authority.is_empty() || host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
        });
        if fits && same { Ok((method, authority, self.headers)) } else { Err(Fault::Malformed) }
    }

    /// Section 8.3.2.
    pub(super) fn response(self) -> Result<(StatusCode, HeaderMap), Fault> {
        self.fault.map_or(Ok(()), Err)?;
        let status = self.status.ok_or(Fault::Malformed)?;
        // Section 8.6: HTTP/2 has no 101.
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fault::Malformed);
        }
        Ok((status, self.headers))
    }

    pub(super) fn trailers(self) -> Result<(), Fault> {
        self.fault.map_or(Ok(()), Err)
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// Nothing that is blank or no ASCII belongs into an authority.
fn visible(value: &[u8]) -> Option<String> {
    value.iter().all(u8::is_ascii_graphic).then(|| str::from_utf8(value).map(str::to_owned))?.ok()
}

/// Section 8.2.2.
fn is_connection_specific(name: &str) -> bool {
    matches!(
        name,
        "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade"
    )
}

/// The length of the content (section 8.1.1), if told.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Fault::Malformed);
        }
        let told: u64 = value.to_str().ok().and_then(|s| s.parse().ok()).ok_or(Fault::Malformed)?;
        if length.replace(told).is_some_and(|before| before != told) {
            return Err(Fault::Malformed);
        }
    }
    Ok(length)
}

/// What a header list counts (section 6.5.2).
pub(super) fn list_size<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> usize {
    fields.map(|(name, value)| name.len() + value.len() + ENTRY_OVERHEAD).sum()
}
