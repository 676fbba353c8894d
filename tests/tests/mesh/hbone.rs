//! A peer that speaks HBONE, or badly, from wherever it is put.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use k8s_openapi::api::core::v1::Secret;
use kit::cluster::{Cluster, SYSTEM};
use kit::netns;
use kube::Api;
use rcgen::{CertificateParams, DistinguishedName, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const HBONE: u16 = 15008;
/// No answer of an agent takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who signs a peer's certificate.
pub(crate) struct Root {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate; empty if nobody is to believe it.
    pem: String,
}

impl Root {
    /// The mesh's own.
    pub(crate) async fn of_mesh(cluster: &Cluster) -> Self {
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), SYSTEM);
        let data = secrets.get("sotto-ca-secret").await.unwrap().data.unwrap();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
        let key = KeyPair::from_pem(&text("ca-key.pem")).unwrap();
        let pem = text("ca-cert.pem");
        Self { issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(), pem }
    }

    /// Nobody's.
    pub(crate) fn unknown() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        Self { issuer, pem: String::new() }
    }

    /// What a peer with this SPIFFE URI shows.
    pub(crate) fn identify(&self, uri: &str) -> ClientConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder().with_client_auth_cert(vec![leaf.der().clone()], key);
        tunnel(config.unwrap())
    }

    /// Writes what a proxy with this SPIFFE URI shows, and whom it believes: `cert.pem`, `key.pem`, `root.pem`.
    pub(crate) fn write(&self, dir: &std::path::Path, uri: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let files = [("cert.pem", leaf.pem()), ("key.pem", key.serialize_pem())];
        for (name, text) in
            files.iter().map(|(name, text)| (*name, text)).chain([("root.pem", &self.pem)])
        {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    /// What a server of this name shows.
    pub(crate) fn server(&self, name: &str) -> tonic::transport::Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        tonic::transport::Identity::from_pem(leaf.pem(), key.serialize_pem())
    }
}

/// A peer without a certificate.
pub(crate) fn anonymous() -> ClientConfig {
    tunnel(builder().with_no_client_auth())
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let taking = Arc::new(AnyServer(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    builder.dangerous().with_custom_certificate_verifier(taking)
}

fn tunnel(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config
}

/// A TCP connection from inside a network namespace.
pub(crate) async fn dial(netns: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let netns = netns.to_owned();
    let open =
        move || netns::within(&netns, || std::net::TcpStream::connect_timeout(&to, PATIENCE));
    let stream = tokio::task::spawn_blocking(open).await.unwrap().unwrap()?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// TLS to the HBONE port of a pod.
pub(crate) async fn secure(
    netns: &str,
    pod: IpAddr,
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = dial(netns, SocketAddr::new(pod, HBONE)).await?;
    let name = ServerName::IpAddress(pod.into());
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A tunnel to a pod.
pub(crate) struct Tunnel(SendRequest<Bytes>);

impl Tunnel {
    pub(crate) async fn open(netns: &str, pod: IpAddr, config: ClientConfig) -> Self {
        let tls = secure(netns, pod, config).await.unwrap();
        let (send, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(async move {
            let ended = connection.await;
            tracing::debug!(?ended, "tunnel");
        });
        Self(send)
    }

    /// The status that answers a request.
    pub(crate) async fn status(&self, method: Method, uri: &str) -> StatusCode {
        self.stream(method, uri).await.2
    }

    /// The status that answers a CONNECT.
    pub(crate) async fn connect(&self, authority: &str) -> StatusCode {
        self.status(Method::CONNECT, authority).await
    }

    /// Both ends of a stream, and the status that answered.
    pub(crate) async fn stream(
        &self,
        method: Method,
        uri: &str,
    ) -> (SendStream<Bytes>, RecvStream, StatusCode) {
        let answer = async {
            let mut send = self.0.clone().ready().await.unwrap();
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let (answer, body) = send.send_request(request, false).unwrap();
            let (head, received) = answer.await.unwrap().into_parts();
            (body, received, head.status)
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap()
    }

    /// Waits until the peer says that it takes no new streams.
    pub(crate) async fn goaway(&self) -> h2::Error {
        let told = async {
            loop {
                match self.0.clone().ready().await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(error) => return error,
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap()
    }
}

/// One byte there and back in a stream.
pub(crate) async fn echo(send: &mut SendStream<Bytes>, receive: &mut RecvStream) {
    send.send_data(Bytes::from_static(b"?"), false).unwrap();
    let answer = tokio::time::timeout(PATIENCE, receive.data()).await.unwrap().unwrap().unwrap();
    assert_eq!(&answer[..], b"?");
    receive.flow_control().release_capacity(answer.len()).unwrap();
}

/// Takes any server: this peer is the one that is judged.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(String::from("only TLS 1.3")))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
