//! What is told of a connection: its metrics, its access log line, its place on the admin page.

use std::cell::{OnceCell, RefCell};
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::inbound::Caller;
use super::open::{Direction, Listed, OpenConnection};
use crate::authorize::Denial;
use crate::capture::Captured;
use crate::error::chain;
use crate::mesh::{Home, LocalPod, PodUid, Workload};
use crate::observe::access_log;
use crate::observe::connection::{ConnectionInfo, ConnectionRecord, Outcome, Party, Transferred};
use crate::observe::labels::{Reporter, ResponseFlags};
use crate::route::Route;
use crate::tunnel::{Brake, Progress};

/// An open connection, as others see it. Dropped without a word of its end, it is told as cut off.
pub(super) struct Record {
    live: Rc<Live>,
    listed: Listed,
}

/// What a connection and its thread's clock share.
pub(super) struct Live {
    /// None once its end is told.
    record: RefCell<Option<ConnectionRecord>>,
    progress: Rc<Progress>,
    /// Of one without a tunnel.
    brake: OnceCell<Rc<Brake>>,
    /// What the relay sends came from the client.
    sends_requests: bool,
    way: Way,
}

/// Where a connection leads, besides what its record says.
pub(super) struct Way {
    /// The pod of this node.
    pub(super) pod: PodUid,
    /// What the client asked for.
    pub(super) original_destination: SocketAddr,
    /// Where it went.
    pub(super) actual_destination: SocketAddr,
}

impl Live {
    /// Bytes moved, as the relay counts them.
    pub(super) fn progress(&self) -> &Rc<Progress> {
        &self.progress
    }

    /// Where it leads.
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// Of its relay, if it has no tunnel.
    pub(super) fn brake(&self) -> Option<&Rc<Brake>> {
        self.brake.get()
    }

    /// Gives its relay a brake, once.
    pub(super) fn set_brake(&self, brake: Brake) -> Rc<Brake> {
        self.brake.get_or_init(|| Rc::new(brake)).clone()
    }

    /// It goes on elsewhere, where its end will be told: what it was opened with, and how long ago. None once its end is
    /// told, or that.
    pub(super) fn leave(&self) -> Option<(ConnectionInfo, Duration)> {
        Some(self.record.take()?.leave(self.total()))
    }

    /// Takes over the totals so far.
    pub(super) fn tell(&self) {
        if let Some(record) = &mut *self.record.borrow_mut() {
            record.transferred(self.total());
        }
    }

    /// For the admin page; none once its end is told.
    pub(super) fn listed(&self) -> Option<OpenConnection> {
        let record = self.record.borrow();
        let (info, way, total) = (record.as_ref()?.info(), &self.way, self.total());
        Some(OpenConnection {
            pod: way.pod.clone(),
            direction: match info.reporter {
                Reporter::Source => Direction::Outbound,
                Reporter::Destination => Direction::Inbound,
            },
            source: info.source.address,
            original_destination: way.original_destination,
            actual_destination: way.actual_destination,
            tunnelled: info.mutual_tls,
            client: info.source.identity.clone(),
            server: info.destination.identity.clone(),
            from_client_bytes: total.from_client_bytes,
            from_server_bytes: total.from_server_bytes,
        })
    }

    fn total(&self) -> Transferred {
        let (sent, received) = (self.progress.sent(), self.progress.received());
        if self.sends_requests {
            Transferred { from_client_bytes: sent, from_server_bytes: received }
        } else {
            Transferred { from_client_bytes: received, from_server_bytes: sent }
        }
    }
}

impl Record {
    /// Counts and lists a connection from now on.
    pub(super) fn open(context: &Context, info: ConnectionInfo, way: Way) -> Self {
        let record = ConnectionRecord::open(&context.counters, info);
        Self::of(context, record, Rc::default(), way)
    }

