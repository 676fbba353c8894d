//! Which resources exist: the built-in table, and what definitions add to it.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, Pod, ResourceQuota, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::definition::Definition;

/// A resource: what is served under one plural name of one group.
#[derive(Debug, Clone)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: String,
    /// Served versions, the preferred one first.
    pub versions: Vec<String>,
    /// As in paths: `pods`.
    pub plural: String,
    /// As kubectl also takes it: `pod`.
    pub singular: String,
    /// As in objects: `Pod`.
    pub kind: String,
    /// As kubectl also takes it: `po`.
    pub short_names: Vec<String>,
    /// Groups of resources for kubectl, as `all`.
    pub categories: Vec<String>,
    /// Do its objects live in namespaces?
    pub namespaced: bool,
    /// Has it `/status`?
    pub status: bool,
    /// Has it `/scale`?
    pub scale: bool,
    /// Where its rules come from.
    pub origin: Origin,
}

/// Where a resource's rules come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A Kubernetes type: objects are checked by decoding them.
    BuiltIn(fn(Value) -> Result<Value, serde_json::Error>),
    /// Answered, never stored: token and access reviews.
    Review(fn(Value) -> Result<Value, serde_json::Error>),
    /// A definition in the store: objects are checked by its schema.
    Custom(Arc<Definition>),
}

/// What names a resource whatever the version: group and plural.
pub(super) type ResourceKey = (String, String);

impl Resource {
    /// Group and plural.
    pub fn key(&self) -> ResourceKey {
        (self.group.clone(), self.plural.clone())
    }

    /// `pods`, `deployments.apps`: the name errors and kubectl use.
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The `apiVersion` of objects in a version.
    pub fn api_version(&self, version: &str) -> String {
        match self.group.as_str() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// The version objects are stored and offered in first.
    pub fn preferred(&self) -> &str {
        &self.versions[0]
    }

    /// The definition, if one made this resource.
    pub fn definition(&self) -> Option<&Definition> {
        match &self.origin {
            Origin::Custom(definition) => Some(definition),
            _ => None,
        }
    }

    /// Is it the resource with this group and plural?
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Verbs as discovery lists them.
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.origin {
            Origin::Review(_) => &["create"],
            _ => VERBS,
        }
    }
}

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// All resources served now.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    resources: Vec<Arc<Resource>>,
    by_key: HashMap<ResourceKey, Arc<Resource>>,
}

impl Registry {
    /// The built-in table.
    pub(super) fn built_in() -> Self {
        let resources: Vec<Arc<Resource>> = built_in().into_iter().map(Arc::new).collect();
        let by_key = resources.iter().map(|r| (r.key(), Arc::clone(r))).collect();
        Self { resources, by_key }
    }

    /// In the order of discovery.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// By group and plural.
    pub(super) fn get(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.by_key.get(&(group.to_owned(), plural.to_owned())).cloned()
    }

    /// By an object's `apiVersion` and `kind`.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.resources
            .iter()
            .find(|r| r.group == group && r.kind == kind && r.versions.iter().any(|v| v == version))
            .cloned()
    }

    /// By name: `pods`, `deployments.apps`, `peerauthentications.security.istio.io`; a bare plural means the
    /// first resource of that name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Resource>> {
        match name.split_once('.') {
            Some((plural, group)) => self.get(group, plural),
            None => self.resources.iter().find(|r| r.plural == name).cloned(),
        }
    }

    /// Adds a resource, or replaces the one with the same key.
    pub(super) fn put(&mut self, resource: Resource) {
        let key = resource.key();
        let resource = Arc::new(resource);
        match self.resources.iter().position(|r| r.key() == key) {
            Some(at) => self.resources[at] = Arc::clone(&resource),
            None => self.resources.push(Arc::clone(&resource)),
        }
        self.by_key.insert(key, resource);
    }

    /// Takes a resource away.
    pub(super) fn remove(&mut self, key: &ResourceKey) {
        self.resources.retain(|r| r.key() != *key);
        self.by_key.remove(key);
    }
}

/// The resource with this plural name, in any case the definition of definitions.
pub(super) const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

fn built_in() -> Vec<Resource> {
    vec![
        row::<Namespace>("ns").cluster().with_status(),
        row::<Pod>("po").with_status().all(),
        row::<Service>("svc").with_status().all(),
        row::<Endpoints>("ep"),
        row::<ConfigMap>("cm"),
        row::<Secret>(""),
        row::<ServiceAccount>("sa"),
        row::<Node>("no").cluster().with_status(),
        row::<Event>("ev"),
        row::<LimitRange>("limits"),
        row::<ResourceQuota>("quota").with_status(),
        row::<Deployment>("deploy").with_status().with_scale().all(),
        row::<ReplicaSet>("rs").with_status().with_scale().all(),
        row::<StatefulSet>("sts").with_status().with_scale().all(),
        row::<DaemonSet>("ds").with_status().all(),
        row::<EndpointSlice>(""),
        row::<Lease>(""),
        row::<Role>(""),
        row::<RoleBinding>(""),
        row::<ClusterRole>("").cluster(),
        row::<ClusterRoleBinding>("").cluster(),
        row::<PodDisruptionBudget>("pdb").with_status(),
        row::<NetworkPolicy>("netpol"),
        row::<PriorityClass>("pc").cluster(),
        row::<ValidatingAdmissionPolicy>("").cluster().with_status(),
        row::<ValidatingAdmissionPolicyBinding>("").cluster(),
        row::<CustomResourceDefinition>("crd,crds").cluster().with_status(),
        row::<TokenReview>("").cluster().review(),
        row::<SelfSubjectReview>("").cluster().review(),
        row::<SelfSubjectAccessReview>("").cluster().review(),
        row::<SelfSubjectRulesReview>("").cluster().review(),
        row::<SubjectAccessReview>("").cluster().review(),
    ]
}

fn row<T>(short_names: &str) -> Resource
where
    T: k8s_openapi::Resource + DeserializeOwned + Serialize,
{
    Resource {
        group: T::GROUP.to_owned(),
        versions: vec![T::VERSION.to_owned()],
        plural: T::URL_PATH_SEGMENT.to_owned(),
        singular: T::KIND.to_lowercase(),
        kind: T::KIND.to_owned(),
        short_names: short_names.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        categories: Vec::new(),
        namespaced: true,
        status: false,
        scale: false,
        origin: Origin::BuiltIn(decode::<T>),
    }
}

/// Decodes and encodes again: what is left are the fields the type has, each of its type.
fn decode<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object)?)
}

impl Resource {
    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    fn with_scale(mut self) -> Self {
        self.scale = true;
        self
    }

    fn all(mut self) -> Self {
        self.categories.push("all".to_owned());
        self
    }

    fn review(mut self) -> Self {
        if let Origin::BuiltIn(decode) = self.origin {
            self.origin = Origin::Review(decode);
        }
        self
    }
}
