//! From the agent's flags to what each part needs to know.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::environment;
use crate::capture::bpf::KernelConfig;
use crate::capture::kubelet::Search;
use crate::config::{AgentConfig, TlsRecords, UnknownDestinations, ztunnel};
use crate::enroll;
use crate::identify::ca::CaConfig;
use crate::mesh::Given;
use crate::sys::Host;
use crate::sys::cgroup::{self, Cgroup};
use crate::tunnel::Limits;
use crate::tunnel::tls::RecordLayer;
use crate::xds::{Kept, XdsConfig};

/// Of the kernel's programs.
pub(super) fn kernel(config: &AgentConfig, own: &Cgroup) -> anyhow::Result<KernelConfig> {
    Ok(KernelConfig {
        pin_dir: config.pin_dir.clone(),
        cgroup_root: cgroup_root(config)?,
        agent_cgroup_id: own.id,
        fail_open: config.fail_open,
        proxy_unknown: config.unknown_destinations == UnknownDestinations::Proxy,
        ranges: config.stand_ins,
    })
}

/// Of the search for the kubelet.
pub(super) fn kubelet(config: &AgentConfig) -> anyhow::Result<Search> {
    Ok(Search::new(config.proc.clone(), cgroup_root(config)?, config.kubelet_cgroup.clone()))
}

/// Of tunnels.
pub(super) fn limits(config: &AgentConfig) -> Limits {
    let limits = Limits::default();
    let early_data = if config.wait_for_answer { 0 } else { limits.early_data };
    let record_layer = match config.tls_records {
        TlsRecords::Own => RecordLayer::Own,
        TlsRecords::Rustls => RecordLayer::Rustls,
    };
    Limits { early_data, record_layer, ..limits }
}

/// Where agents of a node meet: the folder of the CNI socket, which is the node's own.
pub(super) fn run_dir(config: &AgentConfig) -> &Path {
    config.cni_socket.parent().unwrap_or_else(|| Path::new("."))
}

/// Of discovery.
pub(super) fn discovery(config: &AgentConfig) -> anyhow::Result<XdsConfig> {
    Ok(XdsConfig {
        address: config.xds_address.clone(),
        server_name: config.control_plane_name.clone(),
        root_cert: config.root_cert.clone(),
        token: config.token.clone(),
        node_name: config.node_name.clone(),
        pod_name: config.pod_name.clone(),
        pod_namespace: config.pod_namespace.clone(),
        root_namespace: config.root_namespace.clone(),
        instance_ip: config.instance_ip,
        renewal: XdsConfig::RENEWAL,
        kept: Some(kept(config)),
        metadata: environment::metadata(ztunnel::variables()),
        headers: environment::headers("XDS_HEADER_", ztunnel::variables())?,
    })
}

/// Of where this node is in the mesh, as far as the agent is told.
pub(super) fn given(config: &AgentConfig) -> Given {
    Given {
        node: config.node_name.as_str().into(),
        agent: Some((config.pod_namespace.as_str().into(), config.pod_name.as_str().into())),
        cluster_id: config.cluster_id.as_deref().map(Into::into),
        network: config.network.as_deref().map(Into::into),
        trust_domain: config.trust_domain.clone(),
    }
}

/// What is known of the mesh, on the node's disk.
pub(super) fn kept(config: &AgentConfig) -> Kept {
    let Given { cluster_id, network, trust_domain, .. } = given(config);
    let told = (&config.xds_address, cluster_id, network, trust_domain);
    Kept::new(&config.state_dir, format!("{told:?}"))
}

/// Of certificates.
pub(super) fn certificates(config: &AgentConfig) -> anyhow::Result<CaConfig> {
    Ok(CaConfig {
        address: config.ca_address.clone(),
        server_name: config.control_plane_name.clone(),
        root_cert: config.root_cert.clone(),
        token: config.token.clone(),
        ttl: config.certificate_ttl,
        headers: environment::headers("CA_HEADER_", ztunnel::variables())?,
    })
}

/// Of enrolment.
pub(super) fn enrolment(config: &AgentConfig) -> anyhow::Result<enroll::Settings> {
    Ok(enroll::Settings {
        node_name: config.node_name.as_str().into(),
        cgroup_root: cgroup_root(config)?,
        proc: config.proc.clone(),
        cni_socket: config.cni_socket.clone(),
        remembered: enroll::remembered::file_in(&config.state_dir),
    })
}

fn cgroup_root(config: &AgentConfig) -> anyhow::Result<PathBuf> {
    match &config.cgroup_root {
        // One that is none yet is told by who uses it.
        Some(root) => Ok(cgroup::hierarchy(root).unwrap_or_else(|| root.clone())),
        None => Host::find().cgroup_root().context("failed to find the cgroup v2 hierarchy"),
    }
}

/// The agent's own cgroup, if one is given or it is in a container. A container's `/sys/fs/cgroup` is none on a host with both
/// versions: there the agent's own is found in the host's hierarchy.
pub(super) fn agent_cgroup(config: &AgentConfig) -> Option<PathBuf> {
    let Some(given) = &config.agent_cgroup else { return Host::find().container_cgroup() };
    let is_one = cgroup::hierarchy(given).as_ref() == Some(given);
    (is_one || !given.exists()).then(|| given.clone())
}
