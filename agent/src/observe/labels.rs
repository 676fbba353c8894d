//! The labels of a connection's metrics: Istio's names, all of them always there, because Kiali
//! skips a series that lacks one. A value nobody knows is `unknown`.

use std::fmt;

use arcstr::ArcStr;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use super::connection::{ConnectionInfo, Party};
use crate::mesh::{MatchedRule, Service};

/// Who reports a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's node: an outbound connection.
    Source,
    /// The server's node: an inbound connection.
    Destination,
}

impl Reporter {
    /// As the `reporter` label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// As the access log has it.
    pub fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// Why a connection failed, in Istio's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFlags {
    /// It did not.
    None,
    /// Denied by policy.
    Deny,
    /// No TCP connection to the upstream, or it broke.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// TLS was there, HTTP/2 or its CONNECT failed.
    H2HandshakeFailure,
    /// The dial to port 15008 timed out, as a `NetworkPolicy` that drops it would do.
    NetworkPolicy,
    /// No certificate for the source's identity.
    IdentityError,
}

impl ResponseFlags {
    /// Every value, in the order of [`ResponseFlags::index`].
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2HandshakeFailure,
        Self::NetworkPolicy,
        Self::IdentityError,
    ];

    /// As the `response_flags` label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
        }
    }

    /// Its place in [`ResponseFlags::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Everything a connection's series is told apart by, but for the response flags.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectionLabels {
    /// Who reports.
    pub reporter: Reporter,
    /// The client.
    pub source: WorkloadLabels,
    /// The server.
    pub destination: WorkloadLabels,
    /// The service the client asked for.
    pub service: ServiceLabels,
    /// Whether it came, or went, through a mutual TLS tunnel.
    pub mutual_tls: bool,
}

impl ConnectionLabels {
    /// The labels of a connection.
    pub fn new(info: &ConnectionInfo) -> Self {
        let mut destination = WorkloadLabels::new(&info.destination);
        if let (true, Some(workload)) =
            (is_unknown(&destination.principal), &info.destination.workload)
        {
            destination.principal = arcstr::format!("{}", workload.identity);
        }
        Self {
            reporter: info.reporter,
            source: WorkloadLabels::new(&info.source),
            destination,
            service: info
                .service
                .as_deref()
                .map_or_else(ServiceLabels::unknown, ServiceLabels::new),
            mutual_tls: info.mutual_tls,
        }
    }

    /// What is counted when no further set fits: only who reports, and whether it was encrypted.
    pub fn overflow(reporter: Reporter, mutual_tls: bool) -> Self {
        Self {
            reporter,
            source: WorkloadLabels::unknown(),
            destination: WorkloadLabels::unknown(),
            service: ServiceLabels::unknown(),
            mutual_tls,
        }
    }

    /// These labels with a `response_flags` value, ready to encode.
    pub(super) fn with(&self, flags: ResponseFlags) -> Flagged<'_> {
        Flagged { labels: self, flags, by: None }
    }

    /// These labels for what a policy denied, ready to encode.
    pub(super) fn denied<'a>(&'a self, by: &'a MatchedRule) -> Flagged<'a> {
        Flagged { labels: self, flags: ResponseFlags::Deny, by: Some(by) }
    }
}

/// One end's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// Name of the Deployment, Job... that made the pod.
    pub workload: ArcStr,
    /// Also the `app` label.
    pub canonical_service: ArcStr,
    /// Also the `version` label.
    pub canonical_revision: ArcStr,
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// SPIFFE URI; the source's is known from TLS only.
    pub principal: ArcStr,
    /// Cluster.
    pub cluster: ArcStr,
    /// Region.
    pub region: ArcStr,
    /// Zone.
    pub zone: ArcStr,
}

