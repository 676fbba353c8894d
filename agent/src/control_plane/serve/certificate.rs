//! The certificate of our own listener: of what signs now, renewed at half of its life by the wall clock, which goes on
//! while a machine sleeps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::time::sleep;

use super::ServeError;
use crate::control_plane::ca::Authority;
use crate::control_plane::ends::Ends;
use crate::error::chain;
use crate::sys::Shutdown;

/// How long it lives; it is renewed at half of that.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether it must be renewed.
const LOOK: Duration = Duration::from_secs(60);

/// Tells the time of day.
pub trait Clock: Fn() -> SystemTime + Send + Sync + 'static {}

impl<C: Fn() -> SystemTime + Send + Sync + 'static> Clock for C {}

/// TLS with a certificate for the given names, renewed by a task of `shutdown`; its end is told.
///
/// # Errors
/// The first certificate cannot be made.
pub fn tls(
    mut authority: watch::Receiver<Arc<Authority>>,
    (names, ends): (Vec<String>, Ends),
    clock: impl Clock,
    shutdown: &Shutdown,
) -> Result<Arc<ServerConfig>, ServeError> {
    let first = Certified::new(&authority.borrow_and_update(), &names, clock())?;
    ends.serving(first.until);
    let current = Arc::new(Current(ArcSwap::from_pointee(first)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ServeError::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(current.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stop = shutdown.token.clone();
    shutdown.spawn(async move {
        stop.run_until_cancelled(current.renew(authority, (names, ends), clock)).await;
    });
    Ok(Arc::new(config))
}

/// The one in use.
#[derive(Debug)]
struct Current(ArcSwap<Certified>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

impl Current {
    async fn renew(
        &self,
        mut authority: watch::Receiver<Arc<Authority>>,
        (names, ends): (Vec<String>, Ends),
        clock: impl Clock,
    ) {
        loop {
            let replaced = tokio::select! {
                // Cancel-safe. Nobody replaces it any more at the end.
                Ok(()) = authority.changed() => true,
                () = sleep(LOOK) => false,
            };
            if !replaced && !self.0.load().is_due(clock()) {
                continue;
            }
            let now = authority.borrow_and_update().clone();
            match Certified::new(&now, &names, clock()) {
                Ok(certified) => {
                    ends.serving(certified.until);
                    self.0.store(Arc::new(certified));
                    tracing::info!("serving certificate renewed");
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "serving certificate not renewed");
                }
            }
        }
    }
}

/// A certificate with its key, and when it can be used.
#[derive(Debug)]
struct Certified {
    key: Arc<CertifiedKey>,
    from: SystemTime,
    until: SystemTime,
}

impl Certified {
    fn new(authority: &Authority, names: &[String], now: SystemTime) -> Result<Self, ServeError> {
        let made = authority.serving(names, LIFETIME, now).map_err(ServeError::Certificate)?;
        let key = aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::from(made.key));
        let key = CertifiedKey::new(made.chain, key.map_err(ServeError::Tls)?);
        Ok(Self { key: Arc::new(key), from: made.not_before, until: made.not_after })
    }

    /// Half of its life is over; or the clock was set back to before it.
    fn is_due(&self, now: SystemTime) -> bool {
        let life = self.until.duration_since(self.from).unwrap_or_default();
        now < self.from || now >= self.from + life / 2
    }
}

#[cfg(test)]
mod tests;
