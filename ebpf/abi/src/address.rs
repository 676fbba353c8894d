//! IP addresses as the programs compare them.

/// An IP address in network order; IPv4 as IPv4-mapped IPv6, so that each address has one form.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Address(pub [u32; 4]);

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);

/// Third word of `::ffff:0:0/96`.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// `::`, which stands for "none".
    pub const NONE: Self = Self([0; 4]);

    /// An IPv4 address, in network order.
    #[inline(always)]
    pub const fn v4(ip_be: u32) -> Self {
        Self([0, 0, MAPPED, ip_be])
    }

    /// Whether both are the same address.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.0;
        a | b | (c ^ MAPPED) == 0
    }

    /// Loopback: never from outside the pod.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() {
            return u32::from_be(d) >> 24 == 127;
        }
        a | b | c == 0 && d == 1_u32.to_be()
    }

    /// Loopback, unspecified (which connect(2) takes for loopback) or IPv6 link-local: never the mesh's.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() {
            return d == 0 || u32::from_be(d) >> 24 == 127;
        }
        let host = u32::from_be(d);
        (a | b | c == 0 && host <= 1) || u32::from_be(a) & 0xffc0_0000 == 0xfe80_0000
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        let bytes = match address {
            core::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(ip) => ip.octets(),
        };
        let mut words = [0; 4];
        let (chunks, _) = bytes.as_chunks::<4>();
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Self(words)
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(address.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        core::net::Ipv6Addr::from(bytes).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn mapped_and_plain_ipv4_are_one_address() {
        assert!(address("10.1.2.3").is(&address("::ffff:10.1.2.3")));
        assert!(address("10.1.2.3").is(&Address::v4(u32::from_ne_bytes([10, 1, 2, 3]))));
        assert!(!address("10.1.2.3").is(&address("10.1.2.4")));
        assert_eq!(IpAddr::from(address("::ffff:10.1.2.3")), "10.1.2.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn loopback_is_127_and_one() {
        for (text, is) in [
            ("127.0.0.1", true),
            ("127.64.0.1", true),
            ("::1", true),
            ("::", false),
            ("fe80::1", false),
        ] {
            assert_eq!(address(text).is_loopback(), is, "{text}");
        }
    }

    #[test]
    fn local_addresses_never_leave_the_pod() {
        for text in
            ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "fe80::1"]
        {
            assert!(address(text).is_local(), "{text}");
        }
        for text in ["10.0.0.127", "128.0.0.1", "fd00::1", "::2", "fec0::1", "1::1"] {
            assert!(!address(text).is_local(), "{text}");
        }
    }
}
