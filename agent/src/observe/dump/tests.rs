use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::mesh::policy::{
    Action, Authorization, Group, Match, PolicyKey, PolicyScope, Rule, StringMatch,
};
use crate::mesh::service::{
    BalancingMode, Families, LoadBalancing, Port, Scope, Service, ServiceKey, Visibility, Waypoint,
    WaypointDestination,
};
use crate::mesh::workload::Workload;
use crate::mesh::{Network, NetworkAddress};

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() }
}

fn workload() -> Workload {
    let ip = [10, 0, 0, 1].into();
    let mut workload = Workload::pod("Kubernetes", "shop", "web-1", "web", ip).expect("a workload");
    workload.node = "n1".into();
    workload.locality.region = "eu".into();
    let waypoint = Waypoint { destination: WaypointDestination::Service(key()), hbone_port: 15008 };
    workload.waypoint = Some(waypoint.into());
    workload.authorization_policies =
        vec![PolicyKey { namespace: "shop".into(), name: "deny".into() }].into();
    workload
}

#[test]
fn a_workload_has_the_keys_istioctl_reads() {
    assert_eq!(
        serde_json::to_value(WorkloadDump::from(&workload())).expect("JSON"),
        json!({
            "uid": "Kubernetes//Pod/shop/web-1",
            "workloadIps": ["10.0.0.1"],
            "waypoint": { "destination": "shop/web.shop.svc.cluster.local", "hboneMtlsPort": 15008 },
            "protocol": "HBONE",
            "name": "web-1",
            "namespace": "shop",
            "serviceAccount": "web",
            "workloadName": "web-1",
            "workloadType": "pod",
            "canonicalName": "web-1",
            "canonicalRevision": "latest",
            "clusterId": "Kubernetes",
            "trustDomain": "cluster.local",
            "locality": { "region": "eu" },
            "node": "n1",
            "network": "",
            "networkMode": "Standard",
            "status": "Healthy",
            "hostname": "",
            "capacity": 1,
            "authorizationPolicies": ["shop/deny"],
        })
    );
}

#[test]
fn a_service_has_the_keys_istioctl_reads() {
    let service = Service {
        name: "web".into(),
        key: key(),
        vips: vec![NetworkAddress::new("", [10, 96, 0, 1].into())],
        cidr_vips: vec![(Network::new(), "192.0.2.0/24".parse().expect("a range"))],
        ports: vec![Port { service_port: 80, target_port: Some(8080) }],
        subject_alt_names: vec!["spiffe://a/ns/b/sa/c".into()],
        waypoint: None,
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing {
            preferences: vec![Scope::Zone],
            mode: BalancingMode::Failover,
            allow_unhealthy: false,
            sticky: false,
        },
        canonical: true,
        families: Families::Any,
        visibility: Visibility::Public,
    };
    let (workload, ports) = (workload(), [Port { service_port: 80, target_port: Some(8080) }]);
    let dump = ServiceDump::new(&service, [(&workload, &ports[..])].into_iter());
    assert_eq!(
        serde_json::to_value(dump).expect("JSON"),
        json!({
            "name": "web",
            "namespace": "shop",
            "hostname": "web.shop.svc.cluster.local",
            "vips": ["/10.96.0.1"],
            "cidrVips": ["/192.0.2.0/24"],
            "ports": { "80": 8080 },
            "loadBalancer": {
                "mode": "Failover", "routingPreferences": ["Zone"], "healthPolicy": "OnlyHealthy",
            },
            "endpoints": { "Kubernetes//Pod/shop/web-1": {
                "workloadUid": "Kubernetes//Pod/shop/web-1",
                "port": { "80": 8080 },
                "status": "Healthy",
            } },
            "subjectAltNames": ["spiffe://a/ns/b/sa/c"],
            "ipFamilies": "IPv4",
            "canonical": true,
            "visibility": "Public",
        })
    );
}

#[test]
fn a_policy_has_the_keys_istioctl_reads() {
    let one = Match {
        principals: vec![StringMatch::Exact("a".into()), StringMatch::Presence],
        not_namespaces: vec![StringMatch::Prefix("p".into()), StringMatch::Suffix("s".into())],
        source_ips: vec!["10.0.0.0/8".parse().expect("a range")],
        destination_ports: vec![80],
        ..Match::default()
    };
    let policy = Authorization {
        key: PolicyKey { namespace: "shop".into(), name: "deny".into() },
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        groups: vec![Group { rules: vec![Rule { matches: vec![one] }] }],
        dry_run: false,
    };
    assert_eq!(
        serde_json::to_value(PolicyDump::from(&policy)).expect("JSON"),
        json!({
            "name": "deny",
            "namespace": "shop",
            "scope": "WorkloadSelector",
            "action": "Deny",
            "rules": [[[{
                "principals": [{ "Exact": "a" }, { "Presence": [] }],
                "notNamespaces": [{ "Prefix": "p" }, { "Suffix": "s" }],
                "sourceIps": ["10.0.0.0/8"],
                "destinationPorts": [80],
            }]]],
            "dryRun": false,
        })
    );
}

#[test]
fn the_dump_has_the_keys_istioctl_reads() {
    let dump = ConfigDump {
        certificates: vec![CertificateDump {
            identity: "spiffe://a/ns/b/sa/c".to_owned(),
            state: "Available".to_owned(),
            cert_chain: vec![CertDump::new(
                "PEM",
                "0a",
                "2026-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z",
            )],
            root_certs: vec![],
        }],
        workload_state: BTreeMap::from([(
            "u-1".to_owned(),
            WorkloadStateDump {
                state: "Up".to_owned(),
                connections: ConnectionsDump {
                    inbound: vec![ConnectionDump::default()],
                    outbound: vec![],
                },
                info: WorkloadInfoDump::default(),
            },
        )]),
        ..ConfigDump::default()
    };
    assert_eq!(
        serde_json::to_value(dump).expect("JSON"),
        json!({
            "workloads": [],
            "services": [],
            "stagedServices": {},
            "policies": [],
            "certificates": [{
                "identity": "spiffe://a/ns/b/sa/c",
                "state": "Available",
                "certChain": [{
                    "pem": "UEVN",
                    "serialNumber": "0a",
                    "validFrom": "2026-01-01T00:00:00Z",
                    "expirationTime": "2026-01-02T00:00:00Z",
                }],
                "rootCerts": [],
            }],
            "workloadState": { "u-1": {
                "state": "Up",
                "connections": {
                    "inbound": [{ "src": "", "originalDst": "", "actualDst": "", "protocol": "",
                        "fromClientBytes": 0, "fromServerBytes": 0 }],
                    "outbound": [],
                },
                "info": { "name": "", "namespace": "", "trustDomain": "", "serviceAccount": "" },
            } },
            "staticConfig": { "workloads": [], "services": [], "policies": [] },
            "version": { "version": env!("CARGO_PKG_VERSION") },
            "config": null,
        })
    );
}
