use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

use super::*;
use crate::control_plane::ca::KeptAuthority;

const HOUR: Duration = Duration::from_secs(3600);

/// A wall clock that tests set, and a listener's certificate by it.
struct Served {
    wall: Arc<Mutex<SystemTime>>,
    held: watch::Sender<Arc<Authority>>,
    ends: Ends,
    shutdown: Shutdown,
    config: Arc<ServerConfig>,
}

fn authority(now: SystemTime) -> Arc<Authority> {
    let kept = KeptAuthority::generate("cluster.local", now).unwrap();
    Arc::new(Authority::load(&kept, now).unwrap())
}

fn start() -> Served {
    let wall = Arc::new(Mutex::new(SystemTime::now()));
    let (held, receiver) = watch::channel(authority(*wall.lock()));
    let (ends, shutdown, of_clock) = (Ends::default(), Shutdown::new(), wall.clone());
    let clock = move || *of_clock.lock();
    let names = vec!["istiod.istio-system.svc".to_owned()];
    let config = tls(receiver, (names, ends.clone()), clock, &shutdown).unwrap();
    Served { wall, held, ends, shutdown, config }
}

impl Served {
    /// What the next client is shown.
    async fn shown(&self) -> Vec<CertificateDer<'static>> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        shake(self.config.clone(), seen.clone()).await;
        std::mem::take(&mut *seen.lock())
    }

    fn set_clock(&self, by: impl Fn(SystemTime) -> SystemTime) {
        let mut wall = self.wall.lock();
        *wall = by(*wall);
    }
}

/// Takes any certificate, and keeps it.
#[derive(Debug)]
struct Looks(Arc<Mutex<Vec<CertificateDer<'static>>>>);

impl rustls::client::danger::ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(leaf).chain(rest).map(|one| one.clone().into_owned());
        *self.0.lock() = shown.collect();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn shake(config: Arc<ServerConfig>, seen: Arc<Mutex<Vec<CertificateDer<'static>>>>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider);
    let client = client.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let client = client.dangerous().with_custom_certificate_verifier(Arc::new(Looks(seen)));
    let client = Arc::new(client.with_no_client_auth());
    let name = "istiod.istio-system.svc".try_into().unwrap();
    let connect = tokio_rustls::TlsConnector::from(client).connect(name, near);
    let accept = tokio_rustls::TlsAcceptor::from(config).accept(far);
    let (connected, accepted) = tokio::join!(connect, accept);
    connected.unwrap();
    accepted.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_renews_soon_after_it_wakes() {
    let served = start();
    let first = served.shown().await;
    sleep(HOUR).await;
    assert_eq!(served.shown().await, first, "nothing is due");
    // The monotonic clock stood still meanwhile.
    served.set_clock(|wall| wall + HOUR * 13);
    sleep(Duration::from_secs(120)).await;
    assert_ne!(served.shown().await, first);
    served.shutdown.token.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_back_gets_a_certificate_that_is_valid() {
    let served = start();
    let first = served.shown().await;
    served.set_clock(|wall| wall - HOUR);
    sleep(Duration::from_secs(120)).await;
    let second = served.shown().await;
    assert_ne!(second, first);
    sleep(HOUR).await;
    assert_eq!(served.shown().await, second, "not again and again");
    served.shutdown.token.cancel();
}

#[tokio::test(start_paused = true)]
async fn another_authority_signs_at_once() {
    let served = start();
    let first = served.shown().await;
    served.held.send_replace(authority(SystemTime::now()));
    sleep(Duration::from_millis(1)).await;
    assert_ne!(served.shown().await, first);
    served.ends.serving(SystemTime::now());
    served.shutdown.token.cancel();
}
