//! Deployments make replica sets, replica sets make pods.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::slices::{is_ready, owner_reference};
use super::{World, names};
use crate::objects;

const HASH: &str = "pod-template-hash";

/// Brings replica sets in line with deployments.
pub(super) async fn sync(world: &World) -> Result<()> {
    for deployment in world.deployments.iter().filter(|d| d.metadata.deletion_timestamp.is_none()) {
        roll(world, deployment).await.with_context(|| deployment.name_any())?;
        report(world, deployment).await?;
    }
    Ok(())
}

async fn roll(world: &World, deployment: &Deployment) -> Result<()> {
    let spec = deployment.spec.as_ref().context("a deployment without a spec")?;
    let hash = names::hashed(&serde_json::to_string(&spec.template)?, 10);
    let name = format!("{}-{hash}", deployment.name_any());
    let replicas = spec.replicas.unwrap_or(1);
    let api = world.api::<ReplicaSet>(deployment.namespace().as_deref());
    let sets: Vec<_> = world.replica_sets.iter().filter(|set| owned_by(*set, deployment)).collect();
    if !sets.iter().any(|set| set.name_any() == name) {
        let put = objects::put(&api, &replica_set(deployment, &name, &hash, replicas)?).await;
        objects::ignore_ending(put)?;
    }
    for set in sets {
        let wanted = if set.name_any() == name { replicas } else { 0 };
        if set.spec.as_ref().and_then(|spec| spec.replicas) != Some(wanted) {
            let patch = json!({ "spec": { "replicas": wanted } });
            let scaled =
                api.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
            objects::ignore_missing(scaled.map(drop))?;
        }
    }
    Ok(())
}

fn replica_set(
    deployment: &Deployment,
    name: &str,
    hash: &str,
    replicas: i32,
) -> Result<ReplicaSet> {
    let spec = deployment.spec.as_ref().context("a deployment without a spec")?;
    let mut template = spec.template.clone();
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().insert(String::from(HASH), hash.to_owned());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(String::from(HASH), hash.to_owned());
    Ok(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: deployment.namespace(),
            labels: template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
            owner_references: Some(vec![owner_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            selector,
            template: Some(template),
            ..Default::default()
        }),
        status: None,
    })
}

async fn report(world: &World, deployment: &Deployment) -> Result<()> {
    let sets: Vec<_> = world.replica_sets.iter().filter(|set| owned_by(*set, deployment)).collect();
    let pods = world.pods.iter().filter(|pod| sets.iter().any(|set| owned_by(*pod, *set)));
    let pods: Vec<&Pod> = pods.collect();
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let enough = ready
        >= usize::try_from(deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))?;
    let status = json!({
        "observedGeneration": deployment.metadata.generation,
        "replicas": pods.len(),
        "updatedReplicas": pods.len(),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": pods.len() - ready,
        "conditions": [{ "type": "Available", "status": if enough { "True" } else { "False" },
            "reason": "MinimumReplicas", "message": format!("{ready} pods are ready") }],
    });
    let api = world.api::<Deployment>(deployment.namespace().as_deref());
    if differs(&serde_json::to_value(&deployment.status)?, &status) {
        let patch = Patch::Merge(json!({ "status": status }));
        let patched =
            api.patch_status(&deployment.name_any(), &PatchParams::default(), &patch).await;
        objects::ignore_missing(patched.map(drop))?;
    }
    Ok(())
}

/// Whether `old` lacks something of `new`; a count of zero may be left out.
fn differs(old: &Value, new: &Value) -> bool {
    let zero = json!(0);
    let fields = new.as_object().into_iter().flatten();
    fields.into_iter().any(|(key, value)| old.get(key).unwrap_or(&zero) != value)
}

/// Brings pods in line with replica sets.
pub(super) async fn sync_replica_sets(world: &World) -> Result<()> {
    for set in world.replica_sets.iter().filter(|set| set.metadata.deletion_timestamp.is_none()) {
        scale(world, set).await.with_context(|| set.name_any())?;
    }
    Ok(())
}

async fn scale(world: &World, set: &ReplicaSet) -> Result<()> {
    let spec = set.spec.as_ref().context("a replica set without a spec")?;
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).context("negative replicas")?;
    let mut pods: Vec<&Pod> = world
        .pods
        .iter()
        .filter(|pod| owned_by(*pod, set) && pod.metadata.deletion_timestamp.is_none())
        .collect();
    pods.sort_by_key(|pod| (is_ready(pod), pod.name_any()));
    let template = spec.template.as_ref().context("a replica set without a template")?;
    for _ in pods.len()..wanted {
        let api = world.api::<Pod>(set.namespace().as_deref());
        let created = api.create(&PostParams::default(), &pod_of(set, template)).await;
        objects::ignore_ending(created.map(drop))?;
    }
    for pod in pods.iter().take(pods.len().saturating_sub(wanted)) {
        delete(world, pod).await?;
    }
    let status =
        json!({ "replicas": wanted, "readyReplicas": pods.iter().filter(|p| is_ready(p)).count() });
    if differs(&serde_json::to_value(&set.status)?, &status) {
        let api = world.api::<ReplicaSet>(set.namespace().as_deref());
        let patch = Patch::Merge(json!({ "status": status }));
        let patched = api.patch_status(&set.name_any(), &PatchParams::default(), &patch).await;
        objects::ignore_missing(patched.map(drop))?;
    }
    Ok(())
}

fn pod_of(set: &ReplicaSet, template: &PodTemplateSpec) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.service_account_name.get_or_insert_with(|| String::from("default"));
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", set.name_any(), names::random())),
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![owner_reference(set)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

async fn delete(world: &World, pod: &Pod) -> Result<()> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api = world.api::<Pod>(pod.namespace().as_deref());
    let deleted = api.delete(&pod.name_any(), &DeleteParams::default()).await;
    Ok(objects::ignore_missing(deleted.map(drop))?)
}

fn owned_by<K: Resource, O: Resource>(object: &K, owner: &O) -> bool {
    let uid = owner.meta().uid.as_deref();
    object.meta().owner_references.iter().flatten().any(|o| Some(o.uid.as_str()) == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_without_zeroes_is_the_same_status() {
        assert!(!differs(&json!({ "a": 1 }), &json!({ "a": 1, "b": 0 })));
        assert!(differs(&Value::Null, &json!({ "a": 1 })));
    }
}
