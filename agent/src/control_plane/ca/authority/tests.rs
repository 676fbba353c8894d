use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> Authority {
    Authority::load(&KeptAuthority::generate("cluster.local", now()).unwrap(), now()).unwrap()
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
    let anchor = anchor_from_trusted_cert(&chain[1]).unwrap();
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
fn what_cannot_sign_is_told_apart() {
    let good = || KeptAuthority::generate("cluster.local", now()).unwrap();
    let load = |kept: &KeptAuthority| Authority::load(kept, now()).unwrap_err();
    let other = KeptAuthority { key: good().key, ..good() };
    assert!(matches!(load(&other), AuthorityError::Mismatch));
    for certificate in ["x".to_owned(), String::new()] {
        let broken = KeptAuthority { certificate, ..good() };
        assert!(matches!(load(&broken), AuthorityError::Chain(ChainError::Pem(Part::Signing, _))));
    }
    for key in ["x".to_owned(), good().certificate] {
        let broken = KeptAuthority { key: Zeroizing::new(key), ..good() };
        assert!(matches!(load(&broken), AuthorityError::Key));
    }
    let late = Authority::load(&good(), now() + ROOT_LIFETIME).unwrap_err();
    assert!(matches!(late, AuthorityError::Chain(ChainError::Expired(Part::Signing, _))));
    let key = KeyPair::generate().unwrap();
    let leaf = validity(now(), now() + DAY).unwrap().self_signed(&key).unwrap();
    let leaf = KeptAuthority {
        certificate: leaf.pem(),
        key: Zeroizing::new(key.serialize_pem()),
        ..good()
    };
    assert!(matches!(load(&leaf), AuthorityError::Chain(ChainError::NotAuthority(..))));
}

/// A root, an authority below it with its key, and another root that is trusted too.
fn below(change: impl FnOnce(&mut CertificateParams)) -> (String, KeptAuthority) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = validity(now(), now() + DAY * 30).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let mut params = validity(now(), now() + DAY * 10).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "below");
    change(&mut params);
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let other = KeptAuthority::generate("other", now()).unwrap().certificate;
    let kept = KeptAuthority {
        certificate,
        key: Zeroizing::new(key.serialize_pem()),
        chain: String::new(),
        roots: Some(format!("{other}{root_pem}")),
    };
    (root_pem, kept)
}

#[test]
fn an_intermediate_signs_with_its_chain_and_all_roots_last() {
    let (root, kept) = below(|_| {});
    let authority = Authority::load(&kept, now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let answer = authority.issue(&request(&[], &key), &identity(), DAY * 100, now()).unwrap();
    let [leaf, between, roots] = &answer[..] else { panic!("{} elements", answer.len()) };
    assert_eq!(*between, kept.certificate);
    assert_eq!(roots, authority.bundle_pem());
    assert!(roots.starts_with(&root), "the one that it hangs on comes first");
    assert_eq!(CertificateDer::pem_slice_iter(roots.as_bytes()).count(), 2);
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap();
    assert_eq!(UNIX_EPOCH + Duration::from_secs(end), now() + DAY * 10);
    let serving = authority.serving(&["cp".to_owned()], DAY, now()).unwrap();
    assert_eq!(serving.chain.len(), 2, "agents hold the roots alone");
    assert!((serving.not_before..serving.not_after).contains(&now()));
}

#[test]
fn what_agents_would_refuse_is_refused() {
    let (_, kept) = below(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    let error = Authority::load(&kept, now()).unwrap_err();
    assert!(matches!(error, AuthorityError::Unbelievable(_)), "{error}");
}

#[test]
fn keys_are_read_as_openssl_and_cert_manager_write_them() {
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = validity(now(), now() + DAY * 30).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let load = |key: String| {
            let (key, certificate) = (Zeroizing::new(key), certificate.clone());
            Authority::load(
                &KeptAuthority { certificate, key, chain: String::new(), roots: None },
                now(),
            )
        };
        load(key.serialize_pem()).unwrap();
        for traditional in openssl(&key.serialize_pem()) {
            load(traditional).unwrap();
        }
    }
}

/// The same key in the older form of its kind, and after the parameters that openssl writes first.
fn openssl(pkcs8: &str) -> Vec<String> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new("openssl")
        .args(["pkey", "-traditional"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is needed");
    child.stdin.take().unwrap().write_all(pkcs8.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("RSA PRIVATE KEY") || text.contains("EC PRIVATE KEY"), "{}", &text[..32]);
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    vec![format!("{parameters}{text}"), text]
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
