//! What istiod sends, byte for byte as its own code made it (1.31), and what comes of it.

use super::decode::Decoder;
use super::delta::type_url;
use super::resource::Body;
use crate::authorize::{Decision, Request, decide};
use crate::mesh::{ResourceKind, Store};

/// The workload of three PeerAuthentications, each with a port of its own: root STRICT, workload PERMISSIVE, port STRICT;
/// root STRICT, namespace UNSET, workload UNSET, port PERMISSIVE; namespace STRICT with `selector: {}`, workload UNSET, port
/// PERMISSIVE. Each time the record names a policy (`convertedSelectorPeerAuthentications` in istiod) of which
/// `convertPeerAuthentication` makes nothing: the first takes the root's STRICT for the workload's, the second passes over
/// the root's beside a namespace's, the third does not take a namespace's with an empty selector for one.
const WORKLOAD: &str = "0a5e0a03776562120473686f701a040a00000128013a0764656661756c7482012473686f702f636f6e\
    7665727465645f706565725f61757468656e7469636174696f6e5f70a201184b756265726e657465732f2f506f642f73686f702f776562";
/// The one that it always sends beside.
const STATIC_STRICT: &str = "0a1d697374696f5f636f6e7665727465645f7374617469635f737472696374120c697374696f2d7379\
    7374656d180220012a080a06120422022200";

fn event(kind: ResourceKind, hex: &str) -> crate::mesh::MeshEvent {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let value: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let body = Body { type_url: type_url(kind), value: &value };
    Decoder::default().event(kind, Some(body)).unwrap()
}

#[test]
fn a_policy_that_istiod_names_and_never_sends_keeps_out_plaintext_and_lets_identities_pass() {
    let (mut store, reader) = Store::new();
    store.apply([
        event(ResourceKind::Address, WORKLOAD),
        event(ResourceKind::Authorization, STATIC_STRICT),
    ]);
    let mesh = reader.load();
    let web = mesh.workloads().next().unwrap();
    let named: Vec<_> = web.authorization_policies.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["shop/converted_peer_authentication_p"]);
    let known: Vec<_> = mesh.policies().map(|policy| policy.key.to_string()).collect();
    assert_eq!(known, ["istio-system/istio_converted_static_strict"]);
    let mut request = Request {
        source_ip: [10, 0, 0, 9].into(),
        source: None,
        destination: "10.0.0.1:8000".parse().unwrap(),
    };
    let plaintext = decide(&mesh, web, &request);
    assert_eq!(plaintext, Decision::Unknown(web.authorization_policies.to_vec()));
    request.source = Some("spiffe://cluster.local/ns/shop/sa/client".parse().unwrap());
    assert!(matches!(decide(&mesh, web, &request), Decision::Allow(_)));
}
