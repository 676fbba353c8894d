//! What others can see of us: metrics, the access log, the admin page, readiness, logs.
//!
//! Input is plain data: connections as [`ConnectionInfo`], the rest through closures that the
//! composition root passes in and that are called only when somebody asks. Nothing here decides.
//!
//! | task | started by | ends |
//! |---|---|---|
//! | metrics server | [`metrics_server::serve`] | its token |
//! | readiness server | [`ready::serve`] | its token |
//! | admin server | [`admin::serve`] | its token |
//! | log writer (a thread) | [`log::init`] | when [`log::LogGuard`] is dropped |

pub mod access_log;
pub mod admin;
pub mod connection;
pub mod dump;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod metrics_server;
pub mod names;
pub mod node;
pub mod ready;
pub mod roots;
mod series;
#[cfg(test)]
mod testing;

pub use access_log::connection_failed;
pub use admin::Admin;
pub use connection::{ConnectionInfo, ConnectionRecord, Outcome, Party, Transferred};
pub use dump::ConfigDump;
pub use labels::{ConnectionLabels, Reporter, ResponseFlags};
pub use metrics::{Metrics, ThreadMetrics};
pub use node::NodeStats;
pub use ready::{Pending, Readiness};
