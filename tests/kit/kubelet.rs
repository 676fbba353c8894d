//! The kubelet of a node: one task for each pod bound to it.

mod containers;
mod probe;
mod sandbox;
mod status;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use crate::node::Node;
use crate::objects::Changes;

/// Pods with this annotation are run by someone else (the kit's agents): the kubelet leaves them.
pub const STATIC: &str = "kit.sotto/static";

/// What a pod's task is told of its pod.
#[derive(Debug, Clone)]
enum Wish {
    /// Run it; the newest object.
    Run(Arc<Pod>),
    /// End it, and delete it.
    End(Arc<Pod>),
    /// It is no longer known to the API server.
    Gone,
}

/// Starts the kubelet of `node`.
pub fn start(node: &Arc<Node>) {
    let changes = Changes::default();
    changes.watch::<Pod>(Api::all(node.client.clone()), &node.tasks);
    let mut workers = HashMap::new();
    let of = Arc::clone(node);
    node.tasks.spawn(async move {
        let what = format!("{}: kubelet", of.name());
        loop {
            let done = step(&of, &mut workers).await;
            changes.after(&what, done).await;
        }
    });
}

async fn step(node: &Arc<Node>, workers: &mut HashMap<String, watch::Sender<Wish>>) -> Result<()> {
    let bound = ListParams::default().fields(&format!("spec.nodeName={}", node.name()));
    let pods = Api::<Pod>::all(node.client.clone()).list(&bound).await?;
    let ours = pods.items.into_iter().filter(|pod| !pod.annotations().contains_key(STATIC));
    let mut seen: HashMap<String, Wish> = HashMap::new();
    for pod in ours {
        let Some(uid) = pod.uid() else { continue };
        let ending = pod.metadata.deletion_timestamp.is_some();
        let pod = Arc::new(pod);
        seen.insert(uid, if ending { Wish::End(pod) } else { Wish::Run(pod) });
    }
    for (uid, wish) in &seen {
        match workers.get(uid) {
            Some(worker) => drop(worker.send_replace(wish.clone())),
            None => drop(workers.insert(uid.clone(), worker::start(node, wish.clone()))),
        }
    }
    workers.retain(|uid, worker| {
        if !seen.contains_key(uid) {
            worker.send_replace(Wish::Gone);
        }
        !worker.is_closed()
    });
    Ok(())
}
