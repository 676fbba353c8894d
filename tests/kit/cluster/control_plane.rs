//! The control plane: one process, at its own place on the fabric.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::agent::{ACCOUNT, SYSTEM};
use super::process::Process;
use crate::topology::CONTROL_PLANE_IP;

/// Its service account.
pub const CONTROL_PLANE_ACCOUNT: &str = "sotto-control-plane";

/// The embedded control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Its process.
    pub process: Process,
}

impl ControlPlane {
    /// Starts it; does not wait until it is ready.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start(
        program: &Path,
        kubeconfig: &Path,
        (cgroup, netns): (PathBuf, &str),
        log: PathBuf,
        further: &[String],
    ) -> Result<Self> {
        crate::cgroup::create(&cgroup)?;
        let mut argv = vec![program.display().to_string(), String::from("control-plane")];
        let flags = [
            ("listen", String::from("[::]:15012")),
            ("kubeconfig", kubeconfig.display().to_string()),
            ("namespace", SYSTEM.to_owned()),
            ("trusted-node-account", format!("{SYSTEM}/{ACCOUNT}")),
            ("dns-name", CONTROL_PLANE_IP.to_string()),
        ];
        argv.extend(flags.map(|(flag, value)| format!("--{flag}={value}")));
        argv.extend(further.iter().cloned());
        let mut process = Process::new(argv, cgroup, netns, log);
        process.start()?;
        Ok(Self { process })
    }

    /// Whether it says it is ready.
    pub async fn ready(&self) -> bool {
        self.process.get(15021, "/healthz/ready").await.is_ok_and(|answer| answer.status == 200)
    }
}
