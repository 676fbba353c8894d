//! The delta protocol without IO: what to send, and what a response means.
//!
//! One [`DeltaState`] per kind remembers the name and version of every resource held, so that a
//! new stream gets only what changed and learns what went. Whatever a response holds that can be
//! used is used: a bad resource is named in the answer and its last good version stays. Not that of
//! a policy: it was replaced for a reason, and an agent that starts after that has none. What cannot be read is told
//! to the mesh as such: a policy may deny, and an address that is of the mesh must not be taken for one that is not.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use arcstr::ArcStr;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};

use crate::mesh::hashes::{Seeds, hash};
use crate::mesh::table::Table;
use crate::mesh::{MeshEvent, PolicyKey, ResourceKind, ServiceKey, WorkloadUid};

use super::decode::{self, DecodeError, Decoder};
use super::resource::{self, Told};
use super::version::Version;
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
    /// Names rejected earlier that were taken or removed: that is history.
    pub settled: Vec<String>,
    /// Resources held now.
    pub held: usize,
    /// The answer: an ACK, or a NACK that names what was rejected; none to a response in which something is no resource, not
    /// even one that can be named. What was before that is taken, and what follows is to be told anew.
    pub reply: Result<DeltaDiscoveryRequest, prost::DecodeError>,
}

/// What comes of a response, so far.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<MeshEvent>,
    rejected: Vec<Rejection>,
    settled: Vec<String>,
}

/// What we hold of one kind.
#[derive(Debug)]
pub struct DeltaState {
    kind: ResourceKind,
    root_namespace: ArcStr,
    decoder: Decoder,
    held: Holdings,
    /// What was told of those whose last version cannot be read; an earlier one may be held.
    unreadable: HashMap<String, ResourceKey>,
    /// Whose last version was rejected.
    rejected: HashSet<String>,
    /// What the mesh has from before this run, until the first response says what there is.
    remembered: Vec<ResourceKey>,
}

/// Resources that are held, by name. Their names are those of the mesh, and kept there.
#[derive(Debug, Default)]
struct Holdings {
    all: Table<Held>,
    seeds: Seeds,
}

#[derive(Debug, Clone)]
struct Held {
    version: Version,
    key: ResourceKey,
}

impl Holdings {
    fn hash(&self, name: &str) -> u32 {
        hash(&self.seeds, name)
    }

    fn has(&self, name: &str) -> bool {
        self.all.get(self.hash(name), |held| held.key.is(name)).is_some()
    }

    fn put(&mut self, name: &str, held: Held) -> Option<Held> {
        self.all.put(self.hash(name), |held| held.key.is(name), held)
    }

