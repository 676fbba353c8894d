//! What one node has been told, and what it must be told next. Pure: requests and snapshots in,
//! responses out.
//!
//! Of each type one response is in flight at most; while it is, snapshots are skipped, so a slow
//! node gets the newest state and never a queue.
//!
//! The order that opens no hole and denies nothing by accident, for each snapshot: first policies
//! that are new, then workloads and services, then policies that changed or went. A workload may
//! name a new policy (unknown, it would be denied), may still name one that goes (likewise), and
//! must name a policy that turns from all workloads to some before that policy lets go of the rest.

use std::sync::Arc;

use arcstr::ArcStr;
use imbl::ordmap::DiffItem;
use prost_types::Any;
use sotto_proto::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};

use crate::control_plane::snapshot::{Entry, Resources, Snapshot};

/// A type of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Address,
    Authorization,
}

impl Kind {
    /// Its name in metrics and logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Address => "Address",
            Self::Authorization => "Authorization",
        }
    }

    fn type_url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS_TYPE,
            Self::Authorization => AUTHORIZATION_TYPE,
        }
    }

    fn of(type_url: &str) -> Option<Self> {
        [Self::Address, Self::Authorization].into_iter().find(|kind| kind.type_url() == type_url)
    }

    fn resources(self, snapshot: &Snapshot) -> &Resources {
        match self {
            Self::Address => &snapshot.addresses,
            Self::Authorization => &snapshot.authorizations,
        }
    }
}

/// What a request said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Subscribed {
        kind: Kind,
        held: usize,
    },
    Ack(Kind),
    Nack {
        kind: Kind,
        reason: String,
    },
    /// It answers an older response, or changes nothing.
    Stale,
    UnknownType(String),
}

/// A request that cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("only wildcard subscriptions are served: {0} was subscribed to by name")]
pub(super) struct ByName(&'static str);

/// One stream's state.
#[derive(Debug, Default)]
pub(super) struct Session {
    addresses: Option<Subscription>,
    authorizations: Option<Subscription>,
    /// The snapshot being told; kept until all of it is.
    target: Option<Arc<Snapshot>>,
    responses: u64,
}

#[derive(Debug)]
struct Subscription {
    /// What the node has been sent, whether or not it took it.
    held: Resources,
    in_flight: Option<InFlight>,
    /// The first response is due even if it is empty: the node counts as synced when it comes.
    greeted: bool,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// It brings policies that workloads of the same snapshot may name.
    additions: bool,
}

impl Session {
    /// Takes in a request.
    pub(super) fn heard(&mut self, request: DeltaDiscoveryRequest) -> Result<Heard, ByName> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Ok(Heard::UnknownType(request.type_url));
        };
        let Some(subscription) = self.slot(kind) else {
            return self.subscribe(kind, request);
        };
        let answers = |f: &InFlight| f.nonce == request.response_nonce;
        if subscription.in_flight.take_if(|in_flight| answers(in_flight)).is_none() {
            return Ok(Heard::Stale);
        }
        Ok(match request.error_detail {
            None => Heard::Ack(kind),
            Some(status) => Heard::Nack { kind, reason: status.message },
        })
    }

    /// The next response, if one is due. Ask until there is none.
    pub(super) fn next(&mut self, snapshot: &Arc<Snapshot>) -> Option<Push> {
        loop {
            if let Some(target) = self.target.clone() {
                let response = self.step(&target);
                if response.is_some() || self.waiting() || Arc::ptr_eq(&target, snapshot) {
                    return response;
                }
            }
            self.target = Some(snapshot.clone());
        }
    }

    /// Whether a response has not been answered yet.
    pub(super) fn waiting(&self) -> bool {
        let both = [&self.addresses, &self.authorizations];
        both.into_iter().flatten().any(|subscription| subscription.in_flight.is_some())
    }

    fn slot(&mut self, kind: Kind) -> Option<&mut Subscription> {
        match kind {
            Kind::Address => self.addresses.as_mut(),
            Kind::Authorization => self.authorizations.as_mut(),
        }
    }

    fn subscribe(&mut self, kind: Kind, request: DeltaDiscoveryRequest) -> Result<Heard, ByName> {
        let names = &request.resource_names_subscribe;
        let wildcard = names.is_empty() || names.iter().any(|name| name == "*");
        if !wildcard || request.resource_names_unsubscribe.iter().any(|name| name == "*") {
            return Err(ByName(kind.name()));
        }
        let entry = |version: String| Entry { version: version.into(), body: Arc::from([]) };
        let claimed = request.initial_resource_versions.into_iter();
        let held: Resources =
            claimed.map(|(name, version)| (ArcStr::from(name), entry(version))).collect();
        let heard = Heard::Subscribed { kind, held: held.len() };
        let subscription = Some(Subscription { held, in_flight: None, greeted: false });
        match kind {
            Kind::Address => self.addresses = subscription,
            Kind::Authorization => self.authorizations = subscription,
        }
        Ok(heard)
    }

    /// The next response towards `target`.
    fn step(&mut self, target: &Snapshot) -> Option<Push> {
        let Self { addresses, authorizations, responses, .. } = self;
        let in_order = addresses.is_some();
        if let Some(policies) = authorizations.as_mut().filter(|s| s.in_flight.is_none()) {
            let mut delta = Delta::between(&policies.held, &target.authorizations);
            if in_order {
                delta = delta.additions(&policies.held);
            }
            if let Some(response) = policies.send(Kind::Authorization, delta, in_order, responses) {
                return Some(response);
            }
        }
        let additions = |s: &Subscription| s.in_flight.as_ref().is_some_and(|f| f.additions);
        if authorizations.as_ref().is_some_and(additions) {
            return None;
        }
        let addresses = addresses.as_mut()?;
        if addresses.in_flight.is_some() {
            return None;
        }
        let delta = Delta::between(&addresses.held, Kind::Address.resources(target));
        if let Some(response) = addresses.send(Kind::Address, delta, false, responses) {
            return Some(response);
        }
        let policies = authorizations.as_mut().filter(|s| s.in_flight.is_none())?;
        let delta = Delta::between(&policies.held, &target.authorizations);
        policies.send(Kind::Authorization, delta, false, responses)
    }
}

