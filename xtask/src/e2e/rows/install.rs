//! Installing: by the documents' commands.

use anyhow::{Result, bail};

use super::super::mesh::KINDS;
use super::super::objects;
use super::super::suite::{MESH, MOVED, PLAIN, STRICT, Suite};
use super::super::table::Outcome;
use super::judge;

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    suite.settle(PLAIN, false)?;
    suite.settle(MOVED, false)?;
    let image = suite.settings.from.as_ref().unwrap_or(&suite.settings.image);
    let mut warned = suite.install(KINDS, image)?;
    warned.extend(suite.install(&suite.settings.overlay, image)?);
    suite.installed()?;
    let agents = suite.agents()?.len();
    if agents == 0 {
        bail!("no node has an agent");
    }
    settle_enrolled(suite)?;
    let seen = match warned.first() {
        None => format!("{agents} agents ready; kubectl warned of nothing"),
        Some(first) => {
            format!("{agents} agents ready; kubectl warned {} times: {first}", warned.len())
        }
    };
    judge(warned.is_empty(), seen)
}

/// The enrolled namespaces: younger than the mesh.
pub(in crate::e2e) fn settle_enrolled(suite: &Suite) -> Result<()> {
    suite.settle(MESH, true)?;
    suite.settle(STRICT, true)?;
    for namespace in [MESH, STRICT] {
        for pod in ["client", "server"] {
            suite.captured(namespace, pod)?;
        }
    }
    suite.reaches((MESH, "client"), "http://server.sotto-e2e-mesh/")?;
    // The last object: with it, the other rows have what they need.
    suite.kubectl.apply(&[objects::peer_authentication(STRICT, "STRICT")])
}
