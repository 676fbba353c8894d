//! The `:authority` of a CONNECT: where the tunnel's far end should go.
//!
//! Comes from a peer, so parsing is strict: what this accepts has one spelling and one meaning.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use arcstr::ArcStr;

/// An address or a service's hostname, and a port that is never 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `10.0.0.1:80` or `[fd00::1]:80`, canonical (never IPv4-mapped).
    Ip(SocketAddr),
    /// `details.bookinfo.svc.cluster.local:9080`, in lower case.
    Host {
        /// The hostname.
        hostname: ArcStr,
        /// The service's port.
        port: u16,
    },
}

/// Why a string is not an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no `:port` at the end, or the port is not a plain number from 1 to 65535.
    #[error("authority does not end in a port")]
    Port,
    /// The host is neither an IPv4 address, a bracketed IPv6 address nor a hostname.
    #[error("authority names neither an address nor a host")]
    Host,
}

/// RFC 1035, section 2.3.4.
const MAX_HOSTNAME_BYTES: usize = 253;
/// RFC 1035, section 2.3.4.
const MAX_LABEL_BYTES: usize = 63;

impl Authority {
    /// The port asked for.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        let port = parse_port(port).ok_or(AuthorityError::Port)?;
        if let Some(bracketed) = host.strip_prefix('[') {
            let inner = bracketed.strip_suffix(']').ok_or(AuthorityError::Host)?;
            let ip: Ipv6Addr = inner.parse().map_err(|_| AuthorityError::Host)?;
            return Ok(Self::Ip(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port)));
        }
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(SocketAddr::new(ip.into(), port)));
        }
        if !is_hostname(host) {
            return Err(AuthorityError::Host);
        }
        Ok(Self::Host { hostname: host.to_ascii_lowercase().into(), port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host { hostname, port } => write!(f, "{hostname}:{port}"),
        }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

/// Letters, digits, `-` and `_` in labels; the last label is not a number, lest a mistyped IPv4
/// address pass for a name.
fn is_hostname(text: &str) -> bool {
    let sound = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= MAX_HOSTNAME_BYTES
        && text.split('.').all(sound)
        && !text.rsplit('.').next().is_some_and(numeric)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<&str, AuthorityError>) {
        let parsed = text.parse::<Authority>().map(|authority| authority.to_string());
        assert_eq!(parsed, expected.map(str::to_owned), "{text:?}");
    }

    #[test]
    fn an_authority_is_an_address_or_a_name_with_a_port() {
        check("10.0.0.1:80", Ok("10.0.0.1:80"));
        check("[fd00::1]:15008", Ok("[fd00::1]:15008"));
        check("[FD00:0::1]:1", Ok("[fd00::1]:1"));
        check("[::ffff:10.0.0.1]:80", Ok("10.0.0.1:80"));
        check(
            "details.bookinfo.svc.cluster.local:9080",
            Ok("details.bookinfo.svc.cluster.local:9080"),
        );
        check("Details:65535", Ok("details:65535"));
    }

    #[test]
    fn anything_else_is_not_an_authority() {
        for text in [
            "",
            ":",
            "host",
            "10.0.0.1",
            "host:",
            "host:0",
            "host:080",
            "host:+80",
            "host:65536",
            "host:8 0",
            "[fd00::1]",
        ] {
            check(text, Err(AuthorityError::Port));
        }
        for text in [
            ":80",
            "fd00::1:80",
            "[fd00::1:80",
            "[fd00::1%1]:80",
            "[10.0.0.1]:80",
            "10.0.0:80",
            "10.0.0.256:80",
            "a..b:80",
            ".a:80",
            "a.:80",
            "-a:80",
            "user@host:80",
            "a/b:80",
            "a b:80",
            "bücher:80",
            "1:80",
        ] {
            check(text, Err(AuthorityError::Host));
        }
        check(&format!("{}:80", "a".repeat(64)), Err(AuthorityError::Host));
        check(&format!("{}a:80", "a.".repeat(127)), Err(AuthorityError::Host));
    }

    fn any_authority() -> impl Strategy<Value = Authority> {
        let ip = (any::<IpAddr>(), 1..=u16::MAX)
            .prop_map(|(ip, port)| Authority::Ip(SocketAddr::new(ip.to_canonical(), port)));
        let host = ("([a-z0-9_]{1,8}\\.){0,4}[a-z][a-z0-9]{0,8}", 1..=u16::MAX)
            .prop_map(|(name, port)| Authority::Host { hostname: name.into(), port });
        prop_oneof![ip, host]
    }

    proptest! {
        #[test]
        fn an_authority_survives_printing_and_parsing(authority in any_authority()) {
            prop_assert_eq!(authority.to_string().parse(), Ok(authority));
        }

        #[test]
        fn parsing_arbitrary_text_never_panics_and_is_stable(text in ".{0,80}") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_eq!(authority.to_string().parse(), Ok(authority));
            }
        }

        #[test]
        fn parsing_text_of_likely_characters_is_stable(text in "[0-9a-f:.\\[\\]%-]{0,40}") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_eq!(authority.to_string().parse(), Ok(authority));
            }
        }
    }
}
