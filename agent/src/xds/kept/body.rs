//! What the file says of the mesh: each resource as a control plane would tell it, with its kind and its length before it.

use std::io::{self, Write};

use bytes::{Buf as _, Bytes};
use prost::Message as _;
use prost_types::Any;
use sotto_proto::ads::{DeltaDiscoveryResponse, Resource};
use sotto_proto::workload::{Address, address};

use super::super::delta::type_url;
use super::super::encode;
use crate::mesh::{Mesh, ResourceKind};

const KINDS: [ResourceKind; 2] = [ResourceKind::Address, ResourceKind::Authorization];

/// Writes a mesh, one resource after the other.
pub(super) fn write(mesh: &Mesh, out: impl Write) -> io::Result<()> {
    use address::Type::{Service, Workload};
    let mut to = Writer { out, message: Vec::new() };
    for workload in mesh.workloads() {
        to.address(&workload.uid.0, Workload(encode::workload(workload)))?;
    }
    for service in mesh.services() {
        to.address(&service.key.to_string(), Service(encode::service(service)))?;
    }
    for (name, ranges) in mesh.unreadable_addresses() {
        to.address(name, Service(encode::unreadable_address(ranges)))?;
    }
    for policy in mesh.policies() {
        to.policy(&policy.key.to_string(), encode::authorization(policy))?;
    }
    for (key, scope) in mesh.unreadable_policies() {
        to.policy(&key.to_string(), encode::unreadable(key, scope))?;
    }
    Ok(())
}

struct Writer<W> {
    out: W,
    message: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn address(&mut self, name: &str, message: address::Type) -> io::Result<()> {
        self.resource(0, name, &Address { r#type: Some(message) })
    }

    fn policy(&mut self, name: &str, message: impl prost::Message) -> io::Result<()> {
        self.resource(1, name, &message)
    }

    fn resource(&mut self, kind: u8, name: &str, message: &impl prost::Message) -> io::Result<()> {
        let type_url = type_url(KINDS[usize::from(kind)]).to_owned();
        let body = Any { type_url, value: message.encode_to_vec() };
        let resource =
            Resource { name: name.to_owned(), resource: Some(body), ..Resource::default() };
        self.message.clear();
        resource.encode_length_delimited(&mut self.message).map_err(io::Error::other)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&self.message)
    }
}

/// The same as two first responses of a control plane; none if it is not what was written.
pub(super) fn read(mut body: Bytes) -> Option<[DeltaDiscoveryResponse; 2]> {
    let mut both = KINDS.map(|kind| DeltaDiscoveryResponse {
        type_url: type_url(kind).to_owned(),
        ..DeltaDiscoveryResponse::default()
    });
    while body.has_remaining() {
        let response = both.get_mut(usize::from(body.get_u8()))?;
        let length = prost::decode_length_delimiter(&mut body).ok()?;
        if length > body.remaining() {
            return None;
        }
        response.resources.push(body.split_to(length));
    }
    Some(both)
}
