//! The kubelet's probes: whose connections are exempt, and where to.

use std::path::Path;

use sotto_abi::{Address, AddressPort, names};

use super::error::{BpfError, absent_is_fine};
use super::maps::Maps;
use super::node::pinned_cgroup;
use super::{Kernel, object};
use crate::mesh::LocalPod;
use crate::sys::cgroup::{Cgroup, holds_containers};

impl Kernel {
    /// Exempts the probes of the kubelet in a cgroup, and nobody else's; with none, nobody's at all. False if the
    /// cgroup holds pods too: a program on it sees all below it, and would exempt the connections of pods.
    ///
    /// Repeating it is cheap, and finds a cgroup that was made anew under its name.
    ///
    /// # Errors
    /// The cgroup is gone or the kernel refuses: nobody is exempt then.
    pub fn exempt_probes(&mut self, kubelet: Option<&Path>) -> Result<bool, BpfError> {
        let done = self.try_exempt(kubelet);
        if !matches!(done, Ok(true)) {
            self.exempt_nobody()?;
        }
        done
    }

    fn try_exempt(&mut self, kubelet: Option<&Path>) -> Result<bool, BpfError> {
        let Some(path) = kubelet else { return Ok(false) };
        let cgroup = Cgroup::open(path).map_err(BpfError::file("open", path))?;
        if self.holds_pods(path)? {
            return Ok(false);
        }
        if self.exempt == Some(cgroup.id) {
            return Ok(true);
        }
        let object = object::load_node(&self.pins, &[names::PROBE])?;
        if pinned_cgroup(&self.pins.link(names::PROBE)) != Some(cgroup.id) {
            self.exempt_nobody()?;
        }
        self.attach_or_update(names::PROBE, path, &object)?;
        self.exempt = Some(cgroup.id);
        Ok(true)
    }

    /// What an earlier kubelet had open is forgotten too: nobody would see its end, and another process may get
    /// its ports next.
    fn exempt_nobody(&mut self) -> Result<(), BpfError> {
        self.exempt = None;
        self.pins.detach_link(names::PROBE)?;
        self.maps.forget_probes()
    }

    /// Whether a cgroup holds more than the kubelet: pods by their names, the root, or the agent's own cgroup,
    /// which stands for pods of any name.
    fn holds_pods(&self, cgroup: &Path) -> Result<bool, BpfError> {
        let root = Cgroup::open(&self.config.cgroup_root)
            .map_err(BpfError::file("open", &self.config.cgroup_root))?;
        let ids = [root.id, self.config.agent_cgroup_id];
        holds_containers(cgroup, &ids).map_err(BpfError::file("look through", cgroup))
    }
}

impl Maps {
    /// Makes the ports at which the kubelet may probe a pod those that it declares. What does not fit is captured.
    pub(super) fn set_probe_ports(&mut self, cookie: u64, pod: &LocalPod) -> Result<(), BpfError> {
        let ip4 = pod.ip4.map(std::net::IpAddr::from);
        let addresses = ip4.into_iter().chain(pod.ip6.map(Into::into)).map(Address::from);
        let of = |address| {
            let ports = pod.exclusions.probe_ports.iter();
            ports.map(move |&port| AddressPort { address, port: port.into() })
        };
        let wanted: Vec<AddressPort> = addresses.flat_map(of).collect();
        self.keep_probe_ports(cookie, &wanted)?;
        for key in wanted {
            if let Err(error) = self.probe_ports.insert(key, cookie, 0) {
                let (pod, port) = (&pod.name, key.port);
                tracing::warn!(%error, %pod, port, "probes of a port are captured");
            }
        }
        Ok(())
    }

    /// Removes what a network namespace has but for these. What is another's by now, as the new pod of an address,
    /// stays.
    pub(super) fn keep_probe_ports(
        &mut self,
        cookie: u64,
        wanted: &[AddressPort],
    ) -> Result<(), BpfError> {
        let is_wanted = |key: &AddressPort| {
            wanted.iter().any(|one| one.port == key.port && one.address.is(&key.address))
        };
        let all = self.probe_ports.iter().filter_map(Result::ok);
        let own = all.filter(|(_, owner)| *owner == cookie).map(|(key, _)| key);
        let outdated: Vec<_> = own.filter(|key| !is_wanted(key)).collect();
        for key in outdated {
            absent_is_fine(self.probe_ports.remove(&key))
                .map_err(BpfError::map("clear", names::PROBE_PORTS))?;
        }
        Ok(())
    }

    /// Forgets the kubelet's open connections.
    fn forget_probes(&mut self) -> Result<(), BpfError> {
        let flows: Vec<_> = self.probe_flows.keys().filter_map(Result::ok).collect();
        for flow in flows {
            absent_is_fine(self.probe_flows.remove(&flow))
                .map_err(BpfError::map("clear", names::PROBE_FLOWS))?;
        }
        Ok(())
    }
}