    fn remove(&mut self, name: &str) -> Option<Held> {
        self.all.remove(self.hash(name), |held| held.key.is(name))
    }
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
        Self {
            kind,
            root_namespace: root_namespace.into(),
            decoder: Decoder::default(),
            held: Holdings::default(),
            unreadable: HashMap::new(),
            rejected: HashSet::new(),
            remembered: Vec::new(),
        }
    }

    /// Takes what was known before this run, as a control plane would have told it: what to apply. None of it is held:
    /// the first response has everything, and takes away what it does not have.
    ///
    /// # Errors
    /// It holds what is no resource.
    pub fn remember(
        &mut self,
        before: &DeltaDiscoveryResponse,
    ) -> Result<Vec<MeshEvent>, prost::DecodeError> {
        let mut then = Self::new(self.kind, self.root_namespace.clone());
        let Handled { events, reply, .. } = then.on_response(before);
        reply?;
        self.remembered.extend(then.held.all.iter().map(|held| held.key.clone()));
        self.remembered.extend(then.unreadable.into_values());
        Ok(events)
    }

    /// Of which kind.
    pub(super) fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The first request of a stream: everything of this kind, except what is held already. What
    /// could not be read is named without a version: it comes again, or its removal does.
    pub fn initial_request(&self, node: &Node) -> DeltaDiscoveryRequest {
        let held = self.held.all.iter().map(|held| (held.key.name(), held.version.to_string()));
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
    pub fn on_response(&mut self, response: &DeltaDiscoveryResponse) -> Handled {
        let mut batch = Batch::default();
        batch.events.reserve(response.resources.len());
        for name in &response.removed_resources {
            // A name that is not held never existed here: legal.
            batch.events.extend(self.held.remove(name).map(|held| held.key.removal()));
            batch.events.extend(self.unreadable.remove(name).map(ResourceKey::removal));
            batch.settled.extend(self.rejected.take(name));
        }
        let mut resources = response.resources.iter();
        let all = resources
            .try_for_each(|one| resource::read(one, |told| self.take_or_reject(told, &mut batch)));
        self.decoder.rest();
        if all.is_ok() {
            for key in std::mem::take(&mut self.remembered) {
                if !self.has(&key) {
                    batch.events.push(key.removal());
                }
            }
        }
        let Batch { events, rejected, settled } = batch;
        let reply = all.map(|()| DeltaDiscoveryRequest {
            type_url: type_url(self.kind).to_owned(),
            response_nonce: response.nonce.clone(),
            error_detail: error_detail(&rejected),
            ..DeltaDiscoveryRequest::default()
        });
        let held = self.held.all.len();
        Handled { kind: self.kind, events, rejected, settled, held, reply }
    }

    fn take_or_reject(&mut self, told: Told<'_>, batch: &mut Batch) {
        match self.take(told, &mut batch.events) {
            Ok(()) => batch.settled.extend(self.rejected.take(told.name)),
            Err(error) => {
                let name = told.name.to_owned();
                let instead = self.without(told, &mut batch.events);
                self.rejected.insert(name.clone());
                batch.rejected.push(Rejection { name, error, instead });
            }
        }
    }

    fn take(&mut self, told: Told<'_>, events: &mut Vec<MeshEvent>) -> Result<(), DecodeError> {
        let Told { name, version, body } = told;
        let event = self.decoder.event(self.kind, body)?;
        let Some(key) = ResourceKey::of(&event) else {
            return Err(DecodeError::Missing("resource"));
        };
        // Names and contents are one to one, so that a removal by name is unambiguous.
        if !key.is(name) {
            return Err(DecodeError::Name(key.name()));
        }
        events.extend(self.unreadable.remove(name).map(ResourceKey::removal));
        let held = Held { version: Version::new(version), key: key.clone() };
        match self.held.put(name, held) {
            Some(old) if old.key != key => events.push(old.key.removal()),
            _ => {}
        }
        events.push(event);
        Ok(())
    }

    /// What to do without a resource that cannot be taken.
    fn without(&mut self, told: Told<'_>, events: &mut Vec<MeshEvent>) -> Instead {
        if self.kind != ResourceKind::Authorization {
            return self.without_address(told, events);
        }
        events.extend(self.held.remove(told.name).map(|held| held.key.removal()));
        let key = decode::policy_key_of_name(told.name);
        match decode::scope_of_unreadable(&key, told.body, &self.root_namespace) {
            Some(scope) => {
                self.unreadable.insert(told.name.to_owned(), ResourceKey::Policy(key.clone()));
                events.push(MeshEvent::UnreadablePolicy(key, scope));
                Instead::DenyAll
            }
            None => {
                let earlier = self.unreadable.remove(told.name);
                events.extend(earlier.map(ResourceKey::removal));
                Instead::Nothing
            }
        }
    }

    /// The same of a workload or a service. It may have got addresses that its last good version lacks.
    fn without_address(&mut self, told: Told<'_>, events: &mut Vec<MeshEvent>) -> Instead {
        let name = ArcStr::from(told.name);
        let ranges = decode::ranges_of_unreadable(told.body);
        let held = self.held.has(told.name);
        if ranges.is_empty() {
            let earlier = self.unreadable.remove(told.name);
            events.extend(earlier.map(ResourceKey::removal));
            return if held { Instead::LastGood } else { Instead::Nothing };
        }
        self.unreadable.insert(told.name.to_owned(), ResourceKey::Unreadable(name.clone()));
        events.push(MeshEvent::UnreadableAddress(name, ranges.into()));
        if held { Instead::LastGood } else { Instead::Refused }
    }

    /// Whether what was remembered is still true, or was replaced in the mesh by what is.
    fn has(&self, key: &ResourceKey) -> bool {
        let name = key.name();
        match key {
            ResourceKey::Workload(_) | ResourceKey::Service(_) => self.held.has(&name),
            ResourceKey::Policy(_) => self.held.has(&name) || self.unreadable.contains_key(&name),
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

    /// Whether this is its name.
    fn is(&self, name: &str) -> bool {
        let pair = |namespace: &str, own: &str| {
            let rest = name.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('/'));
            rest == Some(own)
        };
        match self {
            Self::Workload(uid) => *uid.0 == *name,
            Self::Service(key) => pair(&key.namespace, &key.hostname),
            Self::Policy(key) => pair(&key.namespace, &key.name),
            Self::Unreadable(own) => **own == *name,
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
