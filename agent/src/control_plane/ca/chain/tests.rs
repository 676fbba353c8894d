use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// An authority that tests make others below of.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn params(name: &str, (from, until): (SystemTime, SystemTime)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (from.into(), until.into());
    params
}

/// From yesterday on, for so many days.
fn days(days: u32) -> (SystemTime, SystemTime) {
    (now() - DAY, now() + DAY * days)
}

impl Ca {
    fn root(name: &str) -> Self {
        Self::root_of(params(name, days(100)))
    }

    fn root_of(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn below(&self, name: &str) -> Self {
        self.below_of(params(name, days(50)))
    }

    fn below_of(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

fn chain(signing: &Ca, between: &[&Ca], roots: &[&Ca]) -> Result<Chain, ChainError> {
    let all = |cas: &[&Ca]| cas.iter().map(|ca| ca.pem.as_str()).collect::<String>();
    Chain::new(&signing.pem, &all(between), Some(&all(roots)), now())
}

/// Subjects of what stands between, and of what is trusted.
#[track_caller]
fn check(chain: Result<Chain, ChainError>, between: &[&str], trusted: &[&str]) {
    let chain = chain.unwrap();
    let names = |links: &[Link]| -> Vec<_> {
        links.iter().map(|link| link.subject()[3..].to_owned()).collect()
    };
    assert_eq!(
        (names(chain.intermediates()), names(chain.roots())),
        (
            between.iter().map(ToString::to_string).collect(),
            trusted.iter().map(ToString::to_string).collect(),
        )
    );
}

#[track_caller]
fn check_refused(chain: Result<Chain, ChainError>, expected: &str) {
    assert_eq!(crate::error::chain(&chain.unwrap_err()), expected);
}

#[test]
fn a_root_that_signs_is_trusted_without_being_named_and_no_intermediate() {
    let root = Ca::root("a");
    check(Chain::new(&root.pem, "", None, now()), &[], &["a"]);
    check(chain(&root, &[], &[&root]), &[], &["a"]);
    // Istio's instructions name the signing certificate again.
    check(chain(&root, &[&root], &[&root]), &[], &["a"]);
}

#[test]
fn the_root_that_signs_is_told_first_and_each_once() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    check(chain(&old, &[], &[&new, &old, &new]), &[], &["old", "new"]);
    check(chain(&new, &[], &[&old, &new]), &[], &["new", "old"]);
    let below = new.below("below");
    check(chain(&below, &[], &[&old, &new]), &["below"], &["new", "old"]);
}

#[test]
fn what_stands_between_is_put_in_order_whatever_else_is_there() {
    let root = Ca::root("root");
    let upper = root.below("upper");
    let (lower, other) = (upper.below("lower"), root.below("other"));
    check(
        chain(&lower, &[&other, &upper, &lower, &root], &[&root]),
        &["lower", "upper"],
        &["root"],
    );
    // As cert-manager has it: all in one.
    let all = format!("{}{}", lower.pem, upper.pem);
    check(Chain::new(&all, "", Some(&root.pem), now()), &["lower", "upper"], &["root"]);
}

#[test]
fn what_leads_to_no_trusted_root_is_refused() {
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let none = "the signing certificate leads to no trusted root: no certificate of \"CN=root\"";
    check_refused(chain(&root, &[], &[&other]), none);
    check_refused(chain(&root.below("below"), &[], &[&other]), none);
    // Of the same name, and not the one that has signed.
    check_refused(chain(&root.below("below"), &[], &[&Ca::root("root")]), none);
    let upper = root.below("upper");
    check_refused(
        chain(&upper.below("lower"), &[], &[&root]),
        "the signing certificate leads to no trusted root: no certificate of \"CN=upper\"",
    );
}

#[test]
fn every_link_must_hold_now() {
    let (late, early) = ((now() - DAY * 2, now() - DAY), (now() + DAY, now() + DAY * 2));
    let root = Ca::root("root");
    for (validity, word) in
        [(late, "has expired"), (early, "is not valid yet, by this machine's clock")]
    {
        let bad = root.below_of(params("bad", validity));
        check_refused(
            chain(&bad, &[], &[&root]),
            &format!("the signing certificate {word}: CN=bad"),
        );
        check_refused(
            chain(&bad.below("below"), &[&bad], &[&root]),
            &format!("the intermediate certificates {word}: CN=bad"),
        );
        let bad = Ca::root_of(params("bad", validity));
        check_refused(
            chain(&bad.below("below"), &[], &[&bad]),
            &format!("the trusted roots {word}: CN=bad"),
        );
        // One that nothing hangs on does not keep the others from working.
        check(chain(&root, &[], &[&bad, &root]), &[], &["root", "bad"]);
    }
}

#[test]
fn everything_ends_with_the_first_that_ends() {
    let root = Ca::root_of(params("root", days(30)));
    let upper = root.below_of(params("upper", days(10)));
    let lower = upper.below_of(params("lower", days(20)));
    assert_eq!(chain(&lower, &[&upper], &[&root]).unwrap().expires(), now() + DAY * 10);
    let long = root.below_of(params("long", days(40)));
    assert_eq!(chain(&long, &[], &[&root]).unwrap().expires(), now() + DAY * 30);
}

#[test]
fn bounds_of_a_path_count_the_authorities_below() {
    let bounded = |name, most| {
        let mut params = params(name, days(50));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(most));
        params
    };
    let root = Ca::root_of(bounded("root", 1));
    let upper = root.below_of(bounded("upper", 0));
    check(chain(&upper, &[], &[&root]), &["upper"], &["root"]);
    let lower = upper.below("lower");
    check_refused(
        chain(&lower, &[&upper], &[&root]),
        "\"CN=upper\" allows 0 authorities below it, and has 1",
    );
    let root = Ca::root_of(bounded("root", 0));
    check(chain(&root, &[], &[&root]), &[], &["root"]);
    check_refused(
        chain(&root.below("below"), &[], &[&root]),
        "\"CN=root\" allows 0 authorities below it, and has 1",
    );
}

#[test]
fn only_authorities_are_links() {
    let root = Ca::root("root");
    let mut leaf = params("leaf", days(50));
    leaf.is_ca = IsCa::ExplicitNoCa;
    let leaf = root.below_of(leaf);
    let word = "is not an authority's certificate (CA:TRUE, keyCertSign): CN=";
    check_refused(chain(&leaf, &[], &[&root]), &format!("the signing certificate {word}leaf"));
    check_refused(chain(&root, &[], &[&root, &leaf]), &format!("the trusted roots {word}leaf"));
    let mut unusual = params("crl", days(50));
    unusual.key_usages = vec![KeyUsagePurpose::CrlSign];
    let unusual = Ca::root_of(unusual);
    check_refused(chain(&unusual, &[], &[&unusual]), &format!("the signing certificate {word}crl"));
}

#[test]
fn a_private_key_among_what_is_published_is_refused() {
    let root = Ca::root("root");
    let key = KeyPair::generate().unwrap().serialize_pem();
    let with_key = format!("{}{key}", root.pem);
    let refused =
        |part| format!("{part} holds a private key, and must hold nothing but certificates");
    for (signing, between, roots, part) in [
        (&with_key, "", &root.pem, "the signing certificate"),
        (&root.pem, with_key.as_str(), &root.pem, "the intermediate certificates"),
        (&root.pem, "", &with_key, "the trusted roots"),
    ] {
        check_refused(Chain::new(signing, between, Some(roots), now()), &refused(part));
    }
}

#[test]
fn text_around_certificates_is_not_kept_and_what_is_none_is_told() {
    let root = Ca::root("root");
    let commented = format!("# the root\r\n{}\n# end\n", root.pem);
    let read = Chain::new(&commented, "\n", Some(&commented), now()).unwrap();
    assert_eq!(read, chain(&root, &[], &[&root]).unwrap());
    assert_eq!(read.roots()[0].pem(), root.pem);
    for bad in ["", "x"] {
        let error = Chain::new(&root.pem, "", Some(bad), now()).unwrap_err();
        assert_eq!(error, ChainError::Pem(Part::Root, PemError::Empty));
    }
    let cut = root.pem.replace("-----END", "----END");
    let error = Chain::new(&cut, "", None, now()).unwrap_err();
    assert!(matches!(error, ChainError::Pem(Part::Signing, _)), "{error}");
    let nonsense = pem::encode(b"nonsense");
    let error = Chain::new(&nonsense, "", None, now()).unwrap_err();
    assert!(matches!(error, ChainError::Malformed(Part::Signing, _)), "{error}");
}

#[test]
fn there_are_only_so_many() {
    let root = Ca::root("root");
    let many = root.pem.repeat(MAX_ROOTS + 1);
    let error = Chain::new(&root.pem, "", Some(&many), now()).unwrap_err();
    assert!(matches!(error, ChainError::TooMany(Part::Root, 33, 32)), "{error}");
    let error = Chain::new(&root.pem, &many, Some(&root.pem), now()).unwrap_err();
    assert!(matches!(error, ChainError::TooMany(Part::Intermediate, 33, 8)), "{error}");
}

#[test]
fn of_two_certificates_of_one_key_the_longer_lived_counts() {
    let key = KeyPair::generate().unwrap();
    let again = |validity| params("root", validity).self_signed(&key).unwrap().pem();
    let (short, long) = (again(days(10)), again(days(90)));
    let issuer = Issuer::new(params("root", days(90)), &key);
    let below =
        params("below", days(50)).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    for roots in [format!("{short}{long}"), format!("{long}{short}")] {
        let chain = Chain::new(&below.pem(), "", Some(&roots), now()).unwrap();
        assert_eq!(chain.expires(), now() + DAY * 50);
        assert_eq!(chain.roots()[0].expires(), now() + DAY * 90);
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_secret_holds_panics(signing in ".*", between in ".*", roots in ".*", cut in 0usize..900) {
        let root = Ca::root("root").pem;
        let cut = root.chars().take(cut).collect::<String>();
        for (a, b, c) in [(&signing, &between, &roots), (&cut, &signing, &root), (&root, &cut, &cut)] {
            drop(Chain::new(a, b, Some(c), now()));
        }
    }
}
