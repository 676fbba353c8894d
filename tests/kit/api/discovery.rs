//! What is served here: discovery documents, and as much OpenAPI as kubectl asks for.

use serde_json::{Value, json};

use super::error::ApiError;
use super::resource::{Registry, Resource};

/// The media type of aggregated discovery.
pub(super) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": "v1.32.0+pocket", "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// The document at a path, if it is one of discovery's.
pub(super) fn document(
    registry: &Registry,
    path: &str,
    aggregated: bool,
) -> Option<Result<Value, ApiError>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match parts.as_slice() {
        ["version"] => version(),
        ["api"] if aggregated => aggregate(registry, |group| group.is_empty()),
        ["apis"] if aggregated => aggregate(registry, |group| !group.is_empty()),
        ["api"] => {
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        }
        ["apis"] => {
            let names = groups(registry).into_iter().filter(|name| !name.is_empty());
            let list: Vec<Value> = names.map(|name| group(registry, &name)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
        }
        ["apis", name] if groups(registry).iter().any(|g| g == name) => group(registry, name),
        ["api", version] => return Some(resources(registry, "", version)),
        ["apis", name, version] => return Some(resources(registry, name, version)),
        ["openapi", "v3"] => openapi_index(registry),
        ["openapi", "v3", "api", version] => openapi(registry, "", version),
        ["openapi", "v3", "apis", name, version] => openapi(registry, name, version),
        ["api" | "apis", ..] => return None,
        _ => return None,
    };
    Some(Ok(document))
}

fn groups(registry: &Registry) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for resource in registry.iter() {
        if !names.contains(&resource.group) {
            names.push(resource.group.clone());
        }
    }
    names
}

fn versions(registry: &Registry, group: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for resource in registry.iter().filter(|r| r.group == group) {
        for version in &resource.versions {
            if !names.contains(version) {
                names.push(version.clone());
            }
        }
    }
    names
}

fn served<'a>(
    registry: &'a Registry,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Resource> {
    let fits = move |r: &&Resource| r.group == group && r.versions.iter().any(|v| v == version);
    registry.iter().map(AsRef::as_ref).filter(fits)
}

fn group(registry: &Registry, name: &str) -> Value {
    let entry =
        |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions(registry, name).iter().map(entry).collect();
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name,
        "preferredVersion": versions.first(), "versions": versions,
    })
}

fn resources(registry: &Registry, group: &str, version: &str) -> Result<Value, ApiError> {
    let mut list = Vec::new();
    for resource in served(registry, group, version) {
        list.push(json!({
            "name": resource.plural, "singularName": resource.singular, "kind": resource.kind,
            "namespaced": resource.namespaced, "verbs": resource.verbs(),
            "shortNames": resource.short_names, "categories": resource.categories,
        }));
        for (name, kind, verbs) in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "",
                "kind": kind.2, "namespaced": resource.namespaced, "verbs": verbs,
            });
            if !kind.0.is_empty() {
                entry["group"] = json!(kind.0);
                entry["version"] = json!(kind.1);
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let group_version =
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": list,
    }))
}

/// Group, version and kind of what a subresource takes and gives.
type SubKind = (&'static str, &'static str, String);

/// Name, kind and verbs of the subresources.
fn subresources(resource: &Resource) -> Vec<(&'static str, SubKind, &'static [&'static str])> {
    const CHANGE: &[&str] = &["get", "patch", "update"];
    let mut list = Vec::new();
    if resource.status {
        list.push(("status", ("", "", resource.kind.clone()), CHANGE));
    }
    if resource.scale {
        list.push(("scale", ("autoscaling", "v1", "Scale".to_owned()), CHANGE));
    }
    if resource.is("", "pods") {
        let create: &[&str] = &["create"];
        list.push(("binding", ("", "", "Binding".to_owned()), create));
        list.push(("eviction", ("policy", "v1", "Eviction".to_owned()), create));
        list.push(("exec", ("", "", "PodExecOptions".to_owned()), &["create", "get"]));
        list.push(("log", ("", "", "Pod".to_owned()), &["get"]));
    }
    if resource.is("", "serviceaccounts") {
        let kind = ("authentication.k8s.io", "v1", "TokenRequest".to_owned());
        list.push(("token", kind, &["create"]));
    }
    list
}

fn aggregate(registry: &Registry, wanted: impl Fn(&str) -> bool) -> Value {
    let groups = groups(registry).into_iter().filter(|name| wanted(name));
    let items: Vec<Value> = groups
        .map(|name| {
            let versions: Vec<Value> = versions(registry, &name)
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = served(registry, &name, version)
                        .map(|resource| aggregate_resource(resource, version))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items,
    })
}

fn aggregate_resource(resource: &Resource, version: &str) -> Value {
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    let subresources: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|(name, (group, kind_version, kind), verbs)| {
            let (group, kind_version) = match group {
                "" => (resource.group.as_str(), version),
                group => (group, kind_version),
            };
            json!({
                "subresource": name, "verbs": verbs,
                "responseKind": {"group": group, "version": kind_version, "kind": kind},
            })
        })
        .collect();
    json!({
        "resource": resource.plural, "singularResource": resource.singular, "scope": scope,
        "responseKind": {"group": resource.group, "version": version, "kind": resource.kind},
        "verbs": resource.verbs(), "shortNames": resource.short_names,
        "categories": resource.categories, "subresources": subresources,
    })
}

fn openapi_index(registry: &Registry) -> Value {
    let mut paths = json!({});
    for name in groups(registry) {
        for version in versions(registry, &name) {
            let path = match name.as_str() {
                "" => format!("api/{version}"),
                name => format!("apis/{name}/{version}"),
            };
            paths[&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
        }
    }
    json!({"paths": paths})
}

/// kubectl looks here whether a patch takes `fieldValidation`: then it leaves checking to the server.
fn openapi(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = json!({});
    let field_validation =
        json!([{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]);
    for resource in served(registry, group, version) {
        let base = match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let plural = &resource.plural;
        let path = match resource.namespaced {
            true => format!("{base}/namespaces/{{namespace}}/{plural}/{{name}}"),
            false => format!("{base}/{plural}/{{name}}"),
        };
        paths[path] = json!({"patch": {
            "parameters": field_validation, "responses": {},
            "x-kubernetes-group-version-kind":
                {"group": group, "version": version, "kind": resource.kind},
        }});
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "pocket cluster", "version": "v1.32.0"},
        "paths": paths, "components": {"schemas": {}},
    })
}
