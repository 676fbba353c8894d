//! What is told of a connection: its metrics, its access log line, its place on the admin page.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use super::context::Context;
use super::inbound::Caller;
use super::open::{Direction, Listed, OpenConnection};
use crate::authorize::Denial;
use crate::capture::Captured;
use crate::error::chain;
use crate::mesh::Workload;
use crate::observe::access_log;
use crate::observe::connection::{ConnectionInfo, ConnectionRecord, Outcome, Party, Transferred};
use crate::observe::labels::{Reporter, ResponseFlags};
use crate::route::Route;

/// An open connection, as others see it.
pub(super) struct Record {
    record: ConnectionRecord,
    _listed: Listed,
}

impl Record {
    /// Counts and lists a connection from now on.
    pub(super) fn open(context: &Context, info: ConnectionInfo, listed: OpenConnection) -> Self {
        let record = ConnectionRecord::open(&context.counters, info);
        Self { record, _listed: context.open.list(listed) }
    }

    /// Takes over the totals so far.
    pub(super) fn transferred(&mut self, total: Transferred) {
        self.record.transferred(total);
    }

    /// It ended as it should.
    pub(super) fn complete(self, total: Transferred) {
        self.record.close(total, &Outcome::Complete);
    }

    /// It failed before a byte was carried.
    pub(super) fn fail(self, flags: ResponseFlags, error: &(dyn Error + 'static)) {
        self.fail_after(Transferred::default(), flags, error);
    }

    /// It failed on the way.
    pub(super) fn fail_after(
        self,
        total: Transferred,
        flags: ResponseFlags,
        error: &(dyn Error + 'static),
    ) {
        self.record.close(total, &Outcome::failed(flags, chain(error)));
    }

    /// Policy kept it out, or ended it.
    pub(super) fn deny(self, total: Transferred, denial: &Denial) {
        self.record.close(total, &Outcome::denied(denial, denial.by()));
    }
}

/// The record of an outbound connection.
pub(super) fn outbound(
    context: &Context,
    captured: &Captured,
    source: Option<Arc<Workload>>,
    route: &Route,
) -> Record {
    let pod = &captured.pod.pod;
    let (tunnel, target, workload, service) = match route {
        Route::Tunnel(to) => (Some(to), to.gateway, Some(&to.workload), to.service.as_ref()),
        Route::Direct(to) => (None, to.target, to.workload.as_ref(), to.service.as_ref()),
        Route::Refuse(_) => (None, captured.original_destination, None, None),
    };
    let identity_of = |workload: Option<&Arc<Workload>>| workload.map(|w| w.identity.clone());
    let info = ConnectionInfo {
        reporter: Reporter::Source,
        source: Party {
            address: captured.client,
            workload: source,
            local: Some(pod.clone()),
            identity: tunnel.map(|_| pod.identity.clone()),
        },
        destination: Party {
            address: target,
            workload: workload.cloned(),
            local: None,
            identity: tunnel.and_then(|_| identity_of(workload)),
        },
        service: service.cloned(),
        hbone_target: tunnel.map(|to| to.authority.as_str().into()),
        mutual_tls: tunnel.is_some(),
    };
    let listed = OpenConnection {
        pod: pod.uid.clone(),
        direction: Direction::Outbound,
        source: captured.client,
        original_destination: captured.original_destination,
        actual_destination: target,
        tunnelled: tunnel.is_some(),
    };
    Record::open(context, info, listed)
}

/// Tells of a connection of which nothing but the addresses was ever known.
pub(super) fn never_opened(reporter: Reporter, captured: &Captured, error: &(dyn Error + 'static)) {
    never_opened_at(reporter, captured.client, captured.original_destination, error);
}

/// The same, by the addresses.
pub(super) fn never_opened_at(
    reporter: Reporter,
    client: SocketAddr,
    destination: SocketAddr,
    error: &(dyn Error + 'static),
) {
    access_log::connection_failed(reporter, client, destination, chain(error));
}

/// Tells of a CONNECT that is not served, whatever it asks for or because of it.
pub(super) fn unservable(caller: &Caller, error: &(dyn Error + 'static)) {
    never_opened_at(Reporter::Destination, caller.client, caller.destination, error);
}
