//! Addresses and links: the fabric (a bridge in a namespace of its own, the "wire"), what hangs on
//! it, and the link of a pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::command::ip_batch;
use crate::netns;
use crate::run::Run;

/// The fabric's own address; the API server listens there.
pub const FABRIC_IP: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// The control plane's address on the fabric.
pub const CONTROL_PLANE_IP: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
/// A host outside the cluster and the mesh, behind the fabric (RFC 5737).
pub const EXTERNAL_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const EXTERNAL_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 100);
const BRIDGE: &str = "br0";

/// A node's place: its number, from 1, gives all its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeNumber(pub u8);

impl NodeNumber {
    /// `node1`, `node2`, ..
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Its address on the fabric.
    pub fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, 0, 10 + self.0)
    }

    /// Its IPv6 address on the fabric.
    pub fn ip6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, 0x10 + u16::from(self.0))
    }

    /// The range of its pods.
    pub fn pod_cidr(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    fn pod_cidr6(self) -> String {
        format!("fd00:10:244:{}::/64", self.0)
    }

    /// The addresses of its pod number `host` (1 is the gateway).
    pub fn pod_ips(self, host: u8) -> (Ipv4Addr, Ipv6Addr) {
        let ip6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(self.0), 0, 0, 0, u16::from(host));
        (Ipv4Addr::new(10, 244, self.0, host), ip6)
    }
}

/// The wire between the nodes.
#[derive(Debug, Clone)]
pub struct Fabric {
    /// The namespace of the bridge.
    pub netns: String,
    /// The namespace of the host outside the mesh.
    pub external: String,
    /// The namespace of the control plane.
    pub control_plane: String,
}

impl Fabric {
    /// Makes the bridge, the control plane's place and the outside host.
    pub fn create(run: &Run, nodes: &[NodeNumber]) -> Result<Self> {
        let fabric = Self {
            netns: run.netns("fabric"),
            external: run.netns("external"),
            control_plane: run.netns("cp"),
        };
        fabric.make_bridge()?;
        netns::add(&fabric.control_plane)?;
        fabric.attach(&fabric.control_plane, "cp", CONTROL_PLANE_IP, None)?;
        fabric.make_external(nodes)?;
        Ok(fabric)
    }

    fn make_bridge(&self) -> Result<()> {
        netns::add(&self.netns)?;
        // A destination that nobody has is refused at once instead of lost in silence.
        netns::sysctl(&self.netns, &[("net/ipv4/ip_forward", "1")])?;
        let lines = [
            format!("link add {BRIDGE} type bridge"),
            format!("addr add {FABRIC_IP}/12 dev {BRIDGE}"),
            format!("addr add fd00:172:31::1/64 dev {BRIDGE} nodad"),
            format!("link set {BRIDGE} up"),
            String::from("route add unreachable default"),
        ];
        ip_batch(&self.netns, &lines)
    }

    fn make_external(&self, nodes: &[NodeNumber]) -> Result<()> {
        netns::add(&self.external)?;
        self.attach(&self.external, "external", EXTERNAL_GATEWAY, None)?;
        let mut lines = vec![format!("addr add {EXTERNAL_IP}/32 dev lo")];
        lines.extend(nodes.iter().map(|n| format!("route add {} via {}", n.pod_cidr(), n.ip())));
        ip_batch(&self.external, &lines)
    }

    /// Gives the namespace `member` an `eth0` on the fabric; its other end there is `port`.
    fn attach(&self, member: &str, port: &str, ip: Ipv4Addr, ip6: Option<Ipv6Addr>) -> Result<()> {
        let add = format!("link add {port} type veth peer name eth0 netns {member}");
        let up = [format!("link set {port} master {BRIDGE}"), format!("link set {port} up")];
        ip_batch(&self.netns, &[&[add], &up[..]].concat())?;
        let mut lines = vec![format!("addr add {ip}/12 dev eth0")];
        lines.extend(ip6.map(|ip6| format!("addr add {ip6}/64 dev eth0 nodad")));
        lines.push(String::from("link set eth0 up"));
        lines.push(format!("route add default via {FABRIC_IP}"));
        ip_batch(member, &lines)
    }

    /// Makes the namespace of a node: on the fabric, forwarding, with routes to the others' pods.
    pub fn add_node(&self, name: &str, node: NodeNumber, all: &[NodeNumber]) -> Result<()> {
        netns::add(name)?;
        self.attach(name, &port_of(node), node.ip(), Some(node.ip6()))?;
        netns::sysctl(
            name,
            &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")],
        )?;
        let mut lines = vec![format!("route add 203.0.113.0/24 via {EXTERNAL_GATEWAY}")];
        for other in all.iter().filter(|other| **other != node) {
            lines.push(format!("route add {} via {}", other.pod_cidr(), other.ip()));
            lines.push(format!("route add {} via {}", other.pod_cidr6(), other.ip6()));
        }
        ip_batch(name, &lines)?;
        // So what is on the fabric itself, the API server and the control plane, can answer pods: agents are such.
        let pods = [
            format!("route add {} via {}", node.pod_cidr(), node.ip()),
            format!("route add {} via {}", node.pod_cidr6(), node.ip6()),
        ];
        ip_batch(&self.netns, &pods)
    }
}

/// The fabric's end of a node's link: every packet between the nodes crosses it once.
pub fn port_of(node: NodeNumber) -> String {
    format!("to-{}", node.name())
}

/// A pod's link to its node.
#[derive(Debug, Clone)]
pub struct PodLink {
    /// The node's namespace.
    pub node_netns: String,
    /// The pod's namespace.
    pub pod_netns: String,
    /// The node's end.
    pub host_device: String,
    /// Pod addresses.
    pub ips: (Ipv4Addr, Ipv6Addr),
    /// The node, for its gateway addresses.
    pub node: NodeNumber,
}

impl PodLink {
    /// Makes the veth pair, addresses and routes: point to point, as the `ptp` plugin does.
    pub fn create(&self) -> Result<()> {
        let (ip, ip6) = self.ips;
        let (gateway, gateway6) = self.node.pod_ips(1);
        let device = &self.host_device;
        let host = [
            format!("link add {device} type veth peer name eth0 netns {}", self.pod_netns),
            format!("addr add {gateway}/32 dev {device}"),
            format!("addr add {gateway6}/128 dev {device} nodad"),
            format!("link set {device} up"),
            format!("route add {ip}/32 dev {device} src {gateway}"),
            format!("route add {ip6}/128 dev {device}"),
        ];
        ip_batch(&self.node_netns, &host)?;
        let pod = [
            format!("addr add {ip}/32 dev eth0"),
            format!("addr add {ip6}/128 dev eth0 nodad"),
            String::from("link set eth0 up"),
            format!("route add {gateway}/32 dev eth0 scope link"),
            format!("route add default via {gateway} src {ip}"),
            format!("route add {gateway6}/128 dev eth0"),
            format!("route add ::/0 via {gateway6}"),
        ];
        ip_batch(&self.pod_netns, &pod)
    }

    /// Both addresses as Kubernetes lists them.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.ips.0), IpAddr::V6(self.ips.1)]
    }
}
