//! The delta protocol without IO: what to send, and what a response means.
//!
//! One [`DeltaState`] per kind remembers the name and version of every resource held, so that a
//! new stream gets only what changed and learns what went. Whatever a response holds that can be
//! used is used: a bad resource is named in the answer and its last good version stays. Not that of
//! a policy: it was replaced for a reason, and an agent that starts after that has none. What cannot be read is told
//! to the mesh as such: a policy may deny, and an address that is of the mesh must not be taken for one that is not.

use std::collections::HashMap;
use std::fmt::{self, Write};

use arcstr::ArcStr;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};

use crate::mesh::{MeshEvent, PolicyKey, ResourceKind, ServiceKey, WorkloadUid};

use super::decode::{self, DecodeError};
use crate::error::chain;

#[cfg(test)]
mod tests;

/// The type URL of a kind.
pub fn type_url(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Address => ADDRESS_TYPE,
        ResourceKind::Authorization => AUTHORIZATION_TYPE,
    }
}

/// A resource that was not taken.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub error: DecodeError,
    /// What is done without it.
    pub instead: Instead,
}

/// What is done without a resource that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// An earlier version stays.
    LastGood,
    /// Nothing is allowed that the policy may govern.
    DenyAll,
    /// Nothing is sent to its addresses.
    Refused,
    /// Nothing.
    Nothing,
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LastGood => "its last good version stays in force",
            Self::Refused => "connections to its addresses are refused until it can be read",
            Self::DenyAll => "nothing that it may govern is allowed until it can be read",
            Self::Nothing => "it is left out",
        })
    }
}

/// What came of a response.
#[derive(Debug, PartialEq)]
pub struct Handled {
    /// The kind of its resources.
    pub kind: ResourceKind,
    /// What to apply, in this order.
    pub events: Vec<MeshEvent>,
    /// What was not taken.
    pub rejected: Vec<Rejection>,
    /// Names that were taken or removed: earlier rejections of them are history.
    pub settled: Vec<String>,
    /// Resources held now.
    pub held: usize,
    /// The answer: an ACK, or a NACK that names what was rejected.
    pub reply: DeltaDiscoveryRequest,
}

/// What we hold of one kind.
#[derive(Debug)]
pub struct DeltaState {
    kind: ResourceKind,
    root_namespace: ArcStr,
    held: HashMap<String, Held>,
    /// What was told of those whose last version cannot be read; an earlier one may be held.
    unreadable: HashMap<String, ResourceKey>,
    /// What the mesh has from before this run, until the first response says what there is.
    remembered: Vec<ResourceKey>,
}

#[derive(Debug)]
struct Held {
    version: String,
    key: ResourceKey,
}

/// A resource as the mesh names it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ResourceKey {
    Workload(WorkloadUid),
    Service(ServiceKey),
    Policy(PolicyKey),
    /// Addresses alone, of the resource with this name.
    Unreadable(ArcStr),
}

/// Enough of the rejections to find the cause, in an error that the control plane logs.
const MAX_REASONS: usize = 20;

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

impl DeltaState {
    /// Holding nothing. Policies of the root namespace may govern the whole mesh.
    pub fn new(kind: ResourceKind, root_namespace: impl Into<ArcStr>) -> Self {
        let root_namespace = root_namespace.into();
        let (held, unreadable) = (HashMap::new(), HashMap::new());
        Self { kind, root_namespace, held, unreadable, remembered: Vec::new() }
    }

    /// Takes what was known before this run, as a control plane would have told it: what to apply. None of it is held:
    /// the first response has everything, and takes away what it does not have.
    pub fn remember(&mut self, before: DeltaDiscoveryResponse) -> Vec<MeshEvent> {
        let mut then = Self::new(self.kind, self.root_namespace.clone());
        let events = then.on_response(before).events;
        self.remembered.extend(then.held.into_values().map(|held| held.key));
        self.remembered.extend(then.unreadable.into_values());
        events
    }

    /// Of which kind.
    pub(super) fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The first request of a stream: everything of this kind, except what is held already. What
    /// could not be read is named without a version: it comes again, or its removal does.
    pub fn initial_request(&self, node: &Node) -> DeltaDiscoveryRequest {
        let held = self.held.iter().map(|(name, held)| (name.clone(), held.version.clone()));
        let unreadable = self.unreadable.keys().map(|name| (name.clone(), String::new()));
        let versions = held.chain(unreadable).collect();
        DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: type_url(self.kind).to_owned(),
            initial_resource_versions: versions,
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Takes what can be taken.
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse) -> Handled {
        let mut events = Vec::new();
        let mut rejected = Vec::new();
        let mut settled = Vec::new();
        for name in response.removed_resources {
            // A name that is not held never existed here: legal.
            events.extend(self.held.remove(&name).map(|held| held.key.removal()));
            events.extend(self.unreadable.remove(&name).map(ResourceKey::removal));
            settled.push(name);
        }
        for resource in response.resources {
            match self.take(&resource, &mut events) {
                Ok(()) => settled.push(resource.name),
                Err(error) => {
                    let instead = self.without(&resource, &mut events);
                    rejected.push(Rejection { name: resource.name, error, instead });
                }
            }
        }
        for key in std::mem::take(&mut self.remembered) {
            if !self.has(&key) {
                events.push(key.removal());
            }
        }
        let reply = DeltaDiscoveryRequest {
            type_url: type_url(self.kind).to_owned(),
            response_nonce: response.nonce,
            error_detail: error_detail(&rejected),
            ..DeltaDiscoveryRequest::default()
        };
        Handled { kind: self.kind, events, rejected, settled, held: self.held.len(), reply }
    }