    /// Goes on with one that was opened elsewhere, so long ago.
    pub(super) fn resume(
        context: &Context,
        info: ConnectionInfo,
        way: Way,
        (progress, age): (Rc<Progress>, Duration),
    ) -> Self {
        let record = ConnectionRecord::resume(&context.counters, info, age);
        let this = Self::of(context, record, progress, way);
        let seen = this.live.total();
        this.live.record.borrow_mut().iter_mut().for_each(|record| record.told_before(seen));
        this
    }

    fn of(context: &Context, record: ConnectionRecord, progress: Rc<Progress>, way: Way) -> Self {
        let info = record.info();
        // Of a tunnel that arrives, the relay's first connection is the app's; of all others, the client's.
        let sends_requests = info.reporter == Reporter::Source || !info.mutual_tls;
        let (record, brake) = (RefCell::new(Some(record)), OnceCell::new());
        let live = Rc::new(Live { record, progress, brake, sends_requests, way });
        Self { listed: context.open.list(live.clone()), live }
    }

    /// Another process goes on with it, and tells of its end: it is listed until that knows of it.
    pub(super) fn moved(self) {
        self.listed.leave();
    }

    /// For the relay to count in.
    pub(super) fn live(&self) -> Rc<Live> {
        self.live.clone()
    }

    /// It ended as it should.
    pub(super) fn complete(self) {
        self.close(&Outcome::Complete);
    }

    /// It failed.
    pub(super) fn fail(self, flags: ResponseFlags, error: &(dyn Error + 'static)) {
        self.close(&Outcome::failed(flags, chain(error)));
    }

    /// Policy kept it out, or ended it.
    pub(super) fn deny(self, denial: &Denial) {
        self.close(&Outcome::denied(denial, denial.by()));
    }

    fn close(self, outcome: &Outcome) {
        let record = self.live.record.take();
        if let Some(record) = record {
            record.close(self.live.total(), outcome);
        }
    }
}

/// The record of an outbound connection.
pub(super) fn outbound(
    context: &Context,
    home: &Home,
    captured: &Captured,
    source: Option<Arc<Workload>>,
    route: &Route,
) -> Record {
    let pod = &captured.pod.pod;
    let (tunnel, target, workload, service) = match route {
        Route::Tunnel(to) => (Some(to), to.gateway, Some(&to.workload), to.service.as_ref()),
        Route::Direct(to) => (None, to.target, to.workload.as_ref(), to.service.as_ref()),
        Route::Resolve(_) | Route::Refuse(_) => (None, captured.original_destination, None, None),
    };
    let identity_of = |workload: Option<&Arc<Workload>>| workload.map(|w| w.identity.clone());
    let info = ConnectionInfo {
        reporter: Reporter::Source,
        source: Party {
            address: captured.client,
            workload: source,
            local: Some(pod.clone()),
            identity: tunnel.map(|_| pod.account.identity(&home.trust_domain)),
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
    let way = Way {
        pod: pod.uid.clone(),
        original_destination: captured.original_destination,
        actual_destination: target,
    };
    Record::open(context, info, way)
}

/// Tells of a connection of which nothing but the addresses was ever known.
pub(super) fn never_opened(reporter: Reporter, captured: &Captured, error: &(dyn Error + 'static)) {
    let ends = (captured.client, captured.original_destination);
    never_opened_at(reporter, &captured.pod.pod, ends, error);
}

/// The same, by the addresses.
pub(super) fn never_opened_at(
    reporter: Reporter,
    pod: &Arc<LocalPod>,
    ends: (SocketAddr, SocketAddr),
    error: &(dyn Error + 'static),
) {
    access_log::connection_failed(reporter, pod, ends, chain(error));
}

/// Tells of a CONNECT that is not served, whatever it asks for or because of it.
pub(super) fn unservable(caller: &Caller, error: &(dyn Error + 'static)) {
    let ends = (caller.client, caller.destination);
    never_opened_at(Reporter::Destination, &caller.pod.pod, ends, error);
}
