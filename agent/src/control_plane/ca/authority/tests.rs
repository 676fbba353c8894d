use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> Authority {
    Authority::load(&RootPem::generate("cluster.local", now()).unwrap(), now()).unwrap()
}

fn identity() -> SpiffeId {
    SpiffeId::new("cluster.local", "bookinfo", "details").unwrap()
}

fn request(names: &[SanType], key: &KeyPair) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn issue(authority: &Authority, lifetime: Duration) -> Vec<CertificateDer<'static>> {
    let key = KeyPair::generate().unwrap();
    let request = request(&[uri(&identity().to_string())], &key);
    let chain = authority.issue(&request, &identity(), lifetime, now()).unwrap();
    chain.iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect()
}

#[test]
fn leaf_is_what_the_mesh_expects() {
    let chain = issue(&authority(), DAY);
    assert_eq!(chain.len(), 2);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI(&identity().to_string())]);
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let lived = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(u64::try_from(lived).unwrap(), (DAY + CLOCK_SKEW).as_secs());
}

#[test]
fn chain_is_trusted_by_the_root_for_both_sides() {
    let chain = issue(&authority(), DAY);
    let anchor = webpki::anchor_from_trusted_cert(&chain[1]).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    let at = UnixTime::since_unix_epoch(now().duration_since(UNIX_EPOCH).unwrap());
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &[],
            at,
            usage,
            None,
            None,
        )
        .unwrap();
    }
}

#[test]
fn serial_numbers_differ() {
    let authority = authority();
    let serial = || {
        let chain = issue(&authority, DAY);
        X509Certificate::from_der(&chain[0]).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn nothing_outlives_the_root() {
    let authority = authority();
    let chain = issue(&authority, ROOT_LIFETIME * 2);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let end = authority.expires().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(u64::try_from(leaf.validity().not_after.timestamp()).unwrap(), end);
    let late = authority.expires() + DAY;
    let request = request(&[], &KeyPair::generate().unwrap());
    let error = authority.issue(&request, &identity(), DAY, late).unwrap_err();
    assert!(matches!(error, AuthorityError::Expired));
}

/// A request that is refused.
#[track_caller]
fn check_refused(request: &str, expected: &str) {
    let error = authority().issue(request, &identity(), DAY, now()).unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[test]
fn request_must_be_whole_and_signed_by_its_key() {
    check_refused("nonsense", "certificate request is malformed or wrongly signed");
    let good = request(&[], &KeyPair::generate().unwrap());
    let mut der = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap().1.contents;
    // The last byte of the signature.
    *der.last_mut().unwrap() ^= 1;
    let bad = {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    check_refused(&bad, "certificate request is malformed or wrongly signed");
}

#[test]
fn request_s_key_must_be_p256() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        check_refused(&request(&[], &key), "certificate request's key is not ECDSA P-256");
    }
}

#[test]
fn request_must_not_name_anybody_else() {
    let key = KeyPair::generate().unwrap();
    let other = "spiffe://cluster.local/ns/bookinfo/sa/reviews";
    let expected = format!("certificate request names {other}, not {}", identity());
    check_refused(&request(&[uri(&identity().to_string()), uri(other)], &key), &expected);
    let dns = SanType::DnsName("details".try_into().unwrap());
    let error = authority().issue(&request(&[dns], &key), &identity(), DAY, now()).unwrap_err();
    assert!(matches!(error, AuthorityError::RequestName { .. }));
}

#[test]
fn request_without_a_name_is_fine() {
    let request = request(&[], &KeyPair::generate().unwrap());
    authority().issue(&request, &identity(), DAY, now()).unwrap();
}

#[test]
fn corrupt_roots_are_told_apart() {
    let good = || RootPem::generate("cluster.local", now()).unwrap();
    let load = |root: &RootPem| Authority::load(root, now()).unwrap_err();
    let other = RootPem { key: good().key, ..good() };
    assert!(matches!(load(&other), AuthorityError::Mismatch));
    let broken = RootPem { certificate: "x".to_owned(), ..good() };
    assert!(matches!(load(&broken), AuthorityError::RootCertificate(_)));
    let broken = RootPem { key: Zeroizing::new("x".to_owned()), ..good() };
    assert!(matches!(load(&broken), AuthorityError::RootKey(_)));
    let late = now() + ROOT_LIFETIME;
    assert!(matches!(Authority::load(&good(), late).unwrap_err(), AuthorityError::Expired));
    let key = KeyPair::generate().unwrap();
    let leaf = validity(now(), now() + DAY).unwrap().self_signed(&key).unwrap();
    let leaf = RootPem { certificate: leaf.pem(), key: Zeroizing::new(key.serialize_pem()) };
    assert!(matches!(load(&leaf), AuthorityError::NotAuthority));
}

#[test]
fn serving_certificate_bears_its_names() {
    let names = ["istiod.istio-system.svc".to_owned()];
    let made = authority().serving(&names, DAY, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&made.chain[0]).unwrap();
    let found = leaf.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(found.general_names, [GeneralName::DNSName("istiod.istio-system.svc")]);
    let bad = authority().serving(&["käse".to_owned()], DAY, now()).unwrap_err();
    assert!(matches!(bad, AuthorityError::Name(_)));
}
