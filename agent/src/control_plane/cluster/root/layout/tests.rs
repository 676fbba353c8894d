use super::*;

/// What is read of a Secret: what signs, its key, what stands between, what is trusted.
type Parts<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

#[track_caller]
fn check(data: &[(&str, &str)], expected: Result<Parts<'_>, &str>) {
    let data =
        data.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.as_bytes().to_vec())));
    let secret = Secret { data: Some(data.collect()), ..Secret::default() };
    let found = parts(&secret);
    let found = found.as_ref().map(|kept| {
        (kept.certificate.as_str(), kept.key.as_str(), kept.chain.as_str(), kept.roots.as_deref())
    });
    assert_eq!(found.map_err(ToString::to_string), expected.map_err(ToOwned::to_owned));
}

#[test]
fn a_certificate_and_its_key_are_enough() {
    check(&[("ca-cert.pem", "c"), ("ca-key.pem", "k")], Ok(("c", "k", "", None)));
    check(&[("tls.crt", "c"), ("tls.key", "k")], Ok(("c", "k", "", None)));
}

#[test]
fn istios_layout_has_chain_and_roots() {
    let all = [
        ("ca-cert.pem", "c"),
        ("ca-key.pem", "k"),
        ("cert-chain.pem", "b"),
        ("root-cert.pem", "r"),
    ];
    check(&all, Ok(("c", "k", "b", Some("r"))));
    // An empty bundle is a mistake that must be told, an empty chain is as Istio's instructions have it.
    let empty =
        [("ca-cert.pem", "c"), ("ca-key.pem", "k"), ("cert-chain.pem", ""), ("root-cert.pem", "")];
    check(&empty, Ok(("c", "k", "", Some(""))));
}

#[test]
fn cert_managers_root_is_trusted_unless_a_bundle_is_there() {
    let theirs = [("tls.crt", "c"), ("tls.key", "k"), ("ca.crt", "a")];
    check(&theirs, Ok(("c", "k", "", Some("a"))));
    let both = [("tls.crt", "c"), ("tls.key", "k"), ("ca.crt", "a"), ("root-cert.pem", "r")];
    check(&both, Ok(("c", "k", "", Some("r"))));
    check(&[("tls.crt", "c"), ("tls.key", "k"), ("ca.crt", "\n")], Ok(("c", "k", "", None)));
}

#[test]
fn istios_layout_has_no_ca_crt() {
    check(&[("ca-cert.pem", "c"), ("ca-key.pem", "k"), ("ca.crt", "a")], Ok(("c", "k", "", None)));
}

#[test]
fn what_is_missing_or_twofold_is_told() {
    check(&[], Err("ca-cert.pem is missing"));
    check(&[("ca-cert.pem", "c")], Err("ca-key.pem is missing"));
    check(&[("tls.crt", "c")], Err("tls.key is missing"));
    let two = "it holds both ca-cert.pem and tls.crt, or their keys: take one pair away";
    check(
        &[("ca-cert.pem", "c"), ("ca-key.pem", "k"), ("tls.crt", "c"), ("tls.key", "k")],
        Err(two),
    );
    check(&[("ca-cert.pem", "c"), ("tls.key", "k")], Err(two));
}

#[test]
fn what_is_no_text_is_told() {
    let data = [("ca-cert.pem", b"c".to_vec()), ("ca-key.pem", vec![0xff])];
    let data = data.map(|(name, bytes)| (name.to_owned(), ByteString(bytes)));
    let secret = Secret { data: Some(data.into()), ..Secret::default() };
    assert_eq!(parts(&secret).err().unwrap().to_string(), "ca-key.pem is not text");
}
