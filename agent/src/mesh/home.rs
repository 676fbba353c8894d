//! Where this node is in the mesh: of which cluster, on which network, in which trust domain.
//!
//! Nobody has to tell an agent. The control plane's records of the node's own pods say it, and everything that the
//! control plane sends is keyed by it: an agent that goes by other names finds nobody, and would take the whole mesh
//! for being outside. What an agent is told all the same counts only as long as the records agree.

use std::sync::Arc;

use arcstr::ArcStr;
use imbl::HashMap;

use super::address::Network;
use super::local::LocalPod;
use super::spiffe::TrustDomain;
use super::watchers::PodName;
use super::workload::Workload;

/// What an agent is told of where it is by whoever installs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The node's name in Kubernetes.
    pub node: ArcStr,
    /// Namespace and name of the agent's own pod, whose record counts more than others.
    pub agent: Option<(ArcStr, ArcStr)>,
    /// The cluster; learned if not told.
    pub cluster_id: Option<ArcStr>,
    /// The network; learned if not told.
    pub network: Option<Network>,
    /// The trust domain; learned if not told.
    pub trust_domain: Option<TrustDomain>,
}

/// Where this node is in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The cluster that the control plane takes it for.
    pub cluster_id: ArcStr,
    /// The network that its addresses and its services' are of.
    pub network: Network,
    /// The trust domain of its pods' identities.
    pub trust_domain: TrustDomain,
}

/// Why it is not known where this node is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HomeUnknown {
    /// Nothing was told of any pod of the node.
    #[error(
        "the control plane tells of no pod of node {node:?}: is it this cluster's control plane, and do its \
         discoverySelectors select the agent's namespace?"
    )]
    NoPod {
        /// Its name.
        node: ArcStr,
    },
    /// The records of its pods do not agree, and the agent's own is not among them.
    #[error(
        "the control plane tells of pods of node {node:?} with the {what}s {one:?} and {other:?}, and nothing of the \
         agent's own pod: set {flag}"
    )]
    Ambiguous {
        /// Its name.
        node: ArcStr,
        /// Of what there are several.
        what: &'static str,
        /// One of them.
        one: ArcStr,
        /// Another.
        other: ArcStr,
        /// What settles it.
        flag: &'static str,
    },
    /// The agent was told something else.
    #[error(
        "{flag} is {given:?}, and the control plane knows pod {pod} of this node with the {what} {told:?}: \
         leave {flag} out, or correct it"
    )]
    Differs {
        /// What is set.
        flag: &'static str,
        /// Of what it is the name.
        what: &'static str,
        /// To what.
        given: ArcStr,
        /// Namespace and name of the pod.
        pod: String,
        /// What the control plane says.
        told: ArcStr,
    },
}

/// What is told of the node's own pods, and what follows from it.
#[derive(Debug, Clone)]
pub(super) struct Locals {
    given: Given,
    /// By name: usually one, the newest last.
    pods: HashMap<PodName, Arc<[Arc<Workload>]>>,
    home: Result<Arc<Home>, HomeUnknown>,
    /// Something changed since home was learned.
    stale: bool,
}

impl Default for Locals {
    fn default() -> Self {
        Self::new(Given::default())
    }
}

impl Locals {
    pub(super) fn new(given: Given) -> Self {
        let home = learn(&given, &HashMap::new()).map(Arc::new);
        Self { given, pods: HashMap::new(), home, stale: false }
    }

    pub(super) fn given(&self) -> &Given {
        &self.given
    }

    pub(super) fn home(&self) -> Result<&Arc<Home>, &HomeUnknown> {
        self.home.as_ref()
    }

    /// Whether anything is told of the agent's own pod.
    pub(super) fn knows_agent(&self) -> bool {
        let agent = self.given.agent.as_ref();
        agent
            .is_some_and(|(namespace, name)| self.pods.contains_key(&PodName::new(namespace, name)))
    }

    /// The cluster, also where nothing was told yet.
    pub(super) fn cluster_id(&self) -> Option<&ArcStr> {
        let learned = self.home.as_ref().ok().map(|home| &home.cluster_id);
        self.given.cluster_id.as_ref().or(learned)
    }

    /// What is told of a pod: same cluster, same node, same name, and an address of its own. A pod that follows another of
    /// its name, as those of a StatefulSet do, is not known by the other's record.
    pub(super) fn of(&self, pod: &LocalPod) -> Option<&Arc<Workload>> {
        let home = self.home.as_ref().ok()?;
        let known = self.pods.get(&PodName::new(&pod.namespace, &pod.name))?;
        known.iter().rev().find(|workload| {
            workload.cluster_id == home.cluster_id
                && workload.addresses.iter().any(|address| pod.owns(*address))
        })
    }

