//! Configuration of `sotto agent`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{CommonArgs, ConfigErrors, LogFormat, Mistakes};
use crate::capture::StandInRanges;
use crate::mesh::TrustDomain;
use crate::sys::Host;

/// Lines of a pod a second: the node's log then holds a quarter of an hour of who logs most.
const DEFAULT_POD_LOG_LINES: u32 = 100;

/// Flags of `sotto agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Flags common to all.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Name of this node in Kubernetes.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// Name of the agent's own pod.
    #[arg(long, env = "POD_NAME", default_value = "sotto")]
    pub pod_name: String,
    /// Namespace of the agent's own pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub pod_namespace: String,
    /// Address of the agent's own pod.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    pub instance_ip: String,
    /// Discovery server, as `https://sotto-control-plane.istio-system.svc:15012`.
    #[arg(long, env = "XDS_ADDRESS", default_value = "https://istiod.istio-system.svc:15012")]
    pub xds_address: String,
    /// Certificate authority; the discovery server by default.
    #[arg(long, env = "CA_ADDRESS")]
    pub ca_address: Option<String>,
    /// Name to expect in the control plane's certificate; the host of its address by default.
    #[arg(long, env = "CONTROL_PLANE_NAME")]
    pub control_plane_name: Option<String>,
    /// Root certificates of the control plane (PEM), read again whenever they are used. When they change, certificates
    /// are renewed.
    #[arg(long, env = "ROOT_CERT", default_value = "/var/run/secrets/istio/root-cert.pem")]
    pub root_cert: PathBuf,
    /// Token of the agent's service account, audience istio-ca, read again whenever it is used.
    #[arg(long, env = "TOKEN", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token: PathBuf,
    /// Lifetime asked for certificates.
    #[arg(long, env = "SECRET_TTL", default_value = "24h")]
    pub certificate_ttl: String,
    /// Certificate revocation lists (PEM, or DER of one), separated by commas, read again when they change.
    #[arg(long, env = "CRL_PATH", value_delimiter = ',')]
    pub crl: Vec<PathBuf>,
    /// Identifier of this cluster, if it is not to be learned from the control plane. One that the control plane does not
    /// know this node's pods by keeps the agent from being ready; so with the network and the trust domain.
    #[arg(long, env = "CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// Network of this cluster, if it is not to be learned.
    #[arg(long, env = "NETWORK")]
    pub network: Option<String>,
    /// Trust domain of the mesh, if it is not to be learned.
    #[arg(long, env = "TRUST_DOMAIN")]
    pub trust_domain: Option<String>,
    /// Root of the cgroup v2 hierarchy, or this node's subtree of it; found by itself if not given.
    #[arg(long, env = "CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,
    /// A cgroup of the agent's own; a container's, or made and entered, if not given.
    #[arg(long, env = "AGENT_CGROUP")]
    pub agent_cgroup: Option<PathBuf>,
    /// The kubelet's cgroup, whose probes are exempt; found by itself if not given.
    #[arg(long, env = "KUBELET_CGROUP")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Directory of the eBPF pins.
    #[arg(long, env = "PIN_DIR", default_value = super::DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Unix socket of the CNI plugin.
    #[arg(long, env = "CNI_SOCKET", default_value = "/run/sotto/cni.sock")]
    pub cni_socket: PathBuf,
    /// Directory of what must survive the agent and reboots: the list of enrolled namespaces.
    #[arg(long, env = "STATE_DIR", default_value = crate::enroll::enrolled::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// The node's /proc, where the network namespaces of running pods are found; found by itself if not given.
    #[arg(long, env = "HOST_PROC")]
    pub proc: Option<PathBuf>,
    /// Folder with files log-level, unknown-destinations and drain-deadline, each in place of the flag of its name: they are
    /// read again when they change, and at SIGHUP. None of them has to be there.
    #[arg(long, env = "LIVE_SETTINGS")]
    pub live_settings: Option<PathBuf>,
    /// What becomes of connections to destinations outside the mesh.
    #[arg(long, env = "UNKNOWN_DESTINATIONS", value_enum, default_value = "direct")]
    pub unknown_destinations: UnknownDestinations,
    /// Where addresses are that stand for others inside enrolled pods: what pods connect to (in 127.0.0.0/8), what
    /// clients have, both /15 or larger, and an IPv6 /64. None may be in use in a pod.
    #[arg(long, env = "STAND_INS", default_value = "127.64.0.0/10,240.64.0.0/10,100::/64")]
    pub stand_ins: String,
    /// Answer what pods ask of their resolvers, where the mesh knows the name; all else is asked of the resolvers as before,
    /// also while the agent is down. A pod's annotation ambient.istio.io/dns-capture says otherwise for it.
    #[arg(long, env = "DNS_CAPTURE")]
    pub dns_capture: bool,
    /// What Kubernetes' names end with in this cluster.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Let pods' connections go direct, in the clear, while the agent is down.
    #[arg(long, env = "FAIL_OPEN")]
    pub fail_open: bool,
    /// Hold a connection's first bytes back until the other node has agreed to it. By default they go
    /// along with the question, which saves a round trip; a node that refuses drops them.
    #[arg(long, env = "WAIT_FOR_ANSWER")]
    pub wait_for_answer: bool,
    /// Who seals and opens the TLS records of tunnels. Handshakes and certificates are rustls' in any case.
    #[arg(long, env = "TLS_RECORDS", value_enum, default_value = "own")]
    pub tls_records: TlsRecords,
    /// Data threads; one for each core the cgroup allows by default.
    #[arg(long, env = "THREADS", default_value = "")]
    pub threads: String,
    /// Memory the agent may use, in bytes or as 2Gi; its cgroup's limit by default, and 2Gi if there is none. What all
    /// pods may have open and what may wait for them follow from it.
    #[arg(long, env = "MEMORY_LIMIT", default_value = "")]
    pub memory_limit: String,
    /// Lines of the log that one pod's connections may have a second, ten times as many at once; 0 for no bound. What is
    /// left out is counted and told.
    #[arg(long, env = "POD_LOG_LINES", default_value_t = DEFAULT_POD_LOG_LINES)]
    pub pod_log_lines: u32,
    /// Address of /config_dump and /logging.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin_address: String,
    /// When the mesh's roots change, certificates are renewed within this time, each at a moment of its own, so that not
    /// all nodes ask at once.
    #[arg(long, env = "RENEWAL_SPREAD", default_value = "30s")]
    pub renewal_spread: String,
    /// How long open connections may go on after SIGTERM.
    #[arg(long, env = "DRAIN_DEADLINE", default_value = "25s")]
    pub drain_deadline: String,
}

