//! DestinationRule: what of it would change mutual TLS, if it had an effect at layer 4.
//!
//! It has none: node agents use mutual TLS wherever the destination can. What else a rule says is
//! not read here, so unknown fields are no error.

use std::fmt;

use serde::Deserialize;

/// `spec` of a DestinationRule, as far as it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// The service it is about.
    pub host: String,
    /// For all of the service.
    pub traffic_policy: Option<TrafficPolicy>,
    /// For parts of it.
    pub subsets: Option<Vec<Subset>>,
}

/// How a destination is talked to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// For every port.
    pub tls: Option<ClientTls>,
    /// By the service's port.
    pub port_level_settings: Option<Vec<PortPolicy>>,
}

/// How one port is talked to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortPolicy {
    /// Which port.
    pub port: Option<PortSelector>,
    /// Its TLS.
    pub tls: Option<ClientTls>,
}

/// A port of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    /// Its number.
    pub number: u32,
}

/// A named part of a service's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// How it is talked to.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// TLS as a sidecar or a gateway would originate it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientTls {
    /// The mode.
    pub mode: TlsMode,
}

/// A mode's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names of the modes")]
pub enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "DISABLE",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::IstioMutual => "ISTIO_MUTUAL",
        })
    }
}

/// A mode and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// As `trafficPolicy.tls`.
    pub path: String,
    /// The mode there.
    pub mode: TlsMode,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.mode {}", self.path, self.mode)
    }
}

impl DestinationRuleSpec {
    /// Every mode there is in it, in the order of the rule.
    pub fn asked(&self) -> Vec<Asked> {
        let mut asked = Vec::new();
        if let Some(policy) = &self.traffic_policy {
            policy.asked("trafficPolicy", &mut asked);
        }
        for subset in self.subsets.iter().flatten() {
            if let Some(policy) = &subset.traffic_policy {
                policy.asked(&format!("subsets[{}].trafficPolicy", subset.name), &mut asked);
            }
        }
        asked
    }
}

impl TrafficPolicy {
    fn asked(&self, path: &str, asked: &mut Vec<Asked>) {
        if let Some(tls) = self.tls {
            asked.push(Asked { path: format!("{path}.tls"), mode: tls.mode });
        }
        for settings in self.port_level_settings.iter().flatten() {
            let Some(tls) = settings.tls else { continue };
            let port = settings.port.unwrap_or_default().number;
            let path = format!("{path}.portLevelSettings[{port}].tls");
            asked.push(Asked { path, mode: tls.mode });
        }
    }
}

/// Which namespaces a host is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostNamespace {
    /// This one.
    One(String),
    /// Any.
    Any,
}

/// Where the services that `host` names are, seen from a rule of `namespace`.
///
/// `reviews` is of the rule's own namespace, `reviews.foo.svc.cluster.local` and `*.foo.svc` are
/// of `foo`, `*` and `*.cluster.local` of any.
pub fn host_namespace(host: &str, namespace: &str) -> HostNamespace {
    let mut parts = host.split('.');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    match (first, second, third) {
        ("*", None, _) => HostNamespace::Any,
        (_, None, _) => HostNamespace::One(namespace.to_owned()),
        ("*", Some(_), third) if third != Some("svc") => HostNamespace::Any,
        (_, Some(second), _) => HostNamespace::One(second.to_owned()),
    }
}

#[cfg(test)]
mod tests;
