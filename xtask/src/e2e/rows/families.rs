//! IPv6, where the cluster has it.

use anyhow::Result;

use super::super::clients::Counted;
use super::super::objects::{self, PORT};
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite, items};
use super::super::table::Outcome;
use super::judge;

/// The pod's address of IPv6, if it has one.
fn address(suite: &Suite, namespace: &str, pod: &str) -> Result<Option<String>> {
    let pod = suite.pod(namespace, pod)?;
    let addresses = items(&pod["status"]["podIPs"]).iter().filter_map(|one| one["ip"].as_str());
    Ok(addresses.filter(|address| address.contains(':')).map(str::to_owned).next())
}

pub(super) fn ip6(suite: &Suite) -> Result<Outcome> {
    let (Some(client), Some(server), Some(closed)) = (
        address(suite, MESH, "client")?,
        address(suite, MESH, "server")?,
        address(suite, STRICT, "server")?,
    ) else {
        return Ok(Outcome::NotRun(String::from("the cluster's pods have no IPv6 addresses")));
    };
    let direct = suite.ask((MESH, "client"), 10, (&server, PORT))?;
    let strict = suite.ask((MESH, "client"), 5, (&closed, PORT))?;
    let outside = suite.ask((PLAIN, "client"), 5, (&closed, PORT))?;
    let service = of_service(suite)?;
    let seen = format!(
        "{server}: {}; its service: {}; STRICT: {} of {}, from outside {} of {}; the client {client} was seen as {:?}",
        direct.told(),
        service.told(),
        strict.answered,
        strict.asked,
        outside.answered,
        outside.asked,
        direct.clients.keys().collect::<Vec<_>>(),
    );
    let all = direct.lost_nothing() && service.lost_nothing() && strict.lost_nothing();
    judge(all && outside.answered == 0 && direct.clients.keys().eq([&client]), seen)
}

fn of_service(suite: &Suite) -> Result<Counted> {
    let mut service = objects::service(MESH, "six", Some("server"));
    service["spec"]["ipFamilies"] = serde_json::json!(["IPv6"]);
    suite.kubectl.apply(&[service])?;
    let address = suite.wait("the service has an address", SOON, || {
        let service = suite.kubectl.get(&format!("service -n {MESH} six"))?.unwrap_or_default();
        let address = service["spec"]["clusterIP"].as_str().map(str::to_owned);
        Ok(address.ok_or_else(|| String::from("none yet")))
    })?;
    suite.wait("the service answers", SOON, || {
        let counted = suite.ask((MESH, "client"), 1, (&address, 80))?;
        Ok(if counted.answered == 1 { Ok(()) } else { Err(counted.told()) })
    })?;
    let counted = suite.ask((MESH, "client"), 10, (&address, 80))?;
    suite.kubectl.ok(&format!("delete service -n {MESH} six --wait=false"))?;
    Ok(counted)
}