impl WorkloadLabels {
    fn new(party: &Party) -> Self {
        let mut labels = Self::unknown();
        if let Some(workload) = &party.workload {
            labels.workload = known(&workload.workload_name);
            labels.canonical_service = known(&workload.canonical_name);
            labels.canonical_revision = known(&workload.canonical_revision);
            labels.namespace = known(&workload.namespace);
            labels.cluster = known(&workload.cluster_id);
            labels.region = known(&workload.locality.region);
            labels.zone = known(&workload.locality.zone);
        } else if let Some(pod) = &party.local {
            labels.workload = known(&pod.name);
            labels.namespace = known(&pod.namespace);
        } else if let Some(identity) = &party.identity {
            labels.namespace = known(identity.namespace());
        }
        if let Some(identity) = &party.identity {
            labels.principal = arcstr::format!("{identity}");
        }
        labels
    }

    fn unknown() -> Self {
        Self {
            workload: UNKNOWN,
            canonical_service: UNKNOWN,
            canonical_revision: UNKNOWN,
            namespace: UNKNOWN,
            principal: UNKNOWN,
            cluster: UNKNOWN,
            region: UNKNOWN,
            zone: UNKNOWN,
        }
    }
}

/// A service's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceLabels {
    /// Fully qualified name.
    pub hostname: ArcStr,
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Short name.
    pub name: ArcStr,
}

impl ServiceLabels {
    fn new(service: &Service) -> Self {
        Self {
            hostname: known(&service.key.hostname),
            namespace: known(&service.key.namespace),
            name: known(&service.name),
        }
    }

    fn unknown() -> Self {
        Self { hostname: UNKNOWN, namespace: UNKNOWN, name: UNKNOWN }
    }
}

/// A label set with its response flags.
pub(super) struct Flagged<'a> {
    labels: &'a ConnectionLabels,
    flags: ResponseFlags,
    /// On series of denials alone.
    by: Option<&'a MatchedRule>,
}

impl EncodeLabelSet for Flagged<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let ConnectionLabels { reporter, source, destination, service, mutual_tls } = self.labels;
        let security = if *mutual_tls { "mutual_tls" } else { "unknown" };
        let labels: [(&str, &str); 27] = [
            ("reporter", reporter.as_str()),
            ("source_workload", &source.workload),
            ("source_canonical_service", &source.canonical_service),
            ("source_canonical_revision", &source.canonical_revision),
            ("source_workload_namespace", &source.namespace),
            ("source_principal", &source.principal),
            ("source_app", &source.canonical_service),
            ("source_version", &source.canonical_revision),
            ("source_cluster", &source.cluster),
            ("destination_service", &service.hostname),
            ("destination_service_namespace", &service.namespace),
            ("destination_service_name", &service.name),
            ("destination_workload", &destination.workload),
            ("destination_canonical_service", &destination.canonical_service),
            ("destination_canonical_revision", &destination.canonical_revision),
            ("destination_workload_namespace", &destination.namespace),
            ("destination_principal", &destination.principal),
            ("destination_app", &destination.canonical_service),
            ("destination_version", &destination.canonical_revision),
            ("destination_cluster", &destination.cluster),
            ("request_protocol", "tcp"),
            ("response_flags", self.flags.as_str()),
            ("connection_security_policy", security),
            ("source_region", &source.region),
            ("source_zone", &source.zone),
            ("destination_region", &destination.region),
            ("destination_zone", &destination.zone),
        ];
        encode_pairs(&labels, encoder)?;
        let Some(by) = self.by else { return Ok(()) };
        encode_pairs(&[("policy", &by.to_string())], encoder)?;
        let Some(rule) = by.rule else { return Ok(()) };
        encode_pairs(&[("rule", &rule.to_string())], encoder)
    }
}

/// Encodes name and value pairs.
pub(super) fn encode_pairs(
    pairs: &[(&str, &str)],
    encoder: &mut LabelSetEncoder<'_>,
) -> fmt::Result {
    for pair in pairs {
        pair.encode(encoder.encode_label())?;
    }
    Ok(())
}

fn known(value: &ArcStr) -> ArcStr {
    if value.is_empty() { UNKNOWN } else { value.clone() }
}

fn is_unknown(value: &ArcStr) -> bool {
    *value == UNKNOWN
}

const UNKNOWN: ArcStr = arcstr::literal!("unknown");
