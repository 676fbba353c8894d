//! The kinds that the index is made of.

use arcstr::ArcStr;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::report::Reporter;
use super::security::{authorization_policy, peer_authentication};
use super::spawn::spawn;
use super::watch::{Custom, Watch};
use super::{destination, reduce, unserved};
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::Event;
use crate::sys::Shutdown;

const fn security(plural: &'static str) -> Custom {
    Custom { group: "security.istio.io", plural, versions: &["v1", "v1beta1"] }
}

/// What the watches need.
#[derive(Clone)]
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// The namespace whose policies govern the whole mesh.
    pub root_namespace: ArcStr,
    /// Where changes go. Full, the watches wait.
    pub events: mpsc::Sender<Event>,
    /// Counts.
    pub metrics: Metrics,
}

/// Starts a watch of each kind that the index is made of; `shutdown` owns them.
pub fn watch(watches: Watches, shutdown: &Shutdown) {
    let Watches { client, root_namespace: root, events, metrics } = watches;
    let reporter = Reporter::start(client.clone(), shutdown);
    let all = watcher::Config::default;
    let sink = || (events.clone(), metrics.clone());
    let pods = Watch::new("Pod", Event::Pod, sink());
    let services = Watch::new("Service", Event::Service, sink());
    let slices = Watch::new("EndpointSlice", Event::Slice, sink());
    let nodes = Watch::new("Node", Event::Node, sink());
    let peers = Watch::new("PeerAuthentication", Event::PeerAuthentication, sink());
    let access = Watch::new("AuthorizationPolicy", Event::AuthorizationPolicy, sink());
    spawn(shutdown, pods.plain(Api::<core::Pod>::all(client.clone()), all(), reduce::pod));
    spawn(
        shutdown,
        services.plain(Api::<core::Service>::all(client.clone()), all(), reduce::service),
    );
    spawn(shutdown, slices.plain(Api::<EndpointSlice>::all(client.clone()), all(), reduce::slice));
    spawn(shutdown, nodes.plain(Api::<core::Node>::all(client.clone()), all(), reduce::node));
    let told = |plural| (security(plural), client.clone(), reporter.clone());
    let peer = {
        let root = root.clone();
        move |object: &_| peer_authentication(object, &root)
    };
    spawn(shutdown, peers.custom(told("peerauthentications"), peer));
    let policy = move |object: &_| authorization_policy(object, &root);
    spawn(shutdown, access.custom(told("authorizationpolicies"), policy));
    destination::watch(client.clone(), &reporter, &metrics, shutdown);
    unserved::watch(&client, &reporter, &metrics, shutdown);
}
