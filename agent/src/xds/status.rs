//! What readiness, metrics and the admin page need to know of the client.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::mesh::ResourceKind;

use super::delta::{Handled, Rejection};
use crate::error::chain;

/// Rejections are remembered by name; a control plane that sends nonsense is counted, not stored.
const MAX_REJECTIONS: usize = 1000;

/// How connections ended, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terminations {
    /// No connection came about.
    pub connection_error: u64,
    /// The stream failed.
    pub error: u64,
    /// The control plane ended the stream in order.
    pub complete: u64,
}

/// Figures of one kind of resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindStatus {
    /// The first state is here.
    pub synced: bool,
    /// Responses received.
    pub messages: u64,
    /// Bytes of their resources.
    pub bytes: u64,
    /// Of those, with something rejected.
    pub rejected_messages: u64,
    /// Resources held.
    pub held: usize,
}

/// The client's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XdsStatus {
    /// A response came on the present connection.
    pub connected: bool,
    /// When the last response came.
    pub last_answer: Option<SystemTime>,
    /// Why the last connection ended or could not be made; none while connected.
    pub last_error: Option<String>,
    /// How connections ended.
    pub terminations: Terminations,
    /// Workloads and services.
    pub address: KindStatus,
    /// Policies.
    pub authorization: KindStatus,
    /// Resources whose newest version was rejected: why, and what is done without it.
    pub rejected: BTreeMap<(ResourceKind, String), String>,
}

impl XdsStatus {
    /// Whether the first state of both kinds is here.
    pub fn synced(&self) -> bool {
        self.address.synced && self.authorization.synced
    }

    fn kind(&mut self, kind: ResourceKind) -> &mut KindStatus {
        match kind {
            ResourceKind::Address => &mut self.address,
            ResourceKind::Authorization => &mut self.authorization,
        }
    }
}

/// Reads the status, and can wait for it to change.
pub type StatusReader = watch::Receiver<XdsStatus>;

/// Writes the status; the client owns it.
#[derive(Debug)]
pub struct StatusWriter(watch::Sender<XdsStatus>);

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    ConnectionError,
    Error,
    Complete,
}

impl StatusWriter {
    /// A status of nothing yet, and its reader.
    pub fn new() -> (Self, StatusReader) {
        let (sender, receiver) = watch::channel(XdsStatus::default());
        (Self(sender), receiver)
    }

    pub(super) fn handled(&self, handled: &Handled, bytes: u64) {
        self.0.send_modify(|status| {
            status.connected = true;
            status.last_answer = Some(SystemTime::now());
            status.last_error = None;
            let kind = status.kind(handled.kind);
            kind.synced |= handled.reply.is_ok();
            kind.messages += 1;
            kind.bytes += bytes;
            kind.rejected_messages += u64::from(!handled.rejected.is_empty());
            kind.held = handled.held;
            for name in &handled.settled {
                status.rejected.remove(&(handled.kind, name.clone()));
            }
            for Rejection { name, error, instead } in &handled.rejected {
                if status.rejected.len() < MAX_REJECTIONS {
                    let why = format!("{}; {instead}", chain(error));
                    status.rejected.insert((handled.kind, name.clone()), why);
                }
            }
        });
    }

    pub(super) fn ended(&self, ending: Ending, why: String) {
        self.0.send_modify(|status| {
            status.connected = false;
            status.last_error = Some(why);
            let count = match ending {
                Ending::ConnectionError => &mut status.terminations.connection_error,
                Ending::Error => &mut status.terminations.error,
                Ending::Complete => &mut status.terminations.complete,
            };
            *count += 1;
        });
    }
}
