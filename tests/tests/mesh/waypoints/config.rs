//! An Envoy's configuration as a waypoint: it ends tunnels, looks into HTTP or does not, and goes on in tunnels of its own.
//! What istiod's own filters would do is not in it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// A destination that the waypoint knows.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// As the client names it.
    pub(super) authority: SocketAddr,
    /// A pod, and its port.
    pub(super) pod: (IpAddr, u16),
    /// Looked into: a request gets the header `x-waypoint`, with the waypoint's name.
    pub(super) http: bool,
}

/// One that takes tunnels itself, with the files `cert.pem`, `key.pem` and `root.pem` of a folder.
pub(super) fn of_tunnels(name: &str, dir: &Path, known: &[Known]) -> Value {
    let routes: Vec<_> = known.iter().enumerate().map(|(at, one)| connect(at, one)).collect();
    let tunnels = json!({
        "name": "tunnels",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15008 } },
        "filter_chains": [{
            "transport_socket": tls("DownstreamTlsContext", dir, &json!({ "prefix": "spiffe://cluster.local/" })),
            "filters": [manager(json!({
                "stat_prefix": "tunnels",
                "codec_type": "HTTP2",
                "http2_protocol_options": { "allow_connect": true },
                "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
                "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
            }))],
        }],
    });
    let (mut listeners, mut clusters) = (vec![tunnels], vec![]);
    for (at, one) in known.iter().enumerate() {
        let (out, hbone) = (format!("out-{at}"), format!("hbone-{at}"));
        if one.http {
            let looked = format!("http-{at}");
            listeners.push(internal(&looked, &looking(name, &out)));
            clusters.push(to_listener(&looked));
        }
        let (ip, port) = one.pod;
        listeners.push(internal(
            &out,
            &json!({
                "name": "tcp",
                "typed_config": {
                    "@type": format!("{TYPE}.filters.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": "out",
                    "cluster": hbone,
                    "tunneling_config": { "hostname": SocketAddr::new(ip, port).to_string() },
                },
            }),
        ));
        clusters.push(to_listener(&out));
        clusters.push(tunnel(&hbone, ip, dir));
    }
    bootstrap(listeners, clusters)
}

/// One behind an agent that takes its tunnels, and tells of each in a PROXY header.
pub(super) fn sandwiched(port: u16, to: SocketAddr) -> Value {
    let told = json!({
        "name": "proxy_protocol",
        "typed_config": {
            "@type": format!("{TYPE}.filters.listener.proxy_protocol.v3.ProxyProtocol"),
            "tlv_location": "FILTER_STATE",
            "rules": [
                { "tlv_type": 0xd0, "on_tlv_present": { "key": "identity" } },
                { "tlv_type": 0xd1, "on_tlv_present": { "key": "service" } },
            ],
        },
    });
    let of = |key: &str| format!("%FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:{key})%");
    let header = |key: &str, value: String| json!({ "header": { "key": key, "value": value } });
    let listener = json!({
        "name": "told",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": port } },
        "listener_filters": [told],
        "filter_chains": [{ "filters": [manager(json!({
            "stat_prefix": "told",
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "request_headers_to_add": [
                    header("x-client-identity", of("identity")),
                    header("x-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%".into()),
                    header("x-asked", "%DOWNSTREAM_LOCAL_ADDRESS%".into()),
                    header("x-service", of("service")),
                ],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }],
            }] },
        }))] }],
    });
    let app = json!({ "name": "app", "load_assignment": at_address("app", to) });
    bootstrap(vec![listener], vec![app])
}

fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    let internal = format!("{TYPE}.bootstrap.internal_listener.v3.InternalListener");
    json!({
        "bootstrap_extensions": [{ "name": "internal", "typed_config": { "@type": internal } }],
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

fn connect(at: usize, one: &Known) -> Value {
    let cluster = if one.http { format!("http-{at}") } else { format!("out-{at}") };
    let authority = one.authority.to_string();
    json!({
        "match": {
            "connect_matcher": {},
            "headers": [{ "name": ":authority", "string_match": { "exact": authority } }],
        },
        "route": {
            "cluster": cluster,
            "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
        },
    })
}

fn looking(name: &str, cluster: &str) -> Value {
    let header = json!({ "header": { "key": "x-waypoint", "value": name } });
    manager(json!({
        "stat_prefix": "http",
        "route_config": { "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "request_headers_to_add": [header],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }],
        }] },
    }))
}

fn manager(mut config: Value) -> Value {
    let manager = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    config["@type"] = format!("{TYPE}.{manager}").into();
    let router = format!("{TYPE}.filters.http.router.v3.Router");
    config["http_filters"] = json!([{ "name": "router", "typed_config": { "@type": router } }]);
    json!({ "name": "http", "typed_config": config })
}

fn internal(name: &str, filter: &Value) -> Value {
    json!({ "name": name, "internal_listener": {}, "filter_chains": [{ "filters": [filter] }] })
}

fn to_listener(name: &str) -> Value {
    let address = json!({ "envoy_internal_address": { "server_listener_name": name } });
    json!({ "name": name, "load_assignment": {
        "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    } })
}

fn at_address(name: &str, at: SocketAddr) -> Value {
    let address =
        json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    json!({
        "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    })
}

/// Tunnels to a pod, which must be of the account `echo`.
fn tunnel(name: &str, pod: IpAddr, dir: &Path) -> Value {
    let options = format!("{TYPE}.upstreams.http.v3.HttpProtocolOptions");
    json!({
        "name": name,
        "transport_socket": tls("UpstreamTlsContext", dir, &json!({ "exact": "spiffe://cluster.local/ns/back/sa/echo" })),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": { "http2_protocol_options": { "allow_connect": true } },
            },
        },
        "load_assignment": at_address(name, SocketAddr::new(pod, 15008)),
    })
}

fn tls(kind: &str, dir: &Path, peers: &Value) -> Value {
    let file = |name: &str| json!({ "filename": dir.join(name) });
    let mut config = json!({
        "@type": format!("{TYPE}.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "tls_certificates": [{ "certificate_chain": file("cert.pem"), "private_key": file("key.pem") }],
            "validation_context": {
                "trusted_ca": file("root.pem"),
                "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": peers }],
            },
        },
    });
    if kind == "DownstreamTlsContext" {
        config["require_client_certificate"] = true.into();
    }
    json!({ "name": "tls", "typed_config": config })
}
