//! The mesh's roots as metrics: how many of the node's identities believe which, and hang on which. A root can be
//! changed step by step by what they say.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::metrics::Pairs;

/// A root that some identity of the node trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootStats {
    /// SHA-256 of its DER, in hexadecimal.
    pub fingerprint: String,
    /// Identities that believe certificates of it.
    pub trusting: u64,
    /// Identities whose own certificate hangs on it.
    pub signed: u64,
    /// When it ends.
    pub not_after: SystemTime,
}

/// A metric's name, its help, and what it is of a root.
type Count = (&'static str, &'static str, fn(&RootStats) -> u64);

const COUNTS: [Count; 2] = [
    ("sotto_root_trusting", "Identities that believe certificates of the root", |root| {
        root.trusting
    }),
    ("sotto_root_signed", "Identities whose certificate hangs on the root", |root| root.signed),
];

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, roots: &[RootStats]) -> fmt::Result {
    for (name, help, value) in COUNTS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for root in roots {
            let labels = [("root", root.fingerprint.as_str())];
            family.encode_family(&Pairs(&labels))?.encode_gauge(&value(root))?;
        }
    }
    let help = "Seconds until the root ends; negative once it has";
    let name = "sotto_root_expiry_seconds";
    let (mut family, now) =
        (encoder.encode_descriptor(name, help, None, MetricType::Gauge)?, SystemTime::now());
    for root in roots {
        let left = match root.not_after.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(ended) => -ended.duration().as_secs_f64(),
        };
        let labels = [("root", root.fingerprint.as_str())];
        family.encode_family(&Pairs(&labels))?.encode_gauge(&left.trunc())?;
    }
    Ok(())
}
