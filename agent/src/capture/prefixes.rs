//! Where stand-ins are: a setting, and the same as the programs read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sotto_abi::{MAX_STAND_IN_PREFIX, Prefixes};

/// Ranges that become local in every enrolled pod, and must not be in use there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandInRanges {
    out4: Ipv4Net,
    client4: Ipv4Net,
    v6: Ipv6Net,
}

/// Why ranges will not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It cannot hold all stand-ins.
    #[error("{0} is too small for stand-ins: /{MAX_STAND_IN_PREFIX} or larger is needed")]
    Small(Ipv4Net),
    /// The rest of the address would not hold a number and a secret.
    #[error("{0} cannot hold stand-ins: a /64 is needed")]
    NotHalf(Ipv6Net),
    /// What pods connect to must be out of reach from outside.
    #[error(
        "{0} is not in 127.0.0.0/8: from outside, others could reach the agent as the pod itself"
    )]
    NotLoopback(Ipv4Net),
    /// 127.0.0.1 must stay what it is.
    #[error("{0} holds an address that pods use for themselves")]
    Localhost(IpNet),
    /// One address would be two things.
    #[error("{0} and {1} overlap")]
    Overlap(Ipv4Net, Ipv4Net),
}

impl Default for StandInRanges {
    /// 127.64.0.0/10, 240.64.0.0/10 (reserved, RFC 1112) and 100::/64 (discard-only, RFC 6666).
    fn default() -> Self {
        Self {
            out4: Ipv4Net::new_assert(Ipv4Addr::new(127, 64, 0, 0), 10),
            client4: Ipv4Net::new_assert(Ipv4Addr::new(240, 64, 0, 0), 10),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
        }
    }
}

impl StandInRanges {
    /// What pods connect to, what clients have, and both over IPv6.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn new(out4: Ipv4Net, client4: Ipv4Net, v6: Ipv6Net) -> Result<Self, Vec<RangeError>> {
        let (out4, client4, v6) = (out4.trunc(), client4.trunc(), v6.trunc());
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        let mut errors = Vec::new();
        for range in [out4, client4] {
            if range.prefix_len() > MAX_STAND_IN_PREFIX {
                errors.push(RangeError::Small(range));
            }
            if range.contains(&Ipv4Addr::LOCALHOST) || range.contains(&Ipv4Addr::UNSPECIFIED) {
                errors.push(RangeError::Localhost(range.into()));
            }
        }
        if !loopback.contains(&out4) {
            errors.push(RangeError::NotLoopback(out4));
        }
        if out4.contains(&client4) || client4.contains(&out4) {
            errors.push(RangeError::Overlap(out4, client4));
        }
        if v6.prefix_len() != 64 {
            errors.push(RangeError::NotHalf(v6));
        }
        if v6.contains(&Ipv6Addr::LOCALHOST) {
            errors.push(RangeError::Localhost(v6.into()));
        }
        if errors.is_empty() { Ok(Self { out4, client4, v6 }) } else { Err(errors) }
    }

    /// What clients have over IPv4.
    pub(crate) fn client4(&self) -> Ipv4Net {
        self.client4
    }

    /// All.
    pub fn all(&self) -> [IpNet; 3] {
        [self.out4.into(), self.client4.into(), self.v6.into()]
    }

    /// The range that an address is in, if it is in one.
    pub fn holds(&self, ip: IpAddr) -> Option<IpNet> {
        self.all().into_iter().find(|range| range.contains(&ip))
    }

    /// As the programs read them.
    pub(crate) fn of(record: &Prefixes) -> Option<Self> {
        let ip = |be: u32| Ipv4Addr::from(be.to_ne_bytes());
        let range = |of, mask| Ipv4Net::with_netmask(ip(of), ip(mask)).ok();
        let [v6a, v6b] = record.v6_be;
        let IpAddr::V6(v6) = IpAddr::from(sotto_abi::Address([v6a, v6b, 0, 0])) else {
            return None;
        };
        let out4 = range(record.out4_be, record.out4_mask_be)?;
        let client4 = range(record.client4_be, record.client4_mask_be)?;
        Self::new(out4, client4, Ipv6Net::new(v6, 64).ok()?).ok()
    }

    /// As the programs read them, with a secret.
    pub(crate) fn record(&self, secret: [u32; 2]) -> Prefixes {
        let be = |ip: Ipv4Addr| u32::from_ne_bytes(ip.octets());
        let [v6a, v6b, ..] = sotto_abi::Address::from(IpAddr::V6(self.v6.network())).0;
        let [mask_a, mask_b] = Prefixes::SECRET;
        Prefixes {
            out4_be: be(self.out4.network()),
            out4_mask_be: be(self.out4.netmask()),
            client4_be: be(self.client4.network()),
            client4_mask_be: be(self.client4.netmask()),
            v6_be: [v6a, v6b],
            secret_be: [secret[0] & mask_a, secret[1] & mask_b],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(out4: &str, client4: &str, v6: &str, expected: usize) {
        let ranges = StandInRanges::new(
            out4.parse().unwrap(),
            client4.parse().unwrap(),
            v6.parse().unwrap(),
        );
        assert_eq!(
            ranges.err().map_or(0, |errors| errors.len()),
            expected,
            "{out4} {client4} {v6}"
        );
    }

    #[test]
    fn ranges_are_read_back_from_the_programs() {
        let ranges = StandInRanges::default();
        assert_eq!(StandInRanges::of(&ranges.record([1, 2])), Some(ranges));
        let none = Prefixes { out4_mask_be: 0, ..ranges.record([0, 0]) };
        assert_eq!(StandInRanges::of(&none), None);
    }

    #[test]
    fn all_that_is_wrong_with_ranges_is_told_at_once() {
        check("127.64.0.0/10", "240.64.0.0/10", "100::/64", 0);
        check("127.64.0.0/15", "127.66.0.0/15", "fd00::/64", 0);
        check("127.64.0.0/16", "240.64.0.0/16", "100::/63", 3);
        check("10.0.0.0/8", "10.1.0.0/15", "::/64", 3);
        check("127.0.0.0/9", "240.0.0.0/4", "100::/64", 1);
    }
}
