//! The rtnetlink requests that a capture needs, in the calling thread's network namespace.
//!
//! Synchronous on purpose: it runs inside [`super::Netns::enter`]. Requests are idempotent: adding what is
//! there and deleting what is not are both fine.

mod links;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// `ip rule add fwmark <mark> lookup <table> pref <priority>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkRule {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The mark that selects the table.
    pub mark: u32,
    /// The routing table.
    pub table: u32,
    /// Lower is asked first.
    pub priority: u32,
}

/// A route that keeps packets on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// What becomes of them.
    pub kind: RouteKind,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// `ip route add local <to> dev <device> [src <source>] table local [congctl <congestion_control>]`: all of it is
    /// this host's, also for sockets that are bound to the device.
    Local {
        /// Index of the device; 0 for any, where one is to be deleted.
        device: u32,
        /// Of several routes that differ in their device, the lower goes before. 0 for any, where one is to be deleted.
        metric: u32,
        /// What sockets without an address get.
        source: Option<IpAddr>,
        /// What connections over it start with, both ends; none for the namespace's default.
        congestion_control: Option<&'static str>,
    },
    /// `ip route add prohibit <to> metric <the last>`: nobody gets there, unless another route says so. Over IPv6 that
    /// does not hold for sockets that are bound to a device: see [`RouteKind::Blackhole`].
    Prohibit,
    /// `ip route add <to> nhid <nexthop> metric <the last>`, of a nexthop made by [`Netlink::set_blackhole`]: nobody gets
    /// there, whatever device a socket is bound to, unless another route says so.
    Blackhole {
        /// Its number.
        nexthop: u32,
    },
    /// `ip route add local <to> dev lo table <table>`.
    LoopOf {
        /// The routing table.
        table: u32,
    },
}

/// A netlink socket in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

/// `lo` is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// More than there are devices in a pod.
const MAX_ROUTES: u32 = 4096;
/// A metric that any other route of the same prefix beats.
const LAST_METRIC: u32 = u32::MAX - 1;
/// The kernel answers at once; this only bounds a kernel gone wrong.
const TIMEOUT_SECONDS: i64 = 5;

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
        Ok(Self { socket })
    }

    /// Brings up `lo`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_loopback_up(&self) -> io::Result<()> {
        let up = u32::try_from(libc::IFF_UP).map_err(io::Error::other)?;
        let mut body = vec![0; 4]; // family and type
        body.extend(LOOPBACK_INDEX.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes()); // which flags change
        self.request(libc::RTM_NEWLINK, 0, &body)
    }

    /// Deletes the rule; if it is not there, nothing changes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_rule(&self, rule: MarkRule) -> io::Result<()> {
        ignore(self.request(libc::RTM_DELRULE, 0, &rule.encode()), libc::ENOENT)
    }

    /// Adds the route, or replaces one with another device or source.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_route(&self, route: Route) -> io::Result<()> {
        let replace = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.request(libc::RTM_NEWROUTE, replace, &route.encode())
    }

    /// Deletes the route, and all others that are like it in what it says; if there is none, nothing changes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_route(&self, route: Route) -> io::Result<()> {
        for _ in 0..MAX_ROUTES {
            match self.request(libc::RTM_DELROUTE, 0, &route.encode()) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// `ip nexthop replace id <id> blackhole`, of IPv6 (Linux 5.3).
    ///
    /// # Errors
    /// The kernel refuses, or lacks IPv6.
    pub fn set_blackhole(&self, id: u32) -> io::Result<()> {
        let mut body = nexthop(id, RTPROT_STATIC);
        attribute(&mut body, NHA_BLACKHOLE, &[]);
        self.request(RTM_NEWNEXTHOP, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &body)
    }

    /// Deletes a nexthop and the routes by it; if it is not there, nothing changes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_nexthop(&self, id: u32) -> io::Result<()> {
        ignore(self.request(RTM_DELNEXTHOP, 0, &nexthop(id, 0)), libc::ENOENT)
    }

    /// One request, one acknowledgement.
    fn request(&self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags)
            .map_err(io::Error::other)?;
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]); // sequence and port: one request at a time needs neither
        message.extend(body);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        acknowledgement(answer.get(..length).unwrap_or_default())
    }
}

/// `sizeof(struct nlmsghdr)`.
const HEADER_BYTES: usize = 16;