/// What becomes of connections to destinations outside the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnknownDestinations {
    /// They never leave the kernel's own path.
    Direct,
    /// They pass through the agent, and are counted and logged.
    Proxy,
}

/// Who seals and opens the TLS records of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsRecords {
    /// The agent, in place: less CPU for each byte.
    Own,
    /// rustls, which copies more.
    Rustls,
}

/// Configuration of the agent, every value sound.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the flag of the same name")]
pub struct AgentConfig {
    pub node_name: String,
    pub pod_name: String,
    pub pod_namespace: String,
    pub instance_ip: IpAddr,
    pub xds_address: String,
    pub ca_address: String,
    pub control_plane_name: Option<String>,
    pub root_cert: PathBuf,
    pub token: PathBuf,
    pub certificate_ttl: Duration,
    pub crl: Vec<PathBuf>,
    pub cluster_id: Option<String>,
    pub network: Option<String>,
    pub trust_domain: Option<TrustDomain>,
    pub root_namespace: String,
    pub kubeconfig: Option<PathBuf>,
    pub cgroup_root: Option<PathBuf>,
    pub agent_cgroup: Option<PathBuf>,
    pub kubelet_cgroup: Option<PathBuf>,
    pub pin_dir: PathBuf,
    pub cni_socket: PathBuf,
    pub state_dir: PathBuf,
    pub proc: PathBuf,
    pub live_settings: Option<PathBuf>,
    pub unknown_destinations: UnknownDestinations,
    pub stand_ins: StandInRanges,
    pub dns_capture: bool,
    pub cluster_domain: String,
    pub fail_open: bool,
    pub wait_for_answer: bool,
    pub tls_records: TlsRecords,
    pub threads: NonZeroUsize,
    pub memory_limit: Option<u64>,
    pub admin_address: SocketAddr,
    pub metrics_address: SocketAddr,
    pub ready_address: SocketAddr,
    pub renewal_spread: Duration,
    pub drain_deadline: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
    pub pod_log_lines: Option<NonZeroU32>,
}

impl AgentConfig {
    /// Checks every flag.
    ///
    /// # Errors
    /// Every mistake, told at once.
    pub fn new(args: AgentArgs) -> Result<Self, ConfigErrors> {
        let mut mistakes = Mistakes::default();
        mistakes.readable("--root-cert", &args.root_cert);
        mistakes.readable("--token", &args.token);
        args.crl.iter().for_each(|path| mistakes.readable("--crl", path));
        if let Some(path) = &args.common.kubeconfig {
            mistakes.readable("--kubeconfig", path);
        }
        let config = Self::assemble(args, &mut mistakes);
        mistakes.into_result(config)
    }

