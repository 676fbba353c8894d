//! The client of the mesh's certificate authority.
//!
//! One call for each certificate. The CA's root and our token are files that Kubernetes replaces
//! under our feet, so both are read at each call; the connection is kept while the root is the same.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arcstr::ArcStr;
use parking_lot::Mutex;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sotto_proto::ca::IstioCertificateRequest;
use sotto_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::csr;
use super::svid::Issued;
use crate::mesh::{HomeUnknown, MeshReader, SpiffeId};

/// One call, from its first byte to its last.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// TCP and TLS to the CA.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 PING interval and patience, as istiod's other clients have them.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Key of the request's metadata under which a node agent names the workload it asks for.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// Where the CA is, and who we are to it.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// As `https://istiod.istio-system.svc:15012`.
    pub address: String,
    /// Name to expect in the CA's own certificate; the address's host by default.
    pub server_name: Option<String>,
    /// PEM file with the roots of the CA's own certificate.
    pub root_cert: PathBuf,
    /// File with our service account's token.
    pub token: PathBuf,
    /// Lifetime to ask for.
    pub ttl: Duration,
    /// Further headers of every call.
    pub headers: MetadataMap,
}

/// Why the CA gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file we need cannot be read.
    #[error("failed to read {what} at {path}: {hint}", path = path.display())]
    File {
        /// What the file is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The token's file is empty, or not a token.
    #[error("{path} holds no token: is the projected service account token mounted?", path = .0.display())]
    Token(PathBuf),
    /// The configured address is none, or the root's file holds no certificate.
    #[error("cannot connect to the CA at {address}")]
    Address {
        /// As configured.
        address: String,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// It is not known which cluster our token is from.
    #[error("failed to tell the CA which cluster this is")]
    Home(#[source] HomeUnknown),
    /// The cluster's name cannot be sent.
    #[error("{0:?} cannot be a cluster's name: it is not printable ASCII")]
    ClusterId(ArcStr),
    /// No key or request could be made.
    #[error("failed to make a certificate request")]
    Request(#[source] rcgen::Error),
    /// Nobody answers, or not in time.
    #[error("the CA at {address} does not answer")]
    Unreachable {
        /// As configured.
        address: String,
        /// Why not.
        source: Box<Status>,
    },
    /// The CA does not accept us, or not for this workload.
    #[error(
        "the CA refuses {identity}: {message:?}; it wants the agent's service account in its list \
         of trusted node accounts, a pod of that identity on this node, and to know cluster \
         {cluster:?}"
    )]
    Unauthenticated {
        /// For whom we asked.
        identity: SpiffeId,
        /// Which cluster we said we are.
        cluster: ArcStr,
        /// The CA's own words.
        message: String,
    },
    /// The CA answered with another error.
    #[error("the CA did not sign for {identity}")]
    Refused {
        /// For whom we asked.
        identity: SpiffeId,
        /// The CA's answer.
        source: Box<Status>,
    },
    /// The answer holds no chain and root.
    #[error("the CA's answer for {identity} is not a chain followed by roots: {reason}")]
    Answer {
        /// For whom we asked.
        identity: SpiffeId,
        /// What is wrong.
        reason: String,
    },
}

/// A client of the CA; cheap to share.
pub struct CaClient {
    config: CaConfig,
    /// Tells of which cluster our token is.
    mesh: MeshReader,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    /// The roots it was made with.
    root_pem: Vec<u8>,
    channel: Channel,
}

impl fmt::Debug for CaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CaClient").field(&self.config).finish()
    }
}

impl CaClient {
    /// A client that connects at its first call.
    pub fn new(config: CaConfig, mesh: MeshReader) -> Self {
        Self { config, mesh, connection: Mutex::new(None) }
    }

