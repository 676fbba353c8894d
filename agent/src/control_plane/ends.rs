//! When roots, authorities below them and our own certificate end: as metrics, and as a reminder ahead of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

/// So long ahead it is reminded of an end, at most..
const AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);
/// ..and at most this part of a life: what lives briefly is renewed late.
const PART: u32 = 4;
/// How often.
const EVERY: Duration = Duration::from_secs(24 * 3600);

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its subject.
    pub name: String,
    /// SHA-256, in hexadecimal.
    pub fingerprint: String,
    /// From when on it holds.
    pub from: SystemTime,
    /// Until when.
    pub at: SystemTime,
}

/// What is known of all of them. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Ends(Arc<Mutex<Known>>);

#[derive(Debug, Clone, Default)]
struct Known {
    roots: Vec<End>,
    intermediates: Vec<End>,
    serving: Option<SystemTime>,
}

impl Ends {
    /// These are trusted, the first signs; and these stand between it and what it signs.
    pub fn authorities(&self, roots: Vec<End>, intermediates: Vec<End>) {
        let mut known = self.0.lock();
        (known.roots, known.intermediates) = (roots, intermediates);
    }

    /// Our own certificate ends then.
    pub fn serving(&self, at: SystemTime) {
        self.0.lock().serving = Some(at);
    }
}

impl Collector for Ends {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (known, now) = (self.0.lock().clone(), SystemTime::now());
        let help =
            "Seconds until a trusted root ends; signs is true of the one that certificates hang on";
        let mut family =
            encoder.encode_descriptor("root_expiry_seconds", help, None, MetricType::Gauge)?;
        for (place, root) in known.roots.iter().enumerate() {
            let signs = if place == 0 { "true" } else { "false" };
            let labels = [("root", root.fingerprint.as_str()), ("signs", signs)];
            family.encode_family(&labels)?.encode_gauge(&left(root.at, now))?;
        }
        let help = "Seconds until an authority between the root and what it signs ends";
        let name = "intermediate_expiry_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for link in &known.intermediates {
            let labels = [("certificate", link.fingerprint.as_str())];
            family.encode_family(&labels)?.encode_gauge(&left(link.at, now))?;
        }
        let Some(at) = known.serving else { return Ok(()) };
        let help = "Seconds until the control plane's own certificate ends";
        encoder
            .encode_descriptor("serving_expiry_seconds", help, None, MetricType::Gauge)?
            .encode_gauge(&left(at, now))
    }
}

/// Negative once it has ended.
fn left(at: SystemTime, now: SystemTime) -> i64 {
    let seconds = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(left) => seconds(left),
        Err(ended) => -seconds(ended.duration()),
    }
}

/// Reminds once a day, by the wall clock.
#[derive(Debug, Default)]
pub struct Reminder {
    last: Option<SystemTime>,
}

impl Reminder {
    /// What to say now of `ends`, if anything.
    pub fn due(&mut self, ends: &[End], now: SystemTime) -> Option<String> {
        let soon = ends.iter().filter(|end| {
            let life = end.at.duration_since(end.from).unwrap_or_default();
            now + AHEAD.min(life / PART) >= end.at
        });
        let told: Vec<_> = soon.map(|end| sentence(end, now)).collect();
        // A clock that was set back does not silence it.
        let due = self.last.is_none_or(|last| now >= last + EVERY || now < last);
        if told.is_empty() || !due {
            return None;
        }
        self.last = Some(now);
        Some(told.join("; "))
    }
}

fn sentence(End { name, fingerprint, at, .. }: &End, now: SystemTime) -> String {
    let when = humantime::format_rfc3339_seconds(*at);
    let short = &fingerprint[..fingerprint.len().min(16)];
    if *at <= now {
        return format!("{name} ({short}) has ended, {when}");
    }
    let days = at.duration_since(now).unwrap_or_default().as_secs() / (24 * 3600);
    format!("{name} ({short}) ends in {days} days, {when}: nothing that hangs on it lives longer")
}

#[cfg(test)]
mod tests;
