//! istiod goes away and comes back.

use anyhow::Result;

use super::super::clients::Counted;
use super::super::mesh::{NAMESPACE, ROLLOUT};
use super::super::rows::judge;
use super::super::suite::{MESH, Suite};
use super::super::table::Outcome;

pub(super) fn restart(suite: &Suite) -> Result<Outcome> {
    let load = suite.load((MESH, "client"), "restart", ("server.sotto-e2e-mesh", 80))?;
    suite.kubectl.ok(&format!("delete pod -n {NAMESPACE} -l app=istiod --timeout=100s"))?;
    let line = format!("rollout status -n {NAMESPACE} deployment/istiod --timeout=100s");
    suite.kubectl.ok_within(&line, ROLLOUT)?;
    for agent in suite.agents()? {
        suite.wait("the agent is connected again", super::super::suite::SOON, || {
            let connected = suite.metric(&agent, "sotto_xds_connected", &[])?;
            Ok(if connected > 0.0 { Ok(()) } else { Err(agent.name.clone()) })
        })?;
    }
    let counted: Counted = load.stop()?;
    judge(counted.lost_nothing(), counted.told())
}
