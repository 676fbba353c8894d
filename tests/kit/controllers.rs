//! What kube-controller-manager and kube-scheduler do, as far as the tutorials need it and the API
//! server does not do it itself.
//!
//! One loop: after any change it lists everything and brings each kind closer to what is wanted.
//! Lists are read from the server each time, so the loop never acts on what it saw before its own
//! last write.

mod deployments;
mod names;
mod scheduling;
mod slices;

use std::fmt::Debug;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::objects::{Changes, Tasks};

pub use slices::is_ready;
pub(crate) use slices::named_port;

/// All the controllers look at.
struct World {
    client: Client,
    nodes: Vec<Node>,
    deployments: Vec<Deployment>,
    replica_sets: Vec<ReplicaSet>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

/// Starts the controllers.
pub fn start(client: &Client, tasks: &Tasks) {
    let changes = Changes::default();
    changes.watch::<Node>(Api::all(client.clone()), tasks);
    changes.watch::<Deployment>(Api::all(client.clone()), tasks);
    changes.watch::<ReplicaSet>(Api::all(client.clone()), tasks);
    changes.watch::<Pod>(Api::all(client.clone()), tasks);
    changes.watch::<Service>(Api::all(client.clone()), tasks);
    let client = client.clone();
    tasks.spawn(async move {
        let mut turn = 0;
        loop {
            let done = step(&client, &mut turn).await;
            changes.after("controllers", done).await;
        }
    });
}

async fn step(client: &Client, turn: &mut usize) -> Result<()> {
    let world = World::list(client).await?;
    deployments::sync(&world).await.context("deployments")?;
    deployments::sync_replica_sets(&world).await.context("replica sets")?;
    scheduling::sync(&world, turn).await.context("scheduling")?;
    slices::sync(&world).await.context("endpoint slices")
}

impl World {
    async fn list(client: &Client) -> Result<Self> {
        Ok(Self {
            nodes: list(client).await?,
            deployments: list(client).await?,
            replica_sets: list(client).await?,
            pods: list(client).await?,
            services: list(client).await?,
            slices: list(client).await?,
            client: client.clone(),
        })
    }

    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace.unwrap_or("default"))
    }
}

/// Everything of a kind.
pub(crate) async fn list<K>(client: &Client) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let listed = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    Ok(listed.with_context(|| format!("list {}", K::plural(&())))?.items)
}