/// The result inside an NLMSG_ERROR message: 0, or a negated errno.
fn acknowledgement(message: &[u8]) -> io::Result<()> {
    let code = message
        .get(HEADER_BYTES..HEADER_BYTES + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes)
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn ignore(result: io::Result<()>, errno: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

impl Family {
    /// `AF_INET` or `AF_INET6`, as the one byte of rtnetlink's headers.
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

impl MarkRule {
    /// `struct fib_rule_hdr` and its attributes.
    fn encode(self) -> Vec<u8> {
        let mut body = vec![self.family.number(), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL];
        body.extend([0; 4]);
        attribute(&mut body, FRA_PRIORITY, &self.priority.to_ne_bytes());
        attribute(&mut body, FRA_FWMARK, &self.mark.to_ne_bytes());
        attribute(&mut body, FRA_TABLE, &self.table.to_ne_bytes());
        body
    }
}

impl Route {
    /// `struct rtmsg` and its attributes.
    fn encode(self) -> Vec<u8> {
        let (family, to) = match self.to.network() {
            IpAddr::V4(ip) => (Family::V4, ip.octets().to_vec()),
            IpAddr::V6(ip) => (Family::V6, ip.octets().to_vec()),
        };
        let (kind, table) = match self.kind {
            RouteKind::Local { .. } => (RTN_LOCAL, RT_TABLE_LOCAL),
            RouteKind::Prohibit => (RTN_PROHIBIT, RT_TABLE_MAIN),
            RouteKind::Blackhole { .. } => (RTN_UNICAST, RT_TABLE_MAIN),
            RouteKind::LoopOf { table } => (RTN_LOCAL, table),
        };
        let scope = match (family, kind) {
            (Family::V4, RTN_LOCAL) => RT_SCOPE_HOST,
            _ => RT_SCOPE_UNIVERSE,
        };
        let mut body =
            vec![family.number(), self.to.prefix_len(), 0, 0, 0, RTPROT_STATIC, scope, kind];
        body.extend([0; 4]);
        if self.to.prefix_len() > 0 {
            attribute(&mut body, RTA_DST, &to);
        }
        attribute(&mut body, RTA_TABLE, &table.to_ne_bytes());
        match self.kind {
            RouteKind::Local { device, metric, source, congestion_control } => {
                if metric != 0 {
                    attribute(&mut body, RTA_PRIORITY, &metric.to_ne_bytes());
                }
                if device != 0 {
                    attribute(&mut body, RTA_OIF, &device.to_ne_bytes());
                }
                match source {
                    Some(IpAddr::V4(ip)) => attribute(&mut body, RTA_PREFSRC, &ip.octets()),
                    Some(IpAddr::V6(ip)) => attribute(&mut body, RTA_PREFSRC, &ip.octets()),
                    None => {}
                }
                if let Some(name) = congestion_control {
                    let mut metrics = Vec::new();
                    attribute(&mut metrics, RTAX_CC_ALGO, &[name.as_bytes(), b"\0"].concat());
                    attribute(&mut body, RTA_METRICS, &metrics);
                }
            }
            RouteKind::Prohibit => attribute(&mut body, RTA_PRIORITY, &LAST_METRIC.to_ne_bytes()),
            RouteKind::Blackhole { nexthop } => {
                attribute(&mut body, RTA_PRIORITY, &LAST_METRIC.to_ne_bytes());
                attribute(&mut body, RTA_NH_ID, &nexthop.to_ne_bytes());
            }
            RouteKind::LoopOf { .. } => {
                attribute(&mut body, RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
            }
        }
        body
    }
}

/// `struct nhmsg` and the number of a nexthop of IPv6. To name one, the protocol must be 0.
fn nexthop(id: u32, protocol: u8) -> Vec<u8> {
    let mut body = vec![Family::V6.number(), RT_SCOPE_UNIVERSE, protocol, 0];
    body.extend([0; 4]);
    attribute(&mut body, NHA_ID, &id.to_ne_bytes());
    body
}

/// Appends one attribute, padded to a multiple of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(payload);
    body.resize(body.len().next_multiple_of(4), 0);
}

// linux/fib_rules.h
const FR_ACT_TO_TBL: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
// linux/rtnetlink.h
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_PROHIBIT: u8 = 8;
const RT_TABLE_MAIN: u32 = 254;
const RT_TABLE_LOCAL: u32 = 255;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
const RTAX_CC_ALGO: u16 = 16;
// linux/rtnetlink.h and linux/nexthop.h, since Linux 5.3
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const NHA_ID: u16 = 1;
const NHA_BLACKHOLE: u16 = 4;