    fn take(
        &mut self,
        resource: &Resource,
        events: &mut Vec<MeshEvent>,
    ) -> Result<(), DecodeError> {
        let Resource { name, version, resource, .. } = resource;
        let event = decode::event(self.kind, resource.as_ref())?;
        let Some(key) = ResourceKey::of(&event) else {
            return Err(DecodeError::Missing("resource"));
        };
        // Names and contents are one to one, so that a removal by name is unambiguous.
        if key.name() != *name {
            return Err(DecodeError::Name(key.name()));
        }
        events.extend(self.unreadable.remove(name).map(ResourceKey::removal));
        let held = Held { version: version.clone(), key: key.clone() };
        match self.held.insert(name.clone(), held) {
            Some(old) if old.key != key => events.push(old.key.removal()),
            _ => {}
        }
        events.push(event);
        Ok(())
    }

    /// What to do without a resource that cannot be taken.
    fn without(&mut self, resource: &Resource, events: &mut Vec<MeshEvent>) -> Instead {
        if self.kind != ResourceKind::Authorization {
            return self.without_address(resource, events);
        }
        events.extend(self.held.remove(&resource.name).map(|held| held.key.removal()));
        let key = decode::policy_key_of_name(&resource.name);
        let body = resource.resource.as_ref();
        match decode::scope_of_unreadable(&key, body, &self.root_namespace) {
            Some(scope) => {
                let told = ResourceKey::Policy(key.clone());
                self.unreadable.insert(resource.name.clone(), told);
                events.push(MeshEvent::UnreadablePolicy(key, scope));
                Instead::DenyAll
            }
            None => {
                let earlier = self.unreadable.remove(&resource.name);
                events.extend(earlier.map(ResourceKey::removal));
                Instead::Nothing
            }
        }
    }

    /// The same of a workload or a service. It may have got addresses that its last good version lacks.
    fn without_address(&mut self, resource: &Resource, events: &mut Vec<MeshEvent>) -> Instead {
        let name = ArcStr::from(&*resource.name);
        let ranges = decode::ranges_of_unreadable(resource.resource.as_ref());
        let held = self.held.contains_key(&resource.name);
        if ranges.is_empty() {
            let earlier = self.unreadable.remove(&resource.name);
            events.extend(earlier.map(ResourceKey::removal));
            return if held { Instead::LastGood } else { Instead::Nothing };
        }
        self.unreadable.insert(resource.name.clone(), ResourceKey::Unreadable(name.clone()));
        events.push(MeshEvent::UnreadableAddress(name, ranges.into()));
        if held { Instead::LastGood } else { Instead::Refused }
    }

    /// Whether what was remembered is still true, or was replaced in the mesh by what is.
    fn has(&self, key: &ResourceKey) -> bool {
        let name = key.name();
        match key {
            ResourceKey::Workload(_) | ResourceKey::Service(_) => self.held.contains_key(&name),
            ResourceKey::Policy(_) => {
                self.held.contains_key(&name) || self.unreadable.contains_key(&name)
            }
            ResourceKey::Unreadable(_) => self.unreadable.contains_key(&name),
        }
    }
}

impl ResourceKey {
    /// The key of a resource that came, also of one that is nobody; none for one that went.
    fn of(event: &MeshEvent) -> Option<Self> {
        match event {
            MeshEvent::Workload(workload) => Some(Self::Workload(workload.uid.clone())),
            MeshEvent::Service(service) => Some(Self::Service(service.key.clone())),
            MeshEvent::Policy(policy) => Some(Self::Policy(policy.key.clone())),
            MeshEvent::RemoveWorkload(nobody) => Some(Self::Workload(nobody.clone())),
            MeshEvent::RemoveService(_)
            | MeshEvent::UnreadableAddress(..)
            | MeshEvent::RemoveUnreadableAddress(_)
            | MeshEvent::UnreadablePolicy(..)
            | MeshEvent::RemovePolicy(_) => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Workload(uid) => uid.to_string(),
            Self::Service(key) => key.to_string(),
            Self::Policy(key) => key.to_string(),
            Self::Unreadable(name) => name.to_string(),
        }
    }

    fn removal(self) -> MeshEvent {
        match self {
            Self::Workload(uid) => MeshEvent::RemoveWorkload(uid),
            Self::Service(key) => MeshEvent::RemoveService(key),
            Self::Policy(key) => MeshEvent::RemovePolicy(key),
            Self::Unreadable(name) => MeshEvent::RemoveUnreadableAddress(name),
        }
    }
}

fn error_detail(rejected: &[Rejection]) -> Option<Status> {
    if rejected.is_empty() {
        return None;
    }
    let reasons = rejected.iter().take(MAX_REASONS);
    let reasons = reasons.map(|Rejection { name, error, .. }| format!("{name}: {}", chain(error)));
    let mut message = reasons.collect::<Vec<_>>().join("; ");
    if rejected.len() > MAX_REASONS {
        // Writing to a string cannot fail.
        let _infallible = write!(message, "; and {} more", rejected.len() - MAX_REASONS);
    }
    Some(Status { code: INVALID_ARGUMENT, message, details: Vec::new() })
}
