//! What is known of a connection, as a message and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sotto_proto::handover as proto;

use super::super::record::{Live, Way};
use super::error::ResumeError;
use crate::capture::PodCapture;
use crate::mesh::{Mesh, ServiceKey, SpiffeId, WorkloadUid};
use crate::observe::connection::{ConnectionInfo, Party};
use crate::observe::labels::Reporter;

/// A connection's message: it is told as open no more here.
pub(super) fn leaving(live: &Live) -> Option<proto::Connection> {
    let (info, age) = live.leave()?;
    let (way, progress) = (live.way(), live.progress());
    Some(proto::Connection {
        is_client: info.reporter == Reporter::Source,
        source: Some(party(&info.source)),
        destination: Some(party(&info.destination)),
        service: info.service.map(|service| service.key.to_string()).unwrap_or_default(),
        hbone_target: info.hbone_target.map(|target| target.to_string()).unwrap_or_default(),
        mutual_tls: info.mutual_tls,
        original_destination: way.original_destination.to_string(),
        actual_destination: way.actual_destination.to_string(),
        sent: progress.sent(),
        received: progress.received(),
        age: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
    })
}

fn party(party: &Party) -> proto::Party {
    let text = |known: Option<String>| known.unwrap_or_default();
    proto::Party {
        address: party.address.to_string(),
        workload_uid: text(party.workload.as_ref().map(|workload| workload.uid.to_string())),
        is_local: party.local.is_some(),
        identity: text(party.identity.as_ref().map(ToString::to_string)),
    }
}

/// A connection as it was told.
pub(super) struct Told {
    pub(super) info: ConnectionInfo,
    pub(super) way: Way,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) age: Duration,
}

/// The same in this process: what the mesh does not know any more is left out.
pub(super) fn arriving(
    told: proto::Connection,
    pod: &PodCapture,
    mesh: &Mesh,
) -> Result<Told, ResumeError> {
    let end = |told: Option<proto::Party>| {
        let told = told.ok_or(ResumeError::Unsound("no end"))?;
        let workload = mesh.workload(&WorkloadUid(told.workload_uid.into())).cloned();
        Ok::<_, ResumeError>(Party {
            address: address(&told.address)?,
            workload,
            local: told.is_local.then(|| Arc::clone(&pod.pod)),
            identity: identity(&told.identity)?,
        })
    };
    let service = told.service.split_once('/').and_then(|(namespace, hostname)| {
        let (namespace, hostname) = (namespace.into(), hostname.into());
        mesh.service(&ServiceKey { namespace, hostname }).cloned()
    });
    let info = ConnectionInfo {
        reporter: if told.is_client { Reporter::Source } else { Reporter::Destination },
        source: end(told.source)?,
        destination: end(told.destination)?,
        service,
        hbone_target: (!told.hbone_target.is_empty()).then(|| told.hbone_target.into()),
        mutual_tls: told.mutual_tls,
    };
    let way = Way {
        pod: pod.pod.uid.clone(),
        original_destination: address(&told.original_destination)?,
        actual_destination: address(&told.actual_destination)?,
    };
    let age = Duration::from_millis(told.age);
    Ok(Told { info, way, sent: told.sent, received: told.received, age })
}

pub(super) fn address(told: &str) -> Result<SocketAddr, ResumeError> {
    told.parse().map_err(|_| ResumeError::Unsound("an address"))
}

/// None where nobody has shown one.
fn identity(told: &str) -> Result<Option<SpiffeId>, ResumeError> {
    let parsed = (!told.is_empty()).then(|| told.parse());
    parsed.transpose().map_err(|_| ResumeError::Unsound("an identity"))
}
