//! Whether a pod that the runtime is about to start is ours.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client};

use crate::enroll::cni::wire::Request;
use crate::enroll::facts::{NamespaceFacts, PodFacts};
use crate::enroll::machine::NetnsRef;
use crate::enroll::netns::{LocateError, Locator};
use crate::enroll::rules::{self, Mode, Verdict};
use crate::mesh::spiffe::SpiffeIdError;
use crate::mesh::{LocalPod, PodUid};

/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is to be judged.
#[derive(Debug)]
pub(super) struct Admit {
    pub(super) request: Request,
    /// The pod and its namespace's mode, if the watch has them.
    pub(super) known: Option<(PodFacts, Option<Mode>)>,
}

/// The judgement.
#[derive(Debug)]
pub(super) enum Admission {
    Leave { reason: String },
    Enroll { pod: LocalPod, container: String, netns: NetnsRef },
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdmitError {
    #[error("failed to look up pod {namespace}/{name}")]
    Api {
        namespace: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the API server did not answer in {TIMEOUT:?}")]
    Timeout,
    #[error("pod {namespace}/{name} has another UID than {uid}")]
    OtherPod { namespace: String, name: String, uid: String },
    #[error("pod {0} lacks a UID, name or namespace")]
    Nameless(String),
    #[error("the pod cannot have an identity")]
    Identity(#[from] SpiffeIdError),
    #[error("the runtime told no address of the pod, and its status has none")]
    NoAddress,
    #[error("failed to open the pod's network namespace")]
    Netns(#[from] LocateError),
    #[error("the look-up was cut off")]
    Interrupted,
}

impl AdmitError {
    /// Whether another try may come out differently by itself.
    pub(super) fn is_unsure(&self) -> bool {
        matches!(self, Self::Api { .. } | Self::Timeout | Self::OtherPod { .. } | Self::Interrupted)
    }
}

impl Admit {
    pub(super) async fn run(
        self,
        client: Client,
        locator: Locator,
    ) -> Result<Admission, AdmitError> {
        let uid = self.request.pod_uid.as_deref().map(|uid| PodUid(uid.into()));
        let matches = |pod: &PodFacts| uid.as_ref().is_none_or(|uid| pod.is(uid));
        let (pod, mode) = match self.known {
            Some((pod, mode)) if matches(&pod) => (pod, mode),
            _ => {
                let (namespace, name) = (&self.request.pod_namespace, &self.request.pod_name);
                tokio::time::timeout(TIMEOUT, look_up(client, namespace, name))
                    .await
                    .map_err(|_| AdmitError::Timeout)??
            }
        };
        if let (Some(uid), false) = (&uid, matches(&pod)) {
            return Err(AdmitError::OtherPod {
                namespace: self.request.pod_namespace,
                name: self.request.pod_name,
                uid: uid.to_string(),
            });
        }
        if let Verdict::Leave(reason) = rules::judge(&pod, mode) {
            return Ok(Admission::Leave { reason: reason.to_string() });
        }
        let told: Vec<IpAddr> = self.request.ips.iter().map(|ip| ip.address.addr()).collect();
        let ips = if told.is_empty() { &pod.ips } else { &told };
        if ips.is_empty() {
            return Err(AdmitError::NoAddress);
        }
        let pod = rules::local_pod(&pod, ips)?;
        let path = PathBuf::from(self.request.netns);
        // Opening is file IO.
        let netns = tokio::task::spawn_blocking(move || {
            locator.open(&path).map(|netns| NetnsRef { inode: netns.inode(), path })
        });
        let netns = netns.await.map_err(|_| AdmitError::Interrupted)??;
        Ok(Admission::Enroll { pod, container: self.request.container_id, netns })
    }
}

/// A pod and its namespace's mode, from the API server.
async fn look_up(
    client: Client,
    namespace: &str,
    name: &str,
) -> Result<(PodFacts, Option<Mode>), AdmitError> {
    let error = |source: kube::Error| AdmitError::Api {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let namespaces: Api<Namespace> = Api::all(client);
    let (pod, object) =
        tokio::try_join!(pods.get(name), namespaces.get(namespace)).map_err(error)?;
    let facts = PodFacts::new(&pod).ok_or_else(|| AdmitError::Nameless(name.to_owned()))?;
    Ok((facts, NamespaceFacts::new(&object).mode))
}