impl Subscription {
    /// What tells `delta`, unless there is nothing to tell.
    fn send(
        &mut self,
        kind: Kind,
        delta: Delta,
        additions: bool,
        responses: &mut u64,
    ) -> Option<Push> {
        if delta.is_empty() && self.greeted {
            return None;
        }
        self.greeted = true;
        // Nodes that have been told the same share what they hold, with each other and with the snapshot.
        self.held.clone_from(&delta.after);
        *responses += 1;
        let nonce = responses.to_string();
        self.in_flight = Some(InFlight { nonce: nonce.clone(), additions });
        Some(Push { kind, nonce, delta })
    }
}

/// A response to be made.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) kind: Kind,
    nonce: String,
    delta: Delta,
}

impl Push {
    /// About so many bytes.
    pub(super) fn bytes(&self) -> usize {
        let Delta { changed, removed, .. } = &self.delta;
        let changed = changed.iter().map(|(name, entry)| name.len() + entry.body.len() + FRAME);
        changed.chain(removed.iter().map(|name| name.len())).sum()
    }

    /// As the wire has it.
    pub(super) fn response(self) -> DeltaDiscoveryResponse {
        let Self { kind, nonce, delta } = self;
        let resource = |(name, entry): (ArcStr, Entry)| {
            let value = entry.body.to_vec();
            let body = Any { type_url: kind.type_url().to_owned(), value };
            let (version, name) = (entry.version.to_string(), name.to_string());
            Resource { version, resource: Some(body), name, aliases: Vec::new() }.encoded()
        };
        DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources: delta.changed.into_iter().map(resource).collect(),
            type_url: kind.type_url().to_owned(),
            nonce,
            removed_resources: delta.removed.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What a resource has besides its name and its content: version, type and lengths.
const FRAME: usize = 100;

/// What differs.
#[derive(Debug, Default)]
struct Delta {
    changed: Vec<(ArcStr, Entry)>,
    /// Of `changed`, how many there are at the front that are new.
    added: usize,
    removed: Vec<ArcStr>,
    /// What is held once all of it is told.
    after: Resources,
}

impl Delta {
    fn between(held: &Resources, wanted: &Resources) -> Self {
        let (mut added, mut updated, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for difference in held.diff(wanted) {
            match difference {
                DiffItem::Add(name, entry) => added.push((name.clone(), entry.clone())),
                DiffItem::Update { new: (name, entry), .. } => {
                    updated.push((name.clone(), entry.clone()));
                }
                DiffItem::Remove(name, _) => removed.push(name.clone()),
            }
        }
        let count = added.len();
        added.append(&mut updated);
        Self { changed: added, added: count, removed, after: wanted.clone() }
    }

    /// What is new, to a node that holds this.
    fn additions(mut self, held: &Resources) -> Self {
        if self.changed.len() == self.added && self.removed.is_empty() {
            return self;
        }
        self.changed.truncate(self.added);
        self.removed.clear();
        self.after.clone_from(held);
        self.after.extend(self.changed.iter().cloned());
        self
    }

    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests;
