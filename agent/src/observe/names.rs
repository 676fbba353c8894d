//! What pods ask resolvers for, under the names that ztunnel has for it (its `dns/metrics.rs`, `proxy/metrics.rs`); of its
//! labels those that say what was asked, not who did.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds.
const BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1.0, 5.0];

/// What a question was for, and how it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Asked {
    request_query_type: &'static str,
    request_protocol: &'static str,
}

impl Asked {
    /// A question for addresses of IPv4 if `is_v4` is, of IPv6 if it is not, for anything else if it is none.
    pub fn new(is_v4: Option<bool>, by_stream: bool) -> Self {
        Self {
            request_query_type: match is_v4 {
                Some(true) => "a",
                Some(false) => "aaaa",
                None => "other",
            },
            request_protocol: if by_stream { "tcp" } else { "udp" },
        }
    }
}

/// Counts of questions. Clones share them.
#[derive(Debug, Clone)]
pub struct Names {
    requests: Family<Asked, Counter>,
    forwarded: Family<Asked, Counter>,
    failed: Family<Asked, Counter>,
    durations: Family<Asked, Histogram, Durations>,
    on_demand: Counter,
}

/// Makes the histograms.
#[derive(Debug, Clone, Copy)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

impl Names {
    /// Nothing counted yet, shown by a registry.
    pub(super) fn in_registry(registry: &mut Registry) -> Self {
        let names = Self {
            requests: Family::default(),
            forwarded: Family::default(),
            failed: Family::default(),
            durations: Family::new_with_constructor(Durations),
            on_demand: Counter::default(),
        };
        let help = "Questions for names that came from pods";
        registry.register("istio_dns_requests", help, names.requests.clone());
        let help = "Those of them that a resolver was asked";
        registry.register("istio_dns_upstream_requests", help, names.forwarded.clone());
        let help = "Those of them that no resolver answered";
        registry.register("istio_dns_upstream_failures", help, names.failed.clone());
        let help = "Time until a resolver has answered";
        let durations = names.durations.clone();
        let name = "istio_dns_upstream_request_duration";
        registry.register_with_unit(name, help, Unit::Seconds, durations);
        let help = "Connections whose destination's hostname was resolved for them";
        registry.register("istio_on_demand_dns", help, names.on_demand.clone());
        names
    }

    /// A question has come.
    pub fn asked(&self, asked: Asked) {
        self.requests.get_or_create(&asked).inc();
    }

    /// A resolver is asked.
    pub fn forwarded(&self, asked: Asked) {
        self.forwarded.get_or_create(&asked).inc();
    }

    /// It has answered, after this time.
    pub fn answered(&self, asked: Asked, after: Duration) {
        self.durations.get_or_create(&asked).observe(after.as_secs_f64());
    }

    /// It has not, or cannot be asked.
    pub fn failed(&self, asked: Asked) {
        self.failed.get_or_create(&asked).inc();
    }

    /// A hostname was resolved for a connection.
    pub fn resolved(&self) {
        self.on_demand.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    #[test]
    fn questions_are_counted_by_what_they_ask_and_how() {
        let metrics = Metrics::new();
        let names = metrics.names();
        for is_v4 in [Some(true), Some(false), None] {
            names.asked(Asked::new(is_v4, false));
        }
        let stream = Asked::new(Some(true), true);
        names.forwarded(stream);
        names.answered(stream, Duration::from_millis(5));
        names.failed(stream);
        names.resolved();
        let text = metrics.encode().unwrap();
        let udp = ["a", "aaaa", "other"].map(|kind| {
            format!(
                "istio_dns_requests_total{{request_query_type=\"{kind}\",request_protocol=\"udp\"}} 1"
            )
        });
        let tcp = "{request_query_type=\"a\",request_protocol=\"tcp\"";
        let upstream = [
            format!("istio_dns_upstream_requests_total{tcp}}} 1"),
            format!("istio_dns_upstream_failures_total{tcp}}} 1"),
            format!("istio_dns_upstream_request_duration_seconds_count{tcp}}} 1"),
            String::from("istio_on_demand_dns_total 1"),
        ];
        for line in udp.iter().chain(&upstream) {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
    }
}
