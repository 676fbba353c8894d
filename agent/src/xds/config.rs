//! What the client needs to know of itself and of the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use arcstr::ArcStr;
use sotto_proto::ads::Node;
use tonic::metadata::MetadataMap;

use super::kept::Kept;

/// The control plane's address and our own names.
#[derive(Debug, Clone)]
pub struct XdsConfig {
    /// `https://host:port`.
    pub address: String,
    /// The name its certificate must carry, if it is not the host of the address.
    pub server_name: Option<String>,
    /// PEM file of its roots; read at every connection.
    pub root_cert: PathBuf,
    /// File of our service account token; read at every connection.
    pub token: PathBuf,
    /// The node we serve.
    pub node_name: String,
    /// Our pod.
    pub pod_name: String,
    /// Our pod's namespace.
    pub pod_namespace: String,
    /// The namespace whose policies govern the whole mesh.
    pub root_namespace: String,
    /// Our pod's address.
    pub instance_ip: IpAddr,
    /// After about this long a stream is replaced by the next, before the control plane ends it.
    pub renewal: Duration,
    /// What is known from before this run, if anything is to be.
    pub kept: Option<Kept>,
    /// Further metadata to tell the control plane.
    pub metadata: BTreeMap<String, String>,
    /// Further headers of every call.
    pub headers: MetadataMap,
}

impl XdsConfig {
    /// Istiod ends streams after 30 minutes, our own control plane after 24 to 36.
    pub const RENEWAL: Duration = Duration::from_secs(20 * 60);

    /// How we introduce ourselves. The first part of the id tells the control plane what kind of
    /// proxy speaks, and decides what it sends. The cluster is told once it is known.
    pub(super) fn node(&self, cluster: Option<&ArcStr>) -> Node {
        let (pod, namespace, ip) = (&self.pod_name, &self.pod_namespace, self.instance_ip);
        let own = [
            ("NAME", pod.clone()),
            ("NAMESPACE", namespace.clone()),
            ("INSTANCE_IPS", ip.to_string()),
            ("NODE_NAME", self.node_name.clone()),
        ];
        let cluster = cluster.map(|cluster| ("CLUSTER_ID", cluster.to_string()));
        let further = self.metadata.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let fields = further
            .chain(own)
            .chain(cluster)
            .map(|(key, value)| (key.to_owned(), string_value(value)))
            .collect();
        Node {
            id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: String::new(),
            metadata: Some(prost_types::Struct { fields }),
        }
    }
}

fn string_value(text: String) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text)) }
}
