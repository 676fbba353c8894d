//! Takes the annotation back from pods of a node that the mesh leaves, and the condition of those that were not captured.
//!
//! Only from those that agents of this node have captured: another mesh's agents write the same one.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::timeout;

use super::annotate::annotate;
use super::condition::{self, Told};
use super::facts::PodFacts;
use crate::error::chain;
use crate::mesh::PodUid;

/// Longest wait for the list.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why annotations are still there.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// Which pods there are is not known.
    #[error("failed to list the pods of node {node}")]
    List {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("the API server did not answer in {TIMEOUT:?}")]
    Timeout,
    /// Some could not be written.
    #[error("the annotation ambient.istio.io/redirection is still on {count} pods, as on {first}")]
    Some {
        /// How many.
        count: usize,
        /// One of them, and why.
        first: String,
    },
}

/// Removes the annotation from those of the `captured` pods that have it, and tells how many those were. The condition goes
/// as well as can be.
///
/// # Errors
/// The API server refuses, or is not reached; all that can be removed are.
pub async fn withdraw(
    client: &Client,
    node: &str,
    captured: &BTreeSet<PodUid>,
) -> Result<usize, WithdrawError> {
    let pods: Api<Pod> = Api::all(client.clone());
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let listed = match timeout(TIMEOUT, pods.list(&on_node)).await {
        Ok(Ok(listed)) => listed,
        // There may be conditions still, of which nothing depends.
        _ if captured.is_empty() => return Ok(0),
        Ok(Err(source)) => {
            let (node, source) = (node.to_owned(), Box::new(source));
            return Err(WithdrawError::List { node, source });
        }
        Err(_) => return Err(WithdrawError::Timeout),
    };
    let pods: Vec<PodFacts> = listed.items.iter().filter_map(PodFacts::new).collect();
    for pod in pods.iter().filter(|pod| pod.told.is_some()) {
        condition::write(client.clone(), &pod.of(), Told::Nothing).await;
    }
    let ours = |pod: &PodFacts| pod.annotated && captured.contains(&pod.uid);
    let (mut done, mut failed) = (0, Vec::new());
    for pod in pods.into_iter().filter(ours) {
        match annotate(client.clone(), &pod.uid, &pod.namespace, &pod.name, false).await {
            Ok(()) => done += 1,
            Err(error) => failed.push(format!("{}/{}: {}", pod.namespace, pod.name, chain(&error))),
        }
    }
    let count = failed.len();
    match failed.into_iter().next() {
        Some(first) => Err(WithdrawError::Some { count, first }),
        None => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, Request, Response};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;

    /// An API server with these pods, which answers patches with `code`; told is what was patched.
    fn api(pods: &Value, code: u16) -> (Client, Arc<Mutex<Vec<String>>>) {
        let (pods, patched) = (pods.clone(), Arc::new(Mutex::new(Vec::new())));
        let told = patched.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let is_patch = request.method() == Method::PATCH;
            if is_patch {
                told.lock().push(request.uri().path().to_owned());
            }
            let list =
                json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods });
            let refused = json!({ "kind": "Status", "code": code, "reason": "Refused" });
            let (code, body) = match (is_patch, code) {
                (false, _) => (200, list),
                (true, 200) => (200, pods[0].clone()),
                (true, _) => (code, refused),
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            let response = Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        (Client::new(service, "default"), patched)
    }

    fn pod(name: &str, annotated: bool) -> Value {
        let value = annotated.then_some("enabled");
        json!({ "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
            "annotations": { "ambient.istio.io/redirection": value.unwrap_or("") } } })
    }

    #[tokio::test]
    async fn what_was_told_of_pods_that_were_not_captured_is_taken_back() {
        let mut bad = pod("bad", false);
        bad["status"] =
            json!({ "conditions": [{ "type": "sotto.io/Captured", "status": "False" }] });
        let (client, patched) = api(&json!([bad, pod("ours", true)]), 200);
        assert_eq!(withdraw(&client, "node1", &uids(&["ours"])).await.unwrap(), 1);
        let status = |name| format!("/api/v1/namespaces/shop/pods/{name}/status");
        assert_eq!(*patched.lock(), [status("bad"), status("ours")]);
        // Also where none was captured.
        assert_eq!(withdraw(&client, "node1", &uids(&[])).await.unwrap(), 0);
        assert_eq!(patched.lock().last(), Some(&status("bad")));
    }

    fn uids(names: &[&str]) -> BTreeSet<PodUid> {
        names.iter().map(|name| PodUid(format!("uid-{name}").into())).collect()
    }

    #[tokio::test]
    async fn only_pods_that_this_node_captured_lose_the_annotation() {
        let pods = json!([pod("ours", true), pod("theirs", true), pod("released", false)]);
        let (client, patched) = api(&pods, 200);
        let done = withdraw(&client, "node1", &uids(&["ours", "released", "gone"])).await;
        assert_eq!(done.unwrap(), 1);
        assert_eq!(*patched.lock(), ["/api/v1/namespaces/shop/pods/ours/status"]);
        assert_eq!(withdraw(&client, "node1", &uids(&[])).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn all_are_tried_and_what_failed_is_told() {
        let pods = json!([pod("a", true), pod("b", true)]);
        let (client, patched) = api(&pods, 403);
        let error = withdraw(&client, "node1", &uids(&["a", "b"])).await.unwrap_err();
        assert!(error.to_string().contains("still on 2 pods, as on shop/a"), "{error}");
        assert_eq!(patched.lock().len(), 2);
    }
}