    fn assemble(args: AgentArgs, mistakes: &mut Mistakes) -> Option<Self> {
        let AgentArgs { common, .. } = &args;
        // Bound first and unwrapped last, so that every one of them is checked.
        let node_name = mistakes.required("--node-name", "NODE_NAME", &args.node_name);
        let instance_ip = mistakes.parse("--instance-ip", &args.instance_ip);
        let xds_address = https(mistakes, "--xds-address", &args.xds_address);
        let ca_address = match &args.ca_address {
            Some(ca) => https(mistakes, "--ca-address", ca),
            None => xds_address.clone(),
        };
        let certificate_ttl = mistakes.duration("--certificate-ttl", &args.certificate_ttl);
        let trust_domain = trust_domain(mistakes, args.trust_domain.as_deref());
        let stand_ins = stand_ins(mistakes, &args.stand_ins);
        let cluster_domain = cluster_domain(mistakes, &args.cluster_domain);
        let threads = threads(mistakes, &args.threads);
        let memory_limit = memory_limit(mistakes, &args.memory_limit);
        let admin_address = mistakes.socket("--admin-address", &args.admin_address);
        let metrics_address = mistakes.socket("--metrics-address", &common.metrics_address);
        let ready_address = mistakes.socket("--ready-address", &common.ready_address);
        let renewal_spread = mistakes.duration("--renewal-spread", &args.renewal_spread);
        let drain_deadline = mistakes.duration("--drain-deadline", &args.drain_deadline);
        Some(Self {
            node_name: node_name?,
            instance_ip: instance_ip?,
            xds_address: xds_address?,
            ca_address: ca_address?,
            certificate_ttl: certificate_ttl?,
            trust_domain: trust_domain?,
            stand_ins: stand_ins?,
            threads: threads?,
            memory_limit: memory_limit?,
            admin_address: admin_address?,
            metrics_address: metrics_address?,
            ready_address: ready_address?,
            renewal_spread: renewal_spread?,
            drain_deadline: drain_deadline?,
            cluster_id: args.cluster_id.filter(|id| !id.is_empty()),
            root_namespace: args.common.root_namespace,
            kubeconfig: args.common.kubeconfig,
            log_format: args.common.log_format,
            log_level: args.common.log_level,
            pod_log_lines: NonZeroU32::new(args.pod_log_lines),
            pod_name: args.pod_name,
            pod_namespace: args.pod_namespace,
            control_plane_name: args.control_plane_name,
            root_cert: args.root_cert,
            token: args.token,
            network: args.network.filter(|network| !network.is_empty()),
            crl: args.crl,
            cgroup_root: args.cgroup_root,
            agent_cgroup: args.agent_cgroup,
            kubelet_cgroup: args.kubelet_cgroup,
            pin_dir: args.pin_dir,
            cni_socket: args.cni_socket,
            state_dir: args.state_dir,
            proc: args.proc.unwrap_or_else(|| Host::find().proc()),
            live_settings: args.live_settings,
            unknown_destinations: args.unknown_destinations,
            dns_capture: args.dns_capture,
            cluster_domain: cluster_domain?,
            fail_open: args.fail_open,
            wait_for_answer: args.wait_for_answer,
            tls_records: args.tls_records,
        })
    }
}

/// An address with the scheme https, which may be left out as in ztunnel's; tokens never travel in the clear.
fn https(mistakes: &mut Mistakes, flag: &str, text: &str) -> Option<String> {
    let full = format!("https://{text}");
    let text = if text.contains("://") { text } else { &full };
    let sound = text.parse::<http::Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("https") && uri.host().is_some() && uri.port().is_some()
    });
    if !sound {
        mistakes.note(flag, &format!("{text:?} is not https://host:port"));
        return None;
    }
    Some(text.to_owned())
}

/// A trust domain, or none: an empty one is none, too.
fn trust_domain(mistakes: &mut Mistakes, text: Option<&str>) -> Option<Option<TrustDomain>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Some(None) };
    match TrustDomain::new(text) {
        Ok(trust_domain) => Some(Some(trust_domain)),
        Err(error) => {
            mistakes.note("--trust-domain", &error.to_string());
            None
        }
    }
}

