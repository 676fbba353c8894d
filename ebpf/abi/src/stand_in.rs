//! Stand-ins: addresses that are local in a pod and stand for those that connections really have at their other end.
//!
//! A number stands for one real address, both as where a pod connects to and as a client of it. Over IPv4 it is the
//! host part of either prefix; over IPv6 the last bits, behind a secret that whoever is not on the node cannot know.

use crate::Address;

/// Real addresses that stand-ins can stand for at one time, all pods together.
pub const MAX_STAND_INS: u32 = 1 << INDEX_BITS;
/// Numbers that stand for no address: those of the agent's listeners, of resolvers, and [`CANARY`].
pub const RESERVED_STAND_INS: u32 = 256;
/// The number whose address is shown as [`CANARY_SHOWN`], to everyone: so the agent sees that the hooks work.
pub const CANARY: u32 = RESERVED_STAND_INS - 1;
/// 192.0.2.1, of a block that nobody has (RFC 5737).
pub const CANARY_SHOWN: Address = Address::v4(0xc000_0201_u32.to_be());
/// The first of the numbers that stand for the resolvers that a pod asks, in each pod for its own: they are taken by whoever
/// is the first to be asked, and kept as long as the pod is. No other pod has less of anything for it.
pub const FIRST_RESOLVER: u32 = 224;
/// Resolvers of one pod that have a number. What it asks of others is not the agent's to answer.
pub const MAX_RESOLVERS: u32 = 16;
const _: () = assert!(FIRST_RESOLVER + MAX_RESOLVERS <= CANARY);

/// Which of a pod's resolvers a number stands for, if it does for one.
#[inline(always)]
pub const fn resolver_slot(index: u32) -> Option<u32> {
    let slot = index.wrapping_sub(FIRST_RESOLVER);
    if slot < MAX_RESOLVERS { Some(slot) } else { None }
}

/// Numbers that wait in `FREE_STAND_INS` for the next new address.
pub const MAX_FREE_STAND_INS: u32 = 16_384;
/// The longest IPv4 prefix that has room for all.
pub const MAX_STAND_IN_PREFIX: u8 = 32 - INDEX_BITS as u8;

const INDEX_BITS: u32 = 17;
const INDEX_MASK: u32 = MAX_STAND_INS - 1;
/// First bit of the second half of an IPv6 stand-in: set for clients.
const CLIENT_BIT: u32 = 1 << 31;

/// Where stand-ins are; value of `PREFIXES`. All in network order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixes {
    /// IPv4, where pods connect to.
    pub out4_be: u32,
    /// Its mask.
    pub out4_mask_be: u32,
    /// IPv4, clients.
    pub client4_be: u32,
    /// Its mask.
    pub client4_mask_be: u32,
    /// IPv6, the first 64 bits of both.
    pub v6_be: [u32; 2],
    /// IPv6, the next bits; zero where the direction and the number are.
    pub secret_be: [u32; 2],
}

const _: () = assert!(size_of::<Prefixes>() == 32 && align_of::<Prefixes>() == 4);

impl Prefixes {
    /// The bits that a secret may have.
    pub const SECRET: [u32; 2] = [(!CLIENT_BIT).to_be(), (!INDEX_MASK).to_be()];

    /// The address that pods connect to instead of that with the number.
    #[inline(always)]
    pub const fn out(&self, is_v4: bool, index: u32) -> Address {
        if is_v4 {
            return Address::v4(self.out4_be | index.to_be());
        }
        self.v6(0, index)
    }

    /// The address that a client with the number has in pods.
    #[inline(always)]
    pub const fn client(&self, is_v4: bool, index: u32) -> Address {
        if is_v4 {
            return Address::v4(self.client4_be | index.to_be());
        }
        self.v6(CLIENT_BIT.to_be(), index)
    }

    #[inline(always)]
    const fn v6(&self, way_be: u32, index: u32) -> Address {
        let ([a, b], [c, d]) = (self.v6_be, self.secret_be);
        Address([a, b, c | way_be, d | index.to_be()])
    }

