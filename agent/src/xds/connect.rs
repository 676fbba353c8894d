//! The connection to the control plane: TLS against roots from a file, and our token.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arcstr::ArcStr;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::config::XdsConfig;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root file holds no certificate.
    #[error("no certificate in {0}")]
    NoRoots(PathBuf),
    /// The token or the cluster's name cannot be sent.
    #[error("{0} cannot be sent in a header")]
    Header(&'static str),
    /// The address, the name or TLS is not acceptable, or the control plane does not answer.
    #[error("failed to connect to {address}")]
    Transport {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It took too long.
    #[error("failed to connect to {0}: no answer")]
    Timeout(String),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A push of everything should not wait for windows to open.
const WINDOW_BYTES: u32 = 4 << 20;

/// A channel to the control plane. Roots are read anew, so a replaced file counts from the next
/// connection on.
pub(super) async fn connect(config: &XdsConfig) -> Result<Channel, ConnectError> {
    let pem = read(&config.root_cert).await?;
    let any_root = CertificateDer::pem_slice_iter(&pem).any(|root| root.is_ok());
    if !any_root {
        return Err(ConnectError::NoRoots(config.root_cert.clone()));
    }
    let transport = |source| ConnectError::Transport { address: config.address.clone(), source };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    if let Some(name) = &config.server_name {
        tls = tls.domain_name(name);
    }
    let endpoint = Endpoint::from_shared(config.address.clone())
        .map_err(transport)?
        .tls_config(tls)
        .map_err(transport)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    // The endpoint's own timeout is per attempt at an address.
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(connected) => connected.map_err(transport),
        Err(_) => Err(ConnectError::Timeout(config.address.clone())),
    }
}

/// What identifies us to the control plane. The token is read anew: Kubernetes rotates it. One of a cluster that is not
/// named is taken for the control plane's own.
pub(super) async fn credentials(
    config: &XdsConfig,
    cluster: Option<&ArcStr>,
) -> Result<MetadataMap, ConnectError> {
    let token = read(&config.token).await?;
    let token = std::str::from_utf8(&token).map_err(|_| ConnectError::Header("the token"))?.trim();
    if token.is_empty() {
        return Err(ConnectError::Header("an empty token"));
    }
    let mut bearer: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| ConnectError::Header("the token"))?;
    bearer.set_sensitive(true);
    let mut metadata = config.headers.clone();
    metadata.insert("authorization", bearer);
    if let Some(cluster) = cluster {
        let cluster = cluster.parse().map_err(|_| ConnectError::Header("the cluster id"))?;
        metadata.insert("clusterid", cluster);
    }
    Ok(metadata)
}

async fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let failed = |source| ConnectError::Read { path: path.to_owned(), source };
    tokio::fs::read(path).await.map_err(failed)
}