/// A domain, in lower case and without a dot at the end.
fn cluster_domain(mistakes: &mut Mistakes, text: &str) -> Option<String> {
    let domain = text.trim_end_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(is_letter)
    };
    if !domain.split('.').all(is_label) {
        mistakes.note("--cluster-domain", &format!("{text:?} is not a domain"));
        return None;
    }
    Some(domain)
}

/// Two ranges of IPv4 and one of IPv6.
fn stand_ins(mistakes: &mut Mistakes, text: &str) -> Option<StandInRanges> {
    const FLAG: &str = "--stand-ins";
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    let parsed = match parts[..] {
        [out4, client4, v6] => {
            (|| Some((out4.parse().ok()?, client4.parse().ok()?, v6.parse().ok()?)))()
        }
        _ => None,
    };
    let Some((out4, client4, v6)) = parsed else {
        mistakes.note(FLAG, &format!("{text:?} is not IPv4 range,IPv4 range,IPv6 range"));
        return None;
    };
    match StandInRanges::new(out4, client4, v6) {
        Ok(ranges) => Some(ranges),
        Err(errors) => {
            errors.iter().for_each(|error| mistakes.note(FLAG, &error.to_string()));
            None
        }
    }
}

/// More than nodes have cores.
const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(1024).expect("1024");

/// As many as asked, or as the cores this process may use.
fn threads(mistakes: &mut Mistakes, text: &str) -> Option<NonZeroUsize> {
    if text.is_empty() {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        return Some(cores.min(MAX_THREADS));
    }
    let threads = mistakes.parse("--threads", text)?;
    if threads > MAX_THREADS {
        mistakes.note("--threads", &format!("{threads} are too many, at most {MAX_THREADS}"));
        return None;
    }
    Some(threads)
}

/// With less, the agent itself has no room.
const LEAST_MEMORY: u64 = 128 << 20;

/// A quantity as Kubernetes writes memory, or none.
fn memory_limit(mistakes: &mut Mistakes, text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let unit = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    let bytes: u64 = mistakes.parse("--memory-limit", number)?;
    let bytes = bytes.saturating_mul(1 << shift);
    if bytes < LEAST_MEMORY {
        mistakes.note("--memory-limit", &format!("{text} is too little, at least 128Mi"));
        return None;
    }
    Some(Some(bytes))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Cli, Command};

    fn check(flags: &[&str]) -> Result<AgentConfig, ConfigErrors> {
        let argv = ["sotto", "agent"].iter().chain(flags);
        match Cli::try_parse_from(argv).unwrap().command {
            Command::Agent(args) => AgentConfig::new(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let flags = [
            "--root-cert=/nowhere/root.pem",
            "--token=/nowhere/token",
            "--crl=/nowhere/crl.pem",
            "--xds-address=http://plain:15012",
            "--instance-ip=here",
            "--threads=0",
            "--memory-limit=2GB",
            "--admin-address=15000",
            "--drain-deadline=soon",
            "--trust-domain=a/b",
            "--cluster-domain=a..b",
        ];
        let mistakes = check(&flags).unwrap_err().0;
        let told = |flag: &str| mistakes.iter().any(|m| m.starts_with(flag));
        for flag in flags.map(|f| f.split('=').next().unwrap()) {
            assert!(told(flag), "{flag} is missing from {mistakes:?}");
        }
        assert!(told("--node-name"), "{mistakes:?}");
    }

    #[test]
    fn memory_is_told_as_in_a_manifest() {
        let check = |text, expected: Option<Option<u64>>| {
            assert_eq!(memory_limit(&mut Mistakes::default(), text), expected, "{text}");
        };
        check("", Some(None));
        check("2147483648", Some(Some(2 << 30)));
        check("2Gi", Some(Some(2 << 30)));
        check("300Mi", Some(Some(300 << 20)));
        check("64Mi", None);
        check("1G", None);
        check("Gi", None);
        check("99999999999Ti", Some(Some(u64::MAX)));
    }

    #[test]
    fn the_ca_is_the_discovery_server_unless_told_otherwise() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let base =
            [format!("--root-cert={path}"), format!("--token={path}"), "--node-name=n".into()];
        let mut flags: Vec<&str> = base.iter().map(String::as_str).collect();
        flags.push("--xds-address=https://cp:15012");
        assert_eq!(check(&flags).unwrap().ca_address, "https://cp:15012");
        flags.pop();
        flags.push("--xds-address=cp:15012");
        assert_eq!(check(&flags).unwrap().ca_address, "https://cp:15012");
        flags.push("--ca-address=ca:15012");
        assert_eq!(check(&flags).unwrap().ca_address, "https://ca:15012");
    }
}
