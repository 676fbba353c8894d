//! The client against a CA over gRPC and TLS, on loopback.

use crate::identify::Revocations;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use sotto_proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use sotto_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::*;
use crate::identify::clock::SystemClock;
use crate::identify::svid::Svid;
use crate::identify::testing::{DAY, TestCa, identity, leaf};
use crate::mesh::{MeshEvent, Store, Workload};

const REVIEWS: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

/// Signs for whoever has the token.
struct Authority {
    ca: Arc<TestCa>,
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        if header("authorization") != Some("Bearer sesame") || header("clusterid") != Some("c1") {
            return Err(Status::unauthenticated("request impersonation authentication failure"));
        }
        let request = request.into_inner();
        assert_eq!(request.validity_duration, 86_400);
        let metadata = request.metadata.unwrap();
        let Some(Kind::StringValue(id)) = metadata.fields[IMPERSONATED].kind.clone() else {
            panic!("the identity is a string");
        };
        let mut csr = CertificateSigningRequestParams::from_pem(&request.csr).unwrap();
        csr.params = leaf(&[&id], SystemTime::now(), DAY);
        let signed = csr.signed_by(&self.ca.issuer).unwrap().pem();
        let cert_chain = vec![signed, self.ca.root_pem.clone()];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Serves with a certificate of `ca`; ends with the test's runtime.
async fn serve(ca: &Arc<TestCa>) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["istiod.istio-system.svc".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "istiod");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    let tls =
        ServerTlsConfig::new().identity(Identity::from_pem(certificate.pem(), key.serialize_pem()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = IstioCertificateServiceServer::new(Authority { ca: Arc::clone(ca) });
    let server = Server::builder().tls_config(tls).unwrap();
    tokio::spawn(server.serve_with_incoming(service, TcpListenerStream::new(listener)));
    address
}

fn client(address: SocketAddr, files: &TempDir) -> CaClient {
    let (mut store, mesh) = Store::new();
    let pod = Workload::pod("c1", "bookinfo", "reviews", "reviews", [10, 0, 0, 1].into()).unwrap();
    store.apply([MeshEvent::Workload(Arc::new(pod))]);
    let config = CaConfig {
        address: format!("https://{address}"),
        server_name: Some("istiod.istio-system.svc".to_owned()),
        root_cert: files.path().join("root-cert.pem"),
        token: files.path().join("istio-token"),
        ttl: DAY,
        headers: MetadataMap::new(),
    };
    CaClient::new(config, mesh)
}

fn files(ca: &TestCa, token: &str) -> TempDir {
    let files = TempDir::new().unwrap();
    std::fs::write(files.path().join("root-cert.pem"), &ca.root_pem).unwrap();
    std::fs::write(files.path().join("istio-token"), token).unwrap();
    files
}

#[tokio::test]
async fn a_certificate_is_issued_and_usable() {
    let ca = Arc::new(TestCa::new());
    let files = files(&ca, "sesame\n");
    let client = client(serve(&ca).await, &files);
    let issued = client.fetch(&identity(REVIEWS)).await.unwrap();
    let svid = Svid::new(&identity(REVIEWS), issued, Arc::new(SystemClock), Revocations::default())
        .unwrap();
    assert_eq!(
        svid.roots()[0].pem.replace(['\r', '\n'], ""),
        ca.root_pem.replace(['\r', '\n'], "")
    );
}

#[tokio::test]
async fn a_refusal_says_what_the_ca_wants() {
    let ca = Arc::new(TestCa::new());
    let files = files(&ca, "wrong");
    let client = client(serve(&ca).await, &files);
    let error = client.fetch(&identity(REVIEWS)).await.unwrap_err().to_string();
    for word in [REVIEWS, "impersonation", "trusted node accounts", "on this node", "\"c1\""] {
        assert!(error.contains(word), "{word} is missing in: {error}");
    }
    // The token is read again at the next call.
    std::fs::write(files.path().join("istio-token"), "sesame").unwrap();
    client.fetch(&identity(REVIEWS)).await.unwrap();
}

#[tokio::test]
async fn missing_files_are_named() {
    let ca = Arc::new(TestCa::new());
    let files = files(&ca, "  ");
    let client = client("127.0.0.1:1".parse().unwrap(), &files);
    let error = client.fetch(&identity(REVIEWS)).await.unwrap_err().to_string();
    assert!(error.contains("istio-token holds no token"), "{error}");
    std::fs::remove_file(files.path().join("istio-token")).unwrap();
    let error = client.fetch(&identity(REVIEWS)).await.unwrap_err().to_string();
    assert!(error.contains("istio-token: mount a projected"), "{error}");
    std::fs::remove_file(files.path().join("root-cert.pem")).unwrap();
    let error = client.fetch(&identity(REVIEWS)).await.unwrap_err().to_string();
    assert!(error.contains("root-cert.pem: mount the ConfigMap"), "{error}");
}

#[tokio::test]
async fn a_ca_away_or_of_another_root_is_unreachable_until_the_root_is_replaced() {
    let (ca, other) = (Arc::new(TestCa::new()), TestCa::new());
    let files = files(&other, "sesame");
    let client = client(serve(&ca).await, &files);
    let error = client.fetch(&identity(REVIEWS)).await.unwrap_err();
    assert!(matches!(error, CaError::Unreachable { .. }), "{error:?}");
    std::fs::write(files.path().join("root-cert.pem"), &ca.root_pem).unwrap();
    client.fetch(&identity(REVIEWS)).await.unwrap();
}

#[test]
fn an_answer_is_a_chain_and_roots() {
    let ca = TestCa::new();
    let read = |answer: &[String]| {
        let answer = read_answer(&identity(REVIEWS), answer, Zeroizing::default());
        answer.map(|issued| (issued.chain.len(), issued.roots.len()))
    };
    let pem = &ca.root_pem;
    let two = format!("{pem}{pem}");
    assert_eq!(read(&[pem.clone(), pem.clone(), two.clone()]).unwrap(), (2, 2));
    assert_eq!(read(&[two, pem.clone()]).unwrap(), (2, 1));
    for bad in [vec![], vec![pem.clone()], vec![pem.clone(), "no".to_owned()]] {
        assert!(matches!(read(&bad), Err(CaError::Answer { .. })), "{bad:?}");
    }
}
