//! Open connections on their way from one agent of a node to the next: taken where nothing of them is half done, and gone
//! on with by the other as if it had opened them.
//!
//! | leaves | with it |
//! |---|---|
//! | a tunnel, either side | its TLS session, its HTTP/2, all its streams and their applications |
//! | a connection without one | both ends, and what was read and not written |
//!
//! A tunnel whose streams are not all answered is left later; one with a tunnel of another network in it, never.

mod error;
mod leave;
mod parcel;
mod resume;
mod told;

pub use error::ResumeError;
pub use leave::{Departure, departures};
pub use parcel::Parcel;
pub use resume::{Host, resume};
