//! ztunnel's environment: what its users set is taken as the flag that means the same, or they are told that it has no
//! effect.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;

/// A variable of ztunnel's, the flag and the variable that mean the same here, and how its value is written for that.
struct Honoured {
    theirs: &'static str,
    flag: &'static str,
    ours: &'static str,
    convert: fn(&str) -> Option<String>,
}

const fn honoured(
    theirs: &'static str,
    (flag, ours): (&'static str, &'static str),
    convert: fn(&str) -> Option<String>,
) -> Honoured {
    Honoured { theirs, flag, ours, convert }
}

const ROOT: (&str, &str) = ("--root-cert", "ROOT_CERT");
const NAME: (&str, &str) = ("--control-plane-name", "CONTROL_PLANE_NAME");
const DRAIN: (&str, &str) = ("--drain-deadline", "DRAIN_DEADLINE");

/// Of two that mean one flag, the first that is set counts.
const HONOURED: [Honoured; 10] = [
    honoured("ISTIO_META_CLUSTER_ID", ("--cluster-id", "CLUSTER_ID"), as_it_is),
    honoured("ISTIO_META_NETWORK", ("--network", "NETWORK"), as_it_is),
    honoured("XDS_ROOT_CA", ROOT, file),
    honoured("CA_ROOT_CA", ROOT, file),
    honoured("ALT_XDS_HOSTNAME", NAME, as_it_is),
    honoured("ALT_CA_HOSTNAME", NAME, as_it_is),
    honoured("AUTH_TOKEN", ("--token", "TOKEN"), file),
    honoured("ZTUNNEL_WORKER_THREADS", ("--threads", "THREADS"), threads),
    honoured("CONNECTION_TERMINATION_DEADLINE", DRAIN, as_it_is),
    honoured("TERMINATION_GRACE_PERIOD_SECONDS", DRAIN, drain),
];

/// All others that it reads, but for those of the pod itself.
const WITHOUT_COUNTERPART: [&str; 35] = [
    "AUTHZ_POLICY_INFO_LOGGING",
    "CLUSTER_DOMAIN",
    "COMPLIANCE_POLICY",
    "ENABLE_ORIG_SRC",
    "ENABLE_PROXY",
    "ENABLE_RESPONSE_BAGGAGE",
    "FAKE_CA",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "HTTP2_STREAM_WINDOW_SIZE",
    "INPOD_PORT_REUSE",
    "INPOD_UDS",
    "IPV6_ENABLED",
    "KEEPALIVE_ENABLED",
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_RETRIES",
    "KEEPALIVE_TIME",
    "LOCALHOST_APP_TUNNEL",
    "LOCAL_XDS",
    "LOCAL_XDS_PATH",
    "PACKET_MARK",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "POOL_UNUSED_RELEASE_TIMEOUT",
    "PREFERED_SERVICE_NAMESPACE",
    "PROXY_CONFIG",
    "PROXY_MODE",
    "PROXY_WORKLOAD_INFO",
    "SPIFFE_WORKLOAD_API",
    "TLS12_ENABLED",
    "UNSTABLE_ENABLE_SOCKS5",
    "USER_TIMEOUT_ENABLED",
    "XDS_ON_DEMAND",
    "ZTUNNEL_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_REQUEST",
];

/// Metadata that is not text.
const STRUCTURED_METADATA: &str = "ISTIO_METAJSON_";

/// A command line in which ztunnel's variables are flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Translated {
    /// All arguments.
    pub all: Vec<OsString>,
    /// What is set and has no effect, a sentence each, sorted.
    pub without_effect: Vec<String>,
}

/// The environment, as far as it is text.
pub fn variables() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The arguments of `sotto agent` with what ztunnel's variables ask for; those of other commands as they are. What is
/// asked for in this program's own words counts more.
pub fn translate(arguments: Vec<OsString>, variables: &BTreeMap<String, String>) -> Translated {
    let mut translated = Translated { all: arguments, without_effect: Vec::new() };
    if translated.all.get(1).is_none_or(|command| command != "agent") {
        return translated;
    }
    for honoured in HONOURED {
        let Some(value) = variables.get(honoured.theirs).filter(|value| !value.is_empty()) else {
            continue;
        };
        if let Err(why) = translated.honour(&honoured, value, variables) {
            translated.without_effect.push(format!("{} has no effect: {why}", honoured.theirs));
        }
    }
    let without = variables.keys().filter(|name| has_no_counterpart(name));
    translated
        .without_effect
        .extend(without.map(|name| format!("{name} has no effect, and no counterpart here")));
    translated.without_effect.sort();
    translated
}

fn has_no_counterpart(name: &str) -> bool {
    WITHOUT_COUNTERPART.contains(&name) || name.starts_with(STRUCTURED_METADATA)
}

impl Translated {
    /// Adds the flag; the error tells why not.
    fn honour(
        &mut self,
        honoured: &Honoured,
        value: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let Honoured { flag, ours, convert, .. } = honoured;
        let wanted = convert(value).ok_or_else(|| format!("{flag} cannot be {value:?}"))?;
        let own = variables.get(*ours).filter(|own| !own.is_empty());
        match self.given(flag).or_else(|| own.cloned()) {
            None => self.all.push(format!("{flag}={wanted}").into()),
            Some(given) if given == wanted => {}
            Some(given) => return Err(format!("{flag} (or {ours}) is {given:?}")),
        }
        Ok(())
    }