    pub(super) fn insert(&mut self, workload: &Arc<Workload>) {
        if workload.node != self.given.node {
            return;
        }
        let name = PodName::of(workload);
        let others = self.pods.get(&name).into_iter().flat_map(|known| known.iter());
        let others = others.filter(|other| other.uid != workload.uid);
        let known = others.chain(std::iter::once(workload)).cloned().collect();
        self.pods.insert(name, known);
        self.stale = true;
    }

    pub(super) fn remove(&mut self, workload: &Workload) {
        let name = PodName::of(workload);
        let Some(known) = self.pods.get(&name).filter(|_| workload.node == self.given.node) else {
            return;
        };
        let left: Arc<[_]> =
            known.iter().filter(|other| other.uid != workload.uid).cloned().collect();
        if left.is_empty() {
            self.pods.remove(&name);
        } else {
            self.pods.insert(name, left);
        }
        self.stale = true;
    }

    /// Learns from what changed. Where the last pod went, the node is still where it was.
    pub(super) fn learn(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let learned = learn(&self.given, &self.pods);
        if !matches!(learned, Err(HomeUnknown::NoPod { .. })) || self.home.is_err() {
            self.home = learned.map(Arc::new);
        }
    }
}

#[cfg(test)]
impl Locals {
    pub(super) fn count(&self) -> usize {
        self.pods.len()
    }
}

/// One of the three names that make a home.
struct Part {
    what: &'static str,
    flag: &'static str,
    of: fn(&Workload) -> ArcStr,
    given: Option<ArcStr>,
}

fn parts(given: &Given) -> [Part; 3] {
    let trust_domain = given.trust_domain.as_ref().map(|domain| domain.as_str().into());
    [
        Part {
            what: "cluster id",
            flag: "--cluster-id",
            of: |workload| workload.cluster_id.clone(),
            given: given.cluster_id.clone(),
        },
        Part {
            what: "network",
            flag: "--network",
            of: |workload| workload.network.clone(),
            given: given.network.clone(),
        },
        Part {
            what: "trust domain",
            flag: "--trust-domain",
            of: |workload| workload.identity.trust_domain().as_str().into(),
            given: trust_domain,
        },
    ]
}

/// What the records say of where the node is; the agent's own, else all of them together.
fn learn(
    given: &Given,
    pods: &HashMap<PodName, Arc<[Arc<Workload>]>>,
) -> Result<Home, HomeUnknown> {
    let all: Vec<_> = pods.values().flat_map(|known| known.iter()).collect();
    let is_ours = |w: &Workload| given.cluster_id.as_ref().is_none_or(|id| *id == w.cluster_id);
    // Two clusters may have nodes of one name: what is told of the other's pods does not matter to this one.
    let mut ours: Vec<_> = all.iter().copied().filter(|workload| is_ours(workload)).collect();
    if ours.is_empty() {
        ours = all;
    }
    let is_agent = |w: &Workload| {
        given.agent.as_ref().is_some_and(|(ns, name)| *ns == w.namespace && *name == w.name)
    };
    if ours.iter().any(|workload| is_agent(workload)) {
        ours.retain(|workload| is_agent(workload));
    }
    let Some(first) = ours.iter().copied().min_by_key(|workload| &workload.uid) else {
        return told(given);
    };
    for part in parts(given) {
        let told = (part.of)(first);
        let other = ours.iter().map(|workload| (part.of)(workload)).find(|other| *other != told);
        if let Some(given) = part.given.filter(|given| *given != told) {
            let pod = format!("{}/{}", first.namespace, first.name);
            return Err(HomeUnknown::Differs {
                flag: part.flag,
                what: part.what,
                given,
                pod,
                told,
            });
        }
        if let Some(other) = other {
            let (node, what, flag) = (given.node.clone(), part.what, part.flag);
            return Err(HomeUnknown::Ambiguous { node, what, one: told, other, flag });
        }
    }
    Ok(Home {
        cluster_id: first.cluster_id.clone(),
        network: first.network.clone(),
        trust_domain: first.identity.trust_domain().clone(),
    })
}

/// Where the node is by what the agent is told alone, if that is all.
fn told(given: &Given) -> Result<Home, HomeUnknown> {
    let Given { cluster_id, network, trust_domain, .. } = given.clone();
    let home =
        || Some(Home { cluster_id: cluster_id?, network: network?, trust_domain: trust_domain? });
    home().ok_or_else(|| HomeUnknown::NoPod { node: given.node.clone() })
}

#[cfg(test)]
mod tests;
