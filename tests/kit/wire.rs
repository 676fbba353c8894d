//! What crosses the wire: every TCP segment at one port of the fabric, as proof of what is, and is
//! not, readable there.

pub mod capture;
pub mod segment;
pub mod trace;

pub use capture::{Capture, Mark};
pub use trace::{Flow, Kind, Trace};
