//! Bridges and network namespaces, made with `ip`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use sotto::mesh::local::Exclusions;
use sotto::mesh::{Account, LocalPod, PodUid};
use sotto::sys::Netns;

/// A network namespace, ended on drop.
#[derive(Debug)]
pub struct Host {
    /// It.
    pub netns: Netns,
    /// Its bridge, if it is that of a node.
    pub bridge: Bridge,
    name: String,
}

/// A bridge that pods are attached to.
#[derive(Debug, Clone)]
pub struct Bridge {
    host: String,
}

impl Host {
    /// A namespace with a bridge, 10.77.0.1 and fd77::1.
    pub fn create(name: &str) -> Result<Self> {
        let host = Self::empty(name)?;
        ip(&["-n", name, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", name, "link", "set", "br0", "up"])?;
        ip(&["-n", name, "addr", "add", "10.77.0.1/24", "dev", "br0"])?;
        ip(&["-n", name, "addr", "add", "fd77::1/64", "dev", "br0", "nodad"])?;
        Ok(host)
    }

    fn empty(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let bridge = Bridge { host: name.to_owned() };
        let path = PathBuf::from("/run/netns").join(name);
        let netns = Netns::open(&path).context("failed to open a new namespace")?;
        let host = Self { netns, bridge, name: name.to_owned() };
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// Ends the namespace's name; it lives on as long as something else holds it.
    pub fn remove(self) {}
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("lab: {error:#}");
        }
    }
}

impl Bridge {
    /// A pod with the addresses 10.77.0.`number` and fd77::`number`.
    pub(super) fn attach(&self, lab: &str, number: u8) -> Result<(Host, LocalPod)> {
        let (host, name) = (self.host.as_str(), format!("{}-{number}", self.host));
        let pod = Host::empty(&name)?;
        let port = format!("pod{number}");
        ip(&[
            "-n", host, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &name,
        ])?;
        ip(&["-n", host, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("10.77.0.{number}/24"), "dev", "eth0"])?;
        ip(&["-n", &name, "addr", "add", &format!("fd77::{number:x}/64"), "dev", "eth0", "nodad"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "route", "add", "default", "via", "10.77.0.1"])?;
        ip(&["-n", &name, "-6", "route", "add", "default", "via", "fd77::1"])?;
        let local = LocalPod {
            uid: PodUid(format!("{lab}-{name}").into()),
            namespace: "lab".into(),
            name: name.as_str().into(),
            account: Account::new("lab", "default")?,
            ip4: Some(Ipv4Addr::new(10, 77, 0, number)),
            ip6: Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())),
            // The port of the servers: the kubelet may probe it.
            exclusions: Exclusions { probe_ports: vec![8080], ..Exclusions::default() },
        };
        Ok((pod, local))
    }
}

/// Runs `ip`.
pub(super) fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("failed to run ip")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}
