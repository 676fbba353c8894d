//! Who a workload is, as W3C baggage.

use std::fmt::Write as _;

use arcstr::ArcStr;
use http::HeaderValue;

/// Names of a workload; an empty one is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    /// Cluster.
    pub cluster: ArcStr,
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// What made the pod: `deployment`, `cronjob`, `job` or `pod`.
    pub workload_kind: ArcStr,
    /// Name of what made the pod; said only together with a kind.
    pub workload: ArcStr,
    /// Canonical service name.
    pub service: ArcStr,
    /// Canonical revision.
    pub revision: ArcStr,
    /// Region.
    pub region: ArcStr,
    /// Zone.
    pub zone: ArcStr,
}

const CLUSTER: &str = "k8s.cluster.name";
const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE: &str = "service.name";
const REVISION: &str = "service.version";
const REGION: &str = "cloud.region";
const ZONE: &str = "cloud.availability_zone";
/// Kinds of workload, and the keys of their names.
const WORKLOADS: [(&str, &str); 4] = [
    ("deployment", "k8s.deployment.name"),
    ("cronjob", "k8s.cronjob.name"),
    ("pod", "k8s.pod.name"),
    ("job", "k8s.job.name"),
];
/// Members looked at in a header; W3C allows 64.
const MAX_MEMBERS: usize = 64;

impl Baggage {
    /// The header's value; none if there is nothing to say.
    pub fn header(&self) -> Option<HeaderValue> {
        let workload = WORKLOADS.iter().find(|(kind, _)| *kind == self.workload_kind);
        let members = [
            (CLUSTER, &self.cluster),
            (NAMESPACE, &self.namespace),
            (workload.map_or("", |(_, key)| key), &self.workload),
            (SERVICE, &self.service),
            (REVISION, &self.revision),
            (REGION, &self.region),
            (ZONE, &self.zone),
        ];
        let mut text = String::new();
        for (key, value) in members {
            if !key.is_empty() && !value.is_empty() {
                let comma = if text.is_empty() { "" } else { "," };
                text.push_str(comma);
                text.push_str(key);
                text.push('=');
                encode(value, &mut text);
            }
        }
        // Percent-encoding leaves visible ASCII only.
        if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
    }

    /// Reads what it knows and passes over the rest; of repeated members the first counts.
    pub fn parse(header: &str) -> Self {
        let mut baggage = Self::default();
        for member in header.split(',').take(MAX_MEMBERS) {
            // Properties after a semicolon say nothing to us.
            let member = member.split(';').next().unwrap_or(member);
            let Some((key, value)) = member.split_once('=') else { continue };
            let Some(value) = decode(value.trim()) else { continue };
            baggage.set(key.trim(), value);
        }
        baggage
    }

    fn set(&mut self, key: &str, value: String) {
        let workload = WORKLOADS.iter().find(|(_, name)| *name == key);
        let field = match key {
            CLUSTER => &mut self.cluster,
            NAMESPACE => &mut self.namespace,
            SERVICE => &mut self.service,
            REVISION => &mut self.revision,
            REGION => &mut self.region,
            ZONE => &mut self.zone,
            _ if workload.is_some() => &mut self.workload,
            _ => return,
        };
        if !field.is_empty() || value.is_empty() {
            return;
        }
        *field = value.into();
        if let Some((kind, _)) = workload {
            self.workload_kind = ArcStr::from(*kind);
        }
    }
}

/// A baggage octet of the W3C grammar, less the percent sign.
fn plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\' | b'%')
}

fn encode(value: &str, text: &mut String) {
    for byte in value.bytes() {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            _ = write!(text, "%{byte:02X}");
        }
    }
}

/// None if the text is not percent-encoded UTF-8.
fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn builds_what_ambient_meshes_send() {
        let baggage = Baggage {
            cluster: "Kubernetes".into(),
            namespace: "bookinfo".into(),
            workload_kind: "deployment".into(),
            workload: "reviews-v1".into(),
            service: "reviews".into(),
            revision: "v1".into(),
            region: ArcStr::new(),
            zone: "eu 1".into(),
        };
        let header = baggage.header().unwrap();
        assert_eq!(
            header,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=bookinfo,\
             k8s.deployment.name=reviews-v1,service.name=reviews,service.version=v1,\
             cloud.availability_zone=eu%201"
        );
        assert_eq!(Baggage::parse(header.to_str().unwrap()), baggage);
        assert_eq!(Baggage::default().header(), None);
    }

    #[test]
    fn passes_over_what_it_does_not_know() {
        let baggage =
            Baggage::parse("a=b, service.name = x;p=1 ,,=,service.name=y,cloud.region=%f");
        assert_eq!(baggage, Baggage { service: "x".into(), ..Baggage::default() });
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            Baggage::parse(&text);
        }

        #[test]
        fn what_is_built_is_read_back(
            names in proptest::array::uniform7(".{0,20}"),
            kind in proptest::sample::select(vec!["deployment", "cronjob", "pod", "job"]),
        ) {
            let [cluster, namespace, workload, service, revision, region, zone] =
                names.map(ArcStr::from);
            let workload_kind = if workload.is_empty() { ArcStr::new() } else { kind.into() };
            let baggage = Baggage {
                cluster, namespace, workload_kind, workload, service, revision, region, zone,
            };
            let header = baggage.header();
            let text = header.as_ref().map_or("", |value| value.to_str().unwrap());
            prop_assert_eq!(Baggage::parse(text), baggage);
        }
    }
}
