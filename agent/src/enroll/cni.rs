//! The agent's side of CNI: a unix socket that the plugin asks before a pod may start.
//!
//! Only root reaches it: mode 0600, in a directory of mode 0700. A socket left by an earlier agent
//! is replaced by a rename, so that there is no moment without one.

mod server;
pub mod wire;

pub use self::server::{Call, serve};