    /// Has the CA sign a new key for `identity`.
    ///
    /// # Errors
    /// A file is missing, or the CA is, or it refuses.
    pub async fn fetch(&self, identity: &SpiffeId) -> Result<Issued, CaError> {
        let channel = self.channel().await?;
        let authorization = self.authorization().await?;
        let csr::Request { csr, key } = csr::Request::new(identity).map_err(CaError::Request)?;
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.config.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonating(identity)),
        });
        *request.metadata_mut() = self.config.headers.clone();
        request.metadata_mut().insert("authorization", authorization);
        let cluster = self.cluster()?;
        let named = cluster.parse().map_err(|_| CaError::ClusterId(cluster.clone()))?;
        request.metadata_mut().insert("clusterid", named);
        let call = IstioCertificateServiceClient::new(channel);
        let answer = tokio::time::timeout(CALL_TIMEOUT, { call }.create_certificate(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
            .map_err(|status| self.classify(identity, cluster, status))?;
        read_answer(identity, &answer.into_inner().cert_chain, key)
    }

    /// Without it, or with another, istiod finds no pod of ours on our node.
    fn cluster(&self) -> Result<ArcStr, CaError> {
        let mesh = self.mesh.load();
        let home = mesh.home().map_err(|unknown| CaError::Home(unknown.clone()))?;
        Ok(home.cluster_id.clone())
    }

    /// The connection for the roots that the file holds now.
    async fn channel(&self) -> Result<Channel, CaError> {
        let hint = "mount the ConfigMap istio-ca-root-cert there, or name the file by --root-cert";
        let root_pem = read(&self.config.root_cert, "the CA's root certificates", hint).await?;
        let mut connection = self.connection.lock();
        if let Some(Connection { root_pem: known, channel }) = &*connection
            && *known == root_pem
        {
            return Ok(channel.clone());
        }
        let channel = self
            .connect(&root_pem)
            .map_err(|source| CaError::Address { address: self.config.address.clone(), source })?;
        *connection = Some(Connection { root_pem, channel: channel.clone() });
        Ok(channel)
    }

    fn connect(&self, root_pem: &[u8]) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root_pem));
        if let Some(name) = &self.config.server_name {
            tls = tls.domain_name(name);
        }
        let endpoint = Endpoint::from_shared(self.config.address.clone())?
            .tls_config(tls)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        Ok(endpoint.connect_lazy())
    }

    async fn authorization(&self) -> Result<MetadataValue<Ascii>, CaError> {
        let hint = "mount a projected service account token with audience istio-ca there, or name \
                    the file by --token";
        let token = Zeroizing::new(read(&self.config.token, "the agent's token", hint).await?);
        let missing = || CaError::Token(self.config.token.clone());
        let text = std::str::from_utf8(&token).map_err(|_| missing())?.trim();
        if text.is_empty() {
            return Err(missing());
        }
        let header = Zeroizing::new(format!("Bearer {text}"));
        let mut value = MetadataValue::try_from(header.as_str()).map_err(|_| missing())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn classify(&self, identity: &SpiffeId, cluster: ArcStr, status: Status) -> CaError {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => CaError::Unauthenticated {
                identity: identity.clone(),
                cluster,
                message: status.message().to_owned(),
            },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => CaError::Unreachable {
                address: self.config.address.clone(),
                source: Box::new(status),
            },
            _ => CaError::Refused { identity: identity.clone(), source: Box::new(status) },
        }
    }
}

async fn read(path: &Path, what: &'static str, hint: &'static str) -> Result<Vec<u8>, CaError> {
    let failed = |source| CaError::File { what, path: path.to_owned(), hint, source };
    tokio::fs::read(path).await.map_err(failed)
}

fn impersonating(identity: &SpiffeId) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: [(IMPERSONATED.to_owned(), value)].into() }
}

/// The last element holds the roots, those before it the chain.
fn read_answer(
    identity: &SpiffeId,
    answer: &[String],
    key: Zeroizing<Vec<u8>>,
) -> Result<Issued, CaError> {
    let wrong = |reason: String| CaError::Answer { identity: identity.clone(), reason };
    let Some((roots, chain)) = answer.split_last().filter(|(_, chain)| !chain.is_empty()) else {
        return Err(wrong(format!("it has {} elements", answer.len())));
    };
    let certificates = |pem: &String| -> Result<Vec<_>, _> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()
    };
    let chain: Result<Vec<_>, _> = chain.iter().map(certificates).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?.concat();
    let roots = certificates(roots).map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() || roots.is_empty() {
        return Err(wrong("an element holds no certificate".to_owned()));
    }
    Ok(Issued { chain, roots, key })
}

#[cfg(test)]
mod tests;
