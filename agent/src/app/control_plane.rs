//! Runs the embedded control plane.

use std::process::ExitCode;
use std::time::Duration;

use super::process::{self, Logging};
use crate::config::ControlPlaneSettings;
use crate::control_plane::{self, ControlPlaneConfig};
use crate::sys::{Shutdown, shutdown};

/// New calls are taken so long after SIGTERM: nodes are sent here until they have heard that this replica ends.
const HEARD: Duration = Duration::from_secs(3);
/// Streams and calls may go on this long after that.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the control plane until SIGTERM.
pub(super) fn run(settings: ControlPlaneSettings) -> ExitCode {
    let logging = Logging::of(settings.log_format, settings.log_level.clone());
    process::run("control-plane", &logging, |_| serve(settings))
}

async fn serve(settings: ControlPlaneSettings) -> anyhow::Result<()> {
    let client = super::kubernetes(settings.kubeconfig.as_deref()).await?;
    let config = ControlPlaneConfig {
        listen: settings.listen,
        namespace: settings.namespace,
        root_namespace: settings.root_namespace,
        trust_domain: settings.trust_domain,
        cluster_id: settings.cluster_id,
        cluster_domain: settings.cluster_domain,
        trusted_node_accounts: settings.trusted_node_accounts,
        dns_names: settings.dns_names,
        ready_address: settings.ready_address,
        metrics_address: settings.metrics_address,
        default_certificate_ttl: settings.certificate_ttl,
        max_certificate_ttl: settings.max_certificate_ttl,
        workload_certificates: settings.workload_certificates,
    };
    let all = Shutdown::new();
    let on_signal = all.token.clone();
    all.spawn(async move {
        tokio::select! {
            asked = shutdown::requested() => {
                if let Err(error) = asked {
                    tracing::error!(%error, "cannot hear signals; stopping");
                }
                tracing::info!("ending, when nodes have heard of it");
                tokio::time::sleep(HEARD).await;
                on_signal.cancel();
            }
            () = on_signal.cancelled() => {}
        }
    });
    let ended = control_plane::run(config, client, all.clone()).await;
    all.drain(DRAIN).await?;
    Ok(ended?)
}
