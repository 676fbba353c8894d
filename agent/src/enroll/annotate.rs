//! The annotation `ambient.istio.io/redirection`, from which the control plane learns that a pod
//! takes HBONE.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::facts::{REDIRECTION_ANNOTATION, REDIRECTION_ENABLED};
use crate::mesh::PodUid;

/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the annotation was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnnotateError {
    /// The API server refused, or was not reached.
    #[error("failed to patch the pod's status")]
    Api(#[source] Box<kube::Error>),
    /// It did not answer in time.
    #[error("the API server did not answer in {TIMEOUT:?}")]
    Timeout,
}

/// Writes or removes the annotation of exactly this pod; one that is gone is fine.
pub(super) async fn annotate(
    client: Client,
    uid: &PodUid,
    namespace: &str,
    name: &str,
    enabled: bool,
) -> Result<(), AnnotateError> {
    let value = enabled.then_some(REDIRECTION_ENABLED);
    // The UID makes it fail for another pod of the same name.
    let metadata = json!({ "uid": uid.0, "annotations": { REDIRECTION_ANNOTATION: value } });
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let parameters = PatchParams::default();
    let answer = tokio::time::timeout(TIMEOUT, pods.patch_status(name, &parameters, &patch)).await;
    match answer {
        Err(_) => Err(AnnotateError::Timeout),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => {
            Ok(())
        }
        Ok(Err(error)) => Err(AnnotateError::Api(Box::new(error))),
    }
}
