//! The words of HBONE: port, header names, statuses, and the headers' grammar.
//!
//! Pure: builds and parses, touches no socket. What a peer sends may be any bytes.

mod baggage;
mod forwarded;
mod traceparent;

use http::header::HeaderName;
use http::{HeaderMap, StatusCode};

pub use baggage::Baggage;
pub use forwarded::Forwarded;
pub use traceparent::TraceParent;

/// The TCP port of tunnels on every pod of the mesh.
pub const PORT: u16 = 15008;

/// Who the client is, in W3C baggage; also in answers, of the server.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// The client's address, and the name it used (RFC 7239).
pub const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The network a stream came from; differing from ours, the peer is a gateway.
pub const FORWARDED_NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");
/// Set by waypoints and gateways.
pub const ISTIO_SOURCE: HeaderName = HeaderName::from_static("x-istio-source");

/// Not a CONNECT, or to something that is not ours.
pub const BAD_REQUEST: StatusCode = StatusCode::BAD_REQUEST;
/// Refused by policy. Not 403: ambient meshes answer 401.
pub const DENIED: StatusCode = StatusCode::UNAUTHORIZED;
/// Unknown workload or port, or the application does not answer.
pub const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// The value of the first header of that name, if it is text.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