    /// Whether an address is of the prefix that pods connect to.
    #[inline(always)]
    pub const fn is_out(&self, address: &Address) -> bool {
        self.is_of(address, self.out4_be, self.out4_mask_be, 0)
    }

    /// Whether an address is of the prefix of clients.
    #[inline(always)]
    pub const fn is_client(&self, address: &Address) -> bool {
        self.is_of(address, self.client4_be, self.client4_mask_be, CLIENT_BIT.to_be())
    }

    #[inline(always)]
    const fn is_of(&self, address: &Address, of_be: u32, mask_be: u32, way_be: u32) -> bool {
        let [a, b, c, d] = address.0;
        if address.is_v4() {
            return d & mask_be == of_be;
        }
        let ([v6a, v6b], [secret, rest]) = (self.v6_be, self.secret_be);
        (a ^ v6a) | (b ^ v6b) | (c ^ (secret | way_be)) | ((d & !INDEX_MASK.to_be()) ^ rest) == 0
    }

    /// Whether an address is of the IPv6 prefix, though it may lack the secret.
    #[inline(always)]
    pub const fn is_of_v6(&self, address: &Address) -> bool {
        let ([a, b, ..], [v6a, v6b]) = (address.0, self.v6_be);
        (a ^ v6a) | (b ^ v6b) == 0
    }

    /// The number of a stand-in; of another address, anything.
    #[inline(always)]
    pub const fn index(&self, address: &Address) -> u32 {
        let [_, _, _, d] = address.0;
        if !address.is_v4() {
            return u32::from_be(d) & INDEX_MASK;
        }
        let is_out = d & self.out4_mask_be == self.out4_be;
        let mask_be = if is_out { self.out4_mask_be } else { self.client4_mask_be };
        u32::from_be(d & !mask_be)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::IpAddr;

    use super::*;

    fn prefixes() -> Prefixes {
        let be =
            |text: &str| u32::from_ne_bytes(text.parse::<core::net::Ipv4Addr>().unwrap().octets());
        let secret = [0x7654_3210_u32.to_be(), 0xabcd_1234_u32.to_be()];
        let mask = Prefixes::SECRET;
        Prefixes {
            out4_be: be("127.64.0.0"),
            out4_mask_be: be("255.192.0.0"),
            client4_be: be("240.64.0.0"),
            client4_mask_be: be("255.192.0.0"),
            v6_be: [0x0100_0000_u32.to_be(), 0],
            secret_be: [secret[0] & mask[0], secret[1] & mask[1]],
        }
    }

    #[test]
    fn a_stand_in_is_of_its_own_prefix_and_has_its_number() {
        let prefixes = prefixes();
        for index in [0, 1, 255, 256, 77_777, MAX_STAND_INS - 1] {
            for is_v4 in [true, false] {
                let (out, client) = (prefixes.out(is_v4, index), prefixes.client(is_v4, index));
                assert!(prefixes.is_out(&out) && !prefixes.is_client(&out), "{index}");
                assert!(prefixes.is_client(&client) && !prefixes.is_out(&client), "{index}");
                assert_eq!((prefixes.index(&out), prefixes.index(&client)), (index, index));
                assert_eq!((out.is_v4(), client.is_v4()), (is_v4, is_v4));
            }
        }
        assert_eq!(IpAddr::from(prefixes.out(true, 5)), IpAddr::from([127, 64, 0, 5]));
        assert_eq!(IpAddr::from(prefixes.client(true, 256)), IpAddr::from([240, 64, 1, 0]));
    }

    #[test]
    fn what_lacks_the_secret_is_no_stand_in() {
        let prefixes = prefixes();
        for text in ["100::5", "100::8000:0:0:5", "127.0.0.1", "127.128.0.1", "240.63.0.1", "::1"] {
            let address = text.parse::<IpAddr>().unwrap().into();
            assert!(!prefixes.is_out(&address) && !prefixes.is_client(&address), "{text}");
        }
        assert!(prefixes.is_of_v6(&"100::5".parse::<IpAddr>().unwrap().into()));
    }
}
