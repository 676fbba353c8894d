//! What judging one connection costs: with the index, and by asking every policy in turn.

#![expect(clippy::unwrap_used, reason = "fixed names and addresses")]

use std::fmt;
use std::sync::Arc;

use divan::{Bencher, black_box};
use sotto::authorize::{Decision, Request, Subject, decide};
use sotto::mesh::policy::{
    Action, Authorization, Group, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch,
};
use sotto::mesh::{Mesh, MeshEvent, PolicyKey, Store, Workload};

const POLICIES: [usize; 5] = [0, 10, 100, 1000, 10_000];

/// Policies of one scope, and who asks.
struct Case {
    scope: PolicyScope,
    policies: usize,
    caller: Caller,
}

#[derive(Debug, Clone, Copy)]
enum Caller {
    /// An ALLOW policy in the middle lets it in.
    Hit,
    /// An identity of which no policy speaks.
    Miss,
    /// No identity.
    Plaintext,
}

struct World {
    mesh: Arc<Mesh>,
    workload: Workload,
    request: Request,
}

fn main() {
    divan::main();
}

fn cases() -> impl Iterator<Item = Case> {
    let scopes = [PolicyScope::Namespace, PolicyScope::Global, PolicyScope::WorkloadSelector];
    scopes.into_iter().flat_map(|scope| {
        POLICIES.into_iter().flat_map(move |policies| {
            let callers = [Caller::Hit, Caller::Miss, Caller::Plaintext];
            callers.map(|caller| Case { scope, policies, caller })
        })
    })
}

#[divan::bench(args = cases())]
fn indexed(bencher: Bencher<'_, '_>, case: &Case) {
    let world = World::new(case);
    bencher.bench_local(|| black_box(world.decide()));
}

#[divan::bench(args = cases())]
fn one_by_one(bencher: Bencher<'_, '_>, case: &Case) {
    let world = World::new(case);
    let allowed = matches!(world.decide(), Decision::Allow(_));
    assert_eq!(world.asks_each(), allowed, "{case}");
    bencher.bench_local(|| black_box(world.asks_each()));
}

/// One of so many policies comes anew: what the writer of the mesh does.
#[divan::bench(args = POLICIES)]
fn one_policy_changes(bencher: Bencher<'_, '_>, policies: usize) {
    let (mut store, _reader) = Store::new();
    let scope = PolicyScope::Namespace;
    store.apply((0..policies).map(|of| MeshEvent::Policy(policy(of, scope))));
    let mut versions = [policy(1, scope), policy(2, scope)].map(|other| {
        let changed = Authorization { key: key(0), ..Authorization::clone(&other) };
        MeshEvent::Policy(Arc::new(changed))
    });
    bencher.bench_local(|| {
        versions.swap(0, 1);
        store.apply([versions[0].clone()]);
    });
}

impl World {
    fn new(case: &Case) -> Self {
        let (mut store, reader) = Store::new();
        let all = (0..case.policies).map(|of| MeshEvent::Policy(policy(of, case.scope)));
        store.apply(all);
        let ip = [10, 0, 0, 2].into();
        let mut workload = Workload::pod("c", "shop", "web", "web", ip).unwrap();
        if case.scope == PolicyScope::WorkloadSelector {
            workload.authorization_policies = (0..case.policies).map(key).collect();
        }
        let request = case.request();
        Self { mesh: reader.load(), workload, request }
    }

    fn decide(&self) -> Decision {
        decide(&self.mesh, &self.workload, &self.request)
    }

    /// Whether it is let in, as a walk over all policies finds it.
    fn asks_each(&self) -> bool {
        let subject = Subject::new(&self.request);
        let listed = self.workload.authorization_policies.iter();
        let listed: Vec<_> = listed.filter_map(|key| self.mesh.policy(key)).collect();
        let namespace = self.mesh.policies_of_namespace(&self.workload.namespace);
        let sets = || std::iter::once(self.mesh.global_policies()).chain(namespace);
        let of = |action| listed.iter().copied().filter(move |policy| policy.action == action);
        let matches = |policy: &Arc<Authorization>| subject.matched_by(policy).is_some();
        let deny = || sets().flat_map(|set| set.deny().iter()).chain(of(Action::Deny));
        let allow = || sets().flat_map(|set| set.allow().iter()).chain(of(Action::Allow));
        !deny().any(matches) && (allow().next().is_none() || allow().any(matches))
    }
}

impl Case {
    fn request(&self) -> Request {
        // The policies that speak of an account by its identity are every fifth.
        let middle = self.policies / 2 / 5 * 5;
        let identity = match self.caller {
            Caller::Hit => Some(format!("spiffe://{}", principal(middle))),
            Caller::Miss => Some("spiffe://cluster.local/ns/nobody/sa/nobody".to_owned()),
            Caller::Plaintext => None,
        };
        Request {
            source_ip: [192, 168, 0, 1].into(),
            source: identity.map(|identity| identity.parse().unwrap()),
            destination: "10.0.0.2:8080".parse().unwrap(),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            PolicyScope::Global => "global",
            PolicyScope::Namespace => "namespace",
            PolicyScope::WorkloadSelector => "selector",
        };
        write!(f, "{scope} {} {:?}", self.policies, self.caller)
    }
}

fn key(of: usize) -> PolicyKey {
    PolicyKey { namespace: "shop".into(), name: arcstr::format!("p{of:05}") }
}

fn principal(of: usize) -> String {
    format!("cluster.local/ns/ns{}/sa/sa{of}", of % 50)
}

/// One of a mix: by identity, by account and port, by namespace and port, by address; and denials.
fn policy(of: usize, scope: PolicyScope) -> Arc<Authorization> {
    let exact = |text: String| vec![StringMatch::Exact(text.into())];
    let port = u16::try_from(1000 + of % 5000).unwrap();
    let [.., high, low] = u32::try_from(of).unwrap().to_be_bytes();
    let mut condition = Match::default();
    let mut action = Action::Allow;
    match of % 5 {
        0 => condition.principals = exact(principal(of)),
        1 => {
            condition.service_accounts = vec![ServiceAccountMatch {
                namespace: arcstr::format!("ns{}", of % 50),
                service_account: arcstr::format!("sa{of}"),
            }];
            condition.destination_ports = vec![8080];
        }
        2 => {
            condition.namespaces = exact(format!("ns{}", of % 50));
            condition.destination_ports = vec![port];
        }
        3 => {
            let address: std::net::IpAddr = [10, 1, high, low].into();
            condition.source_ips = vec![address.into()];
        }
        _ => {
            action = Action::Deny;
            condition.not_principals = vec![StringMatch::Presence];
            condition.destination_ports = vec![port];
        }
    }
    let rules = vec![Rule { matches: vec![condition] }];
    let groups = vec![Group { rules }];
    Arc::new(Authorization { key: key(of), scope, action, groups, dry_run: false })
}
