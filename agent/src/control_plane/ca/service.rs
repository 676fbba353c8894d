//! `CreateCertificate`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost_types::{Struct, value};
use sotto_proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use sotto_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::{Admission, Authority, AuthorityError, Refusal};
use crate::control_plane::caller::{Authenticate, Caller, authenticate};
use crate::control_plane::gate::Ticket;
use crate::control_plane::metrics::Metrics;
use crate::control_plane::snapshot::Snapshot;
use crate::mesh::SpiffeId;

/// How long a request waits for a pod that we have not heard of.
const POD_WAIT: Duration = Duration::from_secs(3);

/// The largest request: a key and some names. It is read before it is known who sends it.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// Answers certificate requests.
#[derive(Debug)]
pub struct Ca<A> {
    config: CaConfig<A>,
}

/// What [`Ca`] is made of.
#[derive(Debug)]
pub struct CaConfig<A> {
    /// Tells who calls.
    pub authenticator: Arc<A>,
    /// Who may have what.
    pub admission: Admission,
    /// Signs, as of now.
    pub authority: watch::Receiver<Arc<Authority>>,
    /// The cluster whose nodes may ask.
    pub cluster_id: String,
    /// The pods there are.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// A certificate's lifetime when the request names none.
    pub default_lifetime: Duration,
    /// Requests for more get this.
    pub max_lifetime: Duration,
    /// Counts.
    pub metrics: Metrics,
}

impl<A: Authenticate> Ca<A> {
    /// The gRPC service.
    pub fn service(config: CaConfig<A>) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(Self { config })
            .max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Judges a request, again with each snapshot for a while if that may help.
    async fn admit(&self, caller: &Caller, asked: Option<&str>) -> Result<SpiffeId, Refusal> {
        let mut snapshots = self.config.snapshots.clone();
        let deadline = Instant::now() + POD_WAIT;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let refusal = match self.config.admission.judge(caller, asked, &snapshot) {
                Ok(identity) => return Ok(identity),
                Err(refusal) => refusal,
            };
            let changed = async { refusal.may_pass() && snapshots.changed().await.is_ok() };
            if !timeout_at(deadline, changed).await.unwrap_or(false) {
                return Err(refusal);
            }
        }
    }

    fn lifetime(&self, seconds: i64) -> Result<Duration, Status> {
        let CaConfig { default_lifetime, max_lifetime, .. } = &self.config;
        let asked = match u64::try_from(seconds) {
            Ok(0) => return Ok((*default_lifetime).min(*max_lifetime)),
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => return Err(Status::invalid_argument("validity_duration is negative")),
        };
        Ok(asked.min(*max_lifetime))
    }

    async fn create(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Status> {
        let CaConfig { authenticator, cluster_id, .. } = &self.config;
        let ticket = Ticket::of(request.extensions());
        let call = (request.metadata(), ticket.as_deref());
        let caller = authenticate(&**authenticator, call, cluster_id).await?;
        if let Some(ticket) = &ticket {
            if self.config.admission.is_node(&caller) {
                ticket.prove();
            } else if !ticket.spend() {
                return Err(Status::resource_exhausted("too many requests of one address"));
            }
        }
        let request = request.into_inner();
        let asked = impersonated(request.metadata.as_ref());
        let account = &caller.account;
        let identity = self.admit(&caller, asked.as_deref()).await.map_err(|refusal| {
            tracing::warn!(%account, asked, %refusal, "certificate refused");
            Status::unauthenticated("request impersonation authentication failure")
        })?;
        let lifetime = self.lifetime(request.validity_duration).inspect_err(|status| {
            tracing::warn!(%account, %identity, reason = status.message(), "certificate refused");
        })?;
        let authority = self.config.authority.borrow().clone();
        let chain = authority
            .issue(&request.csr, &identity, lifetime, SystemTime::now())
            .map_err(|error| refuse(&caller, &identity, &error))?;
        tracing::info!(%account, %identity, lifetime = ?lifetime, "certificate issued");
        Ok(IstioCertificateResponse { cert_chain: chain })
    }
}

#[tonic::async_trait]
impl<A: Authenticate> IstioCertificateService for Ca<A> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let result = self.create(request).await;
        match &result {
            Ok(_) => self.config.metrics.issued.inc(),
            Err(_) => self.config.metrics.refused.inc(),
        };
        result.map(Response::new)
    }
}

fn refuse(caller: &Caller, identity: &SpiffeId, error: &AuthorityError) -> Status {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(account = %caller.account, %identity, %error, source, "certificate refused");
    match error {
        AuthorityError::Request(_)
        | AuthorityError::RequestKey
        | AuthorityError::RequestName { .. } => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

fn impersonated(metadata: Option<&Struct>) -> Option<String> {
    match &metadata?.fields.get("ImpersonatedIdentity")?.kind {
        Some(value::Kind::StringValue(identity)) => Some(identity.clone()),
        // Present, but not an identity: it must not count as absent.
        _ => Some(String::new()),
    }
}