    /// The value of a flag on the command line.
    fn given(&self, flag: &str) -> Option<String> {
        let text = |argument: &OsString| argument.to_string_lossy().into_owned();
        self.all.iter().enumerate().find_map(|(at, argument)| {
            let argument = text(argument);
            match argument.strip_prefix(flag)? {
                "" => Some(self.all.get(at + 1).map(text).unwrap_or_default()),
                rest => rest.strip_prefix('=').map(str::to_owned),
            }
        })
    }
}

fn as_it_is(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// A file's path. ztunnel takes the roots themselves, too, and the word SYSTEM for the host's.
fn file(value: &str) -> Option<String> {
    value.contains('/').then(|| value.to_owned()).filter(|value| !value.contains('\n'))
}

/// A number of threads, or a part of the cores as `50%`. All of them are the default, and 0.
fn threads(value: &str) -> Option<String> {
    let Some(percent) = value.strip_suffix('%') else {
        let threads: u32 = value.parse().ok()?;
        return Some(if threads == 0 { String::new() } else { threads.to_string() });
    };
    let percent: usize = percent.parse().ok().filter(|percent| (1..=100).contains(percent))?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Some((cores * percent).div_ceil(100).to_string())
}

/// What ztunnel makes of the pod's grace period: the last seconds of it are for what is left.
fn drain(value: &str) -> Option<String> {
    let seconds: u64 = value.parse().ok()?;
    let left = if seconds > 10 { seconds - 5 } else { seconds.saturating_sub(1) };
    Some(format!("{}s", left.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str], set: &[(&str, &str)], flags: &[&str], told: &[&str]) {
        let variables =
            set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let translated = translate(arguments.iter().map(Into::into).collect(), &variables);
        let all: Vec<_> = arguments.iter().chain(flags).map(OsString::from).collect();
        assert_eq!(translated.all, all, "{set:?}");
        assert_eq!(translated.without_effect, told, "{set:?}");
    }

    #[test]
    fn what_ztunnel_s_chart_sets_is_taken_as_flags() {
        let set = [
            ("ISTIO_META_CLUSTER_ID", "east"),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
            ("XDS_ROOT_CA", "/roots/root-cert.pem"),
            ("CA_ROOT_CA", "/roots/root-cert.pem"),
            ("ALT_CA_HOSTNAME", "istiod"),
            ("AUTH_TOKEN", "/token"),
            ("ZTUNNEL_WORKER_THREADS", "3"),
            ("ISTIO_META_ANYTHING", "x"),
            ("NETWORK", "n"),
        ];
        let flags = [
            "--cluster-id=east",
            "--root-cert=/roots/root-cert.pem",
            "--control-plane-name=istiod",
            "--token=/token",
            "--threads=3",
            "--drain-deadline=25s",
        ];
        check(&["sotto", "agent"], &set, &flags, &[]);
        check(&["sotto", "control-plane"], &set, &[], &[]);
        check(&["sotto"], &set, &[], &[]);
    }

    #[test]
    fn our_own_words_count_more_and_that_is_told() {
        let told = "ISTIO_META_CLUSTER_ID has no effect: --cluster-id (or CLUSTER_ID) is \"west\"";
        let set = ("ISTIO_META_CLUSTER_ID", "east");
        check(&["sotto", "agent", "--cluster-id=west"], &[set], &[], &[told]);
        check(&["sotto", "agent", "--cluster-id", "west"], &[set], &[], &[told]);
        check(&["sotto", "agent"], &[set, ("CLUSTER_ID", "west")], &[], &[told]);
        check(&["sotto", "agent", "--cluster-id=east"], &[set], &[], &[]);
        check(&["sotto", "agent", "--cluster-id-of=west"], &[set], &["--cluster-id=east"], &[]);
    }

    #[test]
    fn what_cannot_be_honoured_is_told() {
        let set = [
            ("XDS_ROOT_CA", "/a.pem"),
            ("CA_ROOT_CA", "SYSTEM"),
            ("ISTIO_METAJSON_LABELS", "{}"),
            ("ZTUNNEL_WORKER_THREADS", "half"),
            ("FAKE_CA", "true"),
            ("ALT_XDS_HOSTNAME", "a"),
            ("ALT_CA_HOSTNAME", "b"),
        ];
        let told = [
            "ALT_CA_HOSTNAME has no effect: --control-plane-name (or CONTROL_PLANE_NAME) is \"a\"",
            "CA_ROOT_CA has no effect: --root-cert cannot be \"SYSTEM\"",
            "FAKE_CA has no effect, and no counterpart here",
            "ISTIO_METAJSON_LABELS has no effect, and no counterpart here",
            "ZTUNNEL_WORKER_THREADS has no effect: --threads cannot be \"half\"",
        ];
        let flags = ["--root-cert=/a.pem", "--control-plane-name=a"];
        check(&["sotto", "agent"], &set, &flags, &told);
    }

    #[test]
    fn threads_are_a_number_or_a_part_of_the_cores() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let is =
            |text: &str, expected: Option<String>| assert_eq!(threads(text), expected, "{text}");
        is("3", Some("3".to_owned()));
        is("0", Some(String::new()));
        is("100%", Some(cores.to_string()));
        is("50%", Some(cores.div_ceil(2).to_string()));
        is("1%", Some(cores.div_ceil(100).to_string()));
        for none in ["0%", "101%", "%", "-1", "half"] {
            is(none, None);
        }
    }

    #[test]
    fn the_drain_ends_before_the_pod_s_grace_period() {
        let is = |seconds: &str, expected: Option<&str>| {
            assert_eq!(drain(seconds).as_deref(), expected, "{seconds}");
        };
        is("30", Some("25s"));
        is("10", Some("9s"));
        is("1", Some("1s"));
        is("0", Some("1s"));
        is("soon", None);
    }
}
