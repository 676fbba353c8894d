use std::io::Write as _;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use tempfile::NamedTempFile;

use super::*;
use crate::error::chain;
use crate::identify::clock::unix_time;
use crate::identify::testing::{DAY, leaf};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A root that may sign lists, and what it has signed.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { issuer: Issuer::new(params, key), roots }
    }

    fn certify(&self, serial: u64) -> CertificateDer<'static> {
        let mut params = leaf(&[ID], SystemTime::now(), DAY);
        params.serial_number = Some(SerialNumber::from(serial));
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    /// An authority below, with its certificate.
    fn below(&self, serial: u64) -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name.push(DnType::OrganizationName, "below");
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (Issuer::new(params, key), certificate)
    }

    /// A list of these serial numbers, valid for `life`.
    fn revoke(&self, serials: &[u64], life: Duration) -> rcgen::CertificateRevocationList {
        let start = SystemTime::now() - 2 * DAY;
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: start.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: start.into(),
            next_update: (start + life).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
    }
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(bytes: &[u8]) -> Result<Revocations, RevocationError> {
    Revocations::read(vec![file(bytes).path().to_owned()])
}

fn check(
    revocations: &Revocations,
    ca: &Ca,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let now = unix_time(SystemTime::now());
    let each = [PeerEnd::Server, PeerEnd::Client]
        .map(|end| revocations.check((leaf, intermediates), &ca.roots, end, now));
    assert_eq!(each[0], each[1], "both ends judge alike");
    each[0].clone()
}

const REVOKED: Result<(), Error> = Err(Error::InvalidCertificate(CertificateError::Revoked));

#[test]
fn what_is_on_a_list_is_revoked_in_pem_and_der() {
    let ca = Ca::new();
    let (good, bad) = (ca.certify(1), ca.certify(2));
    let list = ca.revoke(&[2, 3], 30 * DAY);
    for bytes in [list.pem().unwrap().into_bytes(), list.der().to_vec()] {
        let revocations = read(&bytes).unwrap();
        assert_eq!(revocations.count(), 1);
        assert_eq!(check(&revocations, &ca, &good, &[]), Ok(()));
        assert_eq!(check(&revocations, &ca, &bad, &[]), REVOKED);
        assert_eq!(check(&revocations.uncounted(), &ca, &bad, &[]), REVOKED);
        let rejected = [PeerEnd::Server, PeerEnd::Client].map(|end| revocations.rejected(end));
        assert_eq!(rejected, [1, 1]);
    }
}

#[test]
fn a_revoked_authority_takes_what_it_signed_with_it() {
    let ca = Ca::new();
    let (below, authority) = ca.below(7);
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(&[ID], SystemTime::now(), DAY).signed_by(&key, &below).unwrap().der().clone();
    let others = read(ca.revoke(&[8], 30 * DAY).der()).unwrap();
    assert_eq!(check(&others, &ca, &leaf, std::slice::from_ref(&authority)), Ok(()));
    let its = read(ca.revoke(&[7], 30 * DAY).der()).unwrap();
    assert_eq!(check(&its, &ca, &leaf, &[authority]), REVOKED);
}

#[test]
fn several_lists_and_files_count_and_other_issuers_of_the_same_name_do_not() {
    let (ca, other) = (Ca::new(), Ca::new());
    let bad = ca.certify(2);
    let both =
        other.revoke(&[2], 30 * DAY).pem().unwrap() + &ca.revoke(&[9], 30 * DAY).pem().unwrap();
    assert_eq!(check(&read(both.as_bytes()).unwrap(), &ca, &bad, &[]), Ok(()));
    let files = [file(both.as_bytes()), file(ca.revoke(&[2], 30 * DAY).der())];
    let paths = files.iter().map(|file| file.path().to_owned()).collect();
    let revocations = Revocations::read(paths).unwrap();
    assert_eq!(revocations.count(), 3);
    assert_eq!(check(&revocations, &ca, &bad, &[]), REVOKED);
}

#[test]
fn a_list_beyond_its_time_still_counts() {
    let ca = Ca::new();
    let revocations = read(ca.revoke(&[2], DAY).der()).unwrap();
    assert_eq!(check(&revocations, &ca, &ca.certify(2), &[]), REVOKED);
}

#[test]
fn nothing_is_revoked_by_an_empty_file_or_none() {
    let ca = Ca::new();
    let leaf = ca.certify(1);
    for revocations in [Revocations::default(), read(b"\n").unwrap(), read(b"").unwrap()] {
        assert_eq!(revocations.count(), 0);
        assert_eq!(check(&revocations, &ca, &leaf, &[]), Ok(()));
    }
}

#[test]
fn a_file_that_is_no_list_is_told() {
    let told = |bytes: &[u8]| chain(&read(bytes).unwrap_err());
    assert!(told(b"hello").contains("holds no certificate revocation list"), "{}", told(b"hello"));
    told(&[0x30, 0x03, 1, 2, 3]);
    told(b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    told(b"-----BEGIN X509 CRL-----\nAAAA\n");
    let missing = Revocations::read(vec!["/nowhere/crl.pem".into()]).unwrap_err();
    assert!(chain(&missing).contains("/nowhere/crl.pem"), "{missing}");
}

#[tokio::test]
async fn a_file_that_changes_is_read_again_and_one_that_breaks_leaves_what_it_said() {
    let ca = Ca::new();
    let bad = ca.certify(2);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crl.pem");
    // As a ConfigMap's files are replaced: by a rename.
    let put = |bytes: &[u8]| {
        let new = directory.path().join("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    put(b"");
    let revocations = Revocations::read(vec![path.clone()]).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(revocations.clone().follow(stop.clone()));
    let until = async |what: &str, met: &dyn Fn() -> bool| {
        for _ in 0..1000 {
            if met() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    };
    put(ca.revoke(&[2], 30 * DAY).pem().unwrap().as_bytes());
    until("revoked", &|| check(&revocations, &ca, &bad, &[]) == REVOKED).await;
    let generation = revocations.generation();
    put(b"garbage");
    until("told", &|| revocations.is_failing()).await;
    assert_eq!(check(&revocations, &ca, &bad, &[]), REVOKED);
    std::fs::remove_file(&path).unwrap();
    put(b"");
    until("taken back", &|| check(&revocations, &ca, &bad, &[]).is_ok()).await;
    assert!(!revocations.is_failing() && revocations.generation() > generation);
    stop.cancel();
}

proptest::proptest! {
    /// Whatever the file holds.
    #[test]
    fn no_file_makes_us_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        drop(parse(&bytes));
        drop(parse(&[&[0x30, 0x82][..], &bytes].concat()));
        drop(parse(&[&b"-----BEGIN X509 CRL-----\n"[..], &bytes].concat()));
    }
}
