//! Addresses and node ports of Services.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::error::{ApiError, FieldError};
use super::json::{list_at, number_at, object_mut, string_at, strings_at};
use super::resource::Resource;
use super::selector::Selector;
use super::state::State;

/// The first addresses are for services that ask for one by name, as `kubernetes` and DNS.
const RESERVED: usize = 16;
/// Where node ports start.
const FIRST_NODE_PORT: i64 = 30000;

impl State {
    /// Gives a Service the address and node ports it needs and does not have yet.
    ///
    /// # Errors
    /// `Invalid` if it asks for an address that another one has; `InternalError` if none is left.
    pub(super) fn assign_service_address(
        &self,
        resource: &Resource,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        if !resource.is("", "services") || string_at(object, &["spec", "type"]) == "ExternalName" {
            return Ok(());
        }
        let others = self.other_services(resource, object);
        self.assign_address(resource, object, &others)?;
        assign_node_ports(object, &others);
        Ok(())
    }

    fn other_services(&self, resource: &Resource, object: &Value) -> Vec<Value> {
        let uid = string_at(object, &["metadata", "uid"]);
        let all = self.list(resource, &Selector::default());
        let others = all.iter().filter(|o| string_at(o, &["metadata", "uid"]) != uid);
        others.map(|o| o["spec"].clone()).collect()
    }

    fn assign_address(
        &self,
        resource: &Resource,
        object: &mut Value,
        others: &[Value],
    ) -> Result<(), ApiError> {
        let used: HashSet<String> =
            others.iter().flat_map(|spec| strings_at(spec, &["clusterIPs"])).collect();
        let asked = string_at(object, &["spec", "clusterIP"]).to_owned();
        let address = match asked.as_str() {
            "" => self.free_address(&used)?,
            "None" => asked,
            _ if used.contains(&asked) => {
                let why = "failed to allocate IP: provided IP is already allocated";
                let error = FieldError::invalid("spec.clusterIPs", &json!([asked]), why);
                let name = string_at(object, &["metadata", "name"]);
                return Err(ApiError::invalid(resource, name, &[error]));
            }
            _ => asked,
        };
        let spec = object_mut(object, "spec");
        super::json::default_to(spec, "clusterIPs", json!([address]));
        spec.insert("clusterIP".to_owned(), json!(address));
        Ok(())
    }

    fn free_address(&self, used: &HashSet<String>) -> Result<String, ApiError> {
        let hosts = self.service_cidr.hosts().skip(RESERVED).map(|a: Ipv4Addr| a.to_string());
        let mut free = hosts.filter(|address| !used.contains(address));
        free.next().ok_or_else(|| ApiError::internal("no service address is left"))
    }
}

fn assign_node_ports(object: &mut Value, others: &[Value]) {
    if !matches!(string_at(object, &["spec", "type"]), "NodePort" | "LoadBalancer") {
        return;
    }
    let of = |spec: &Value| -> Vec<i64> {
        list_at(spec, &["ports"]).iter().map(|port| number_at(port, &["nodePort"])).collect()
    };
    let mut used: HashSet<i64> = others.iter().flat_map(of).collect();
    used.extend(of(&object["spec"]));
    for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if number_at(port, &["nodePort"]) == 0 {
            let free = (FIRST_NODE_PORT..).find(|p| !used.contains(p)).unwrap_or(FIRST_NODE_PORT);
            used.insert(free);
            port["nodePort"] = json!(free);
        }
    }
}
