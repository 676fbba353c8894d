//! Programs of the network's own on the same hooks, as Cilium's: whoever runs first, what is captured stays captured.

use std::net::{SocketAddr, SocketAddrV4};

use anyhow::{Result, ensure};
use kit::lab::{Balancer, Beside, Lab, LabPod, ask, connect};
use sotto::capture::Role;
use sotto::capture::bpf::Kernel;

use super::{PORT, seen};

/// Of the network's service: its address is nobody's, so only who balances it or carries it gets anywhere.
const SERVICE: &str = "10.77.200.1:80";

/// A client pod on a node whose network balances, and where that leads.
struct Balanced {
    kernel: Kernel,
    client: LabPod,
    server: LabPod,
    service: SocketAddr,
    backend: SocketAddr,
    _balancers: Vec<Balancer>,
    lab: Lab,
}

impl Balanced {
    /// The network's programs are there before ours, or come after them.
    fn new(name: &str, before: Option<Beside>, after: Option<Beside>) -> Result<Self> {
        let lab = Lab::new(name)?;
        let service: SocketAddrV4 = SERVICE.parse()?;
        let backend = SocketAddrV4::new("10.77.0.3".parse()?, PORT);
        let balance = |at: Option<Beside>| at.map(|at| lab.balance(at, service, backend));
        let first = balance(before).transpose()?;
        let kernel = lab.install(|_| {})?;
        let second = balance(after).transpose()?;
        let (client, server) = (lab.pod(2)?, lab.pod(3)?);
        let balancers = first.into_iter().chain(second).collect();
        let (service, backend) = (service.into(), backend.into());
        Ok(Self { kernel, client, server, service, backend, _balancers: balancers, lab })
    }

    /// An app asks the service: the agent carries it to `carried`, which the app is shown too.
    fn check(&mut self, carried: SocketAddr) -> Result<()> {
        let _serving = self.server.serve(PORT)?;
        let relay = self.lab.enrol(&mut self.kernel, &self.client)?;
        let service = self.service;
        let shown = self.client.run(move || -> Result<SocketAddr> {
            let mut stream = connect(service)?;
            ask(&mut stream, "hello")?;
            Ok(stream.peer_addr()?)
        })?;
        assert_eq!(seen(&relay), [(Role::Outbound, self.client.ip4(), carried)]);
        ensure!(shown == carried, "shown {shown}");
        Ok(())
    }
}

#[test]
fn a_balancer_of_the_network_that_runs_first_leaves_the_backend_to_us() -> Result<()> {
    let mut of_pods = Balanced::new("below", None, Some(Beside::Below))?;
    of_pods.check(of_pods.backend)?;
    drop(of_pods);
    let mut earlier = Balanced::new("earlier", Some(Beside::Same), None)?;
    earlier.check(earlier.backend)
}

#[test]
fn a_balancer_of_the_network_that_runs_after_us_leaves_stand_ins_alone() -> Result<()> {
    let mut of_all = Balanced::new("above", Some(Beside::Above), None)?;
    of_all.check(of_all.service)?;
    drop(of_all);
    let mut later = Balanced::new("afterus", None, Some(Beside::Same))?;
    later.check(later.service)
}

#[test]
fn a_pod_that_is_not_ours_is_balanced_as_without_us() -> Result<()> {
    for (name, before, after) in
        [("plainb", Some(Beside::Same), None), ("plaina", None, Some(Beside::Same))]
    {
        let balanced = Balanced::new(name, before, after)?;
        let _serving = balanced.server.serve(PORT)?;
        let service = balanced.service;
        let shown = balanced.client.run(move || -> Result<SocketAddr> {
            let mut stream = connect(service)?;
            ask(&mut stream, "hello")?;
            Ok(stream.peer_addr()?)
        })?;
        ensure!(shown == service, "shown {shown}");
    }
    Ok(())
}
