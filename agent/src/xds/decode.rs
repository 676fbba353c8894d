//! Messages of the control plane as the mesh's types.
//!
//! What a message leaves out gets its documented default; what it says must make sense, or the
//! resource is rejected as a whole.

mod authorization;
mod in_place;
mod service;
mod workload;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arcstr::ArcStr;
use ipnet::IpNet;
use prost::Message;
use sotto_proto::security;
use sotto_proto::workload::{Address, address};

use crate::mesh::policy::PolicyScope;
use crate::mesh::spiffe::SpiffeIdError;
use crate::mesh::{
    Backed, MeshEvent, Names, Network, PolicyKey, PolicyList, Pool, ResourceKind, ServiceKey,
    Workload, WorkloadUid,
};

use super::delta::type_url;
use super::resource::Body;

#[cfg(test)]
mod tests;

/// Why a resource is rejected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not the message.
    #[error("malformed message")]
    Message(#[from] prost::DecodeError),
    /// It is of another type.
    #[error("unexpected type {0:?}")]
    Type(String),
    /// Something that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The resource's name is not that of its content.
    #[error("content is {0:?}")]
    Name(String),
    /// An address is neither 4 nor 16 bytes long, or its prefix is too long.
    #[error("{0} is not an address")]
    Address(&'static str),
    /// A port is not within 1 to 65535, or, in a policy, 0 to 65535.
    #[error("{0} is not a port")]
    Port(u32),
    /// A reference is not `namespace/name`.
    #[error("{0:?} is not namespace/name")]
    Reference(String),
    /// A value of an enumeration that this version does not know.
    #[error("{what} {value} is not supported")]
    Unsupported {
        /// The field.
        what: &'static str,
        /// Its value.
        value: i32,
    },
    /// The parts do not make an identity.
    #[error(transparent)]
    Identity(#[from] SpiffeIdError),
}

/// Takes messages apart, and shares what is the same in many.
#[derive(Debug)]
pub struct Decoder {
    names: Names,
    /// By their bytes.
    backed: Pool<Box<[u8]>, Backed>,
    /// By their bytes.
    policies: Pool<Box<[u8]>, PolicyList>,
    /// The last one: the next is often of the same place.
    last: Option<Arc<Workload>>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            names: Names::default(),
            backed: Pool::new(|_, backed: &Backed| !backed.is_unshared()),
            policies: Pool::new(|_, policies: &PolicyList| !policies.is_unshared()),
            last: None,
        }
    }
}

impl Decoder {
    /// A resource of a kind, as the event of its arrival.
    ///
    /// # Errors
    /// It is malformed or says something that cannot be honoured.
    pub(super) fn event(
        &mut self,
        kind: ResourceKind,
        body: Option<Body<'_>>,
    ) -> Result<MeshEvent, DecodeError> {
        let body = body.ok_or(DecodeError::Missing("resource"))?;
        if body.type_url != type_url(kind) {
            return Err(DecodeError::Type(body.type_url.to_owned()));
        }
        match kind {
            ResourceKind::Address => {
                if let Some(workload) = self.in_place(body.value) {
                    let workload = Arc::new(workload);
                    self.last = Some(workload.clone());
                    return Ok(MeshEvent::Workload(workload));
                }
                address(Address::decode(body.value)?)
            }
            ResourceKind::Authorization => {
                let policy = security::Authorization::decode(body.value)?;
                Ok(MeshEvent::Policy(Arc::new(authorization::authorization(policy)?)))
            }
        }
    }

    /// The end of a batch: what comes next is of another place.
    pub(super) fn rest(&mut self) {
        self.last = None;
    }
}

fn address(from: Address) -> Result<MeshEvent, DecodeError> {
    Ok(match from.r#type.ok_or(DecodeError::Missing("workload or service"))? {
        address::Type::Workload(w) if workload::is_nobody(&w) => {
            MeshEvent::RemoveWorkload(WorkloadUid(named(w.uid, "uid")?))
        }
        address::Type::Workload(w) => MeshEvent::Workload(Arc::new(workload::workload(w)?)),
        address::Type::Service(s) => MeshEvent::Service(Arc::new(service::service(s)?)),
    })
}

/// The policy that a resource's name stands for, whatever the name is.
pub(super) fn policy_key_of_name(name: &str) -> PolicyKey {
    let nowhere = || PolicyKey { namespace: ArcStr::new(), name: name.into() };
    policy_key(name).unwrap_or_else(|_| nowhere())
}

/// Whom a policy that cannot be decoded may govern; none if it would not be enforced anyway.
///
/// What can be read of the content counts if it is that policy's; else its namespace does. One of
/// the root namespace, or of none, may govern the whole mesh.
pub(super) fn scope_of_unreadable(
    key: &PolicyKey,
    resource: Option<Body<'_>>,
    root_namespace: &str,
) -> Option<PolicyScope> {
    let ours = resource.filter(|body| body.type_url == type_url(ResourceKind::Authorization));
    let content = ours.and_then(|body| security::Authorization::decode(body.value).ok());
    let content =
        content.filter(|policy| policy.namespace == *key.namespace && policy.name == *key.name);
    if content.as_ref().is_some_and(|policy| policy.dry_run) {
        return None;
    }
    let told = content.and_then(|policy| authorization::scope(policy.scope).ok());
    Some(told.unwrap_or_else(|| {
        if key.namespace == root_namespace || key.namespace.is_empty() {
            PolicyScope::Global
        } else {
            PolicyScope::Namespace
        }
    }))
}

/// The addresses of a workload or a service that cannot be decoded, as far as they can be; none of one that shares its
/// node's, which others have too.
pub(super) fn ranges_of_unreadable(resource: Option<Body<'_>>) -> Vec<(Network, IpNet)> {
    let ours = resource.filter(|body| body.type_url == type_url(ResourceKind::Address));
    let content = ours.and_then(|body| Address::decode(body.value).ok());
    match content.and_then(|address| address.r#type) {
        Some(address::Type::Workload(from)) => workload::own_addresses(&from),
        Some(address::Type::Service(from)) => service::ranges(from.addresses),
        None => Vec::new(),
    }
}

/// 4 or 16 bytes as a canonical address.
fn ip(bytes: &[u8], what: &'static str) -> Result<IpAddr, DecodeError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        Ok(Ipv4Addr::from(octets).into())
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
    } else {
        Err(DecodeError::Address(what))
    }
}

/// A port that is not 0.
fn port(number: u32) -> Result<u16, DecodeError> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or(DecodeError::Port(number))
}

/// A port for which 0 means none.
fn optional_port(number: u32) -> Result<Option<u16>, DecodeError> {
    if number == 0 { Ok(None) } else { port(number).map(Some) }
}

/// `namespace/hostname`.
fn service_key(text: &str) -> Result<ServiceKey, DecodeError> {
    let (namespace, hostname) = reference(text)?;
    Ok(ServiceKey { namespace: namespace.into(), hostname: hostname.into() })
}

/// `namespace/name`.
fn policy_key(text: &str) -> Result<PolicyKey, DecodeError> {
    let (namespace, name) = reference(text)?;
    Ok(PolicyKey { namespace: namespace.into(), name: name.into() })
}

fn reference(text: &str) -> Result<(&str, &str), DecodeError> {
    text.split_once('/')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .ok_or_else(|| DecodeError::Reference(text.to_owned()))
}

/// A name that must not be empty.
fn named(text: String, what: &'static str) -> Result<ArcStr, DecodeError> {
    if text.is_empty() { Err(DecodeError::Missing(what)) } else { Ok(text.into()) }
}
