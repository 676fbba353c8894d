//! ValidatingAdmissionPolicies: what they and their bindings refuse.
//!
//! Served are `resourceRules` of `matchConstraints`, `matchConditions`, `variables` and `validations` with their
//! messages, in bindings that deny, without parameters, selectors or exceptions; a policy or binding with anything else
//! is refused when it comes. Expressions see `object`, `oldObject`, `request` and `variables`; as in [`rules`](super::rules)
//! there is none of Kubernetes' libraries, and types are not checked until an expression runs. One that cannot be evaluated
//! denies, as `failurePolicy: Fail` has it.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Program, Value as CelValue};
use serde_json::{Map, Value, json};

use super::error::{ApiError, FieldError};
use super::json::{at, list_at, string_at, strings_at};
use super::resource::Resource;
use super::rules::{LANGUAGE, cel};
use super::selector::Selector;
use super::state::State;
use super::tokens::Identity;

/// Group of the kinds.
pub(super) const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "validatingadmissionpolicies";
const BINDINGS: &str = "validatingadmissionpolicybindings";
/// What of a policy's `spec` is served.
const SPEC: [&str; 5] =
    ["failurePolicy", "matchConstraints", "matchConditions", "variables", "validations"];

/// A change that somebody asks for.
#[derive(Debug)]
pub(super) struct Change<'c> {
    /// Of which resource.
    pub resource: &'c Resource,
    /// As `status`; empty for the object itself.
    pub subresource: &'c str,
    /// Who asks.
    pub caller: &'c Identity,
    /// The object as it would be.
    pub object: &'c Value,
    /// As it is, unless it is new.
    pub old: Option<&'c Value>,
}

/// Whether every policy lets a change happen.
///
/// # Errors
/// `Forbidden` or `Invalid`, as the validation says, with its message.
pub(super) fn check(state: &State, change: &Change<'_>) -> Result<(), ApiError> {
    let all = |plural| {
        let resource = state.registry.get(GROUP, plural);
        resource.map_or_else(Vec::new, |r| state.list(&r, &Selector::namespace("")))
    };
    let policies: HashMap<String, Arc<Value>> = all(POLICIES)
        .into_iter()
        .map(|policy| (string_at(&policy, &["metadata", "name"]).to_owned(), policy))
        .collect();
    for binding in all(BINDINGS) {
        let named = string_at(&binding, &["spec", "policyName"]);
        if let Some(policy) = policies.get(named).filter(|policy| change.is_matter_of(policy)) {
            change.judge(policy, &binding)?;
        }
    }
    Ok(())
}

/// What is wrong with a policy or a binding, or not served here.
pub(super) fn errors(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if resource.group != GROUP {
        return errors;
    }
    let mut unknown = |field: &str, value: &Value, known: &[&str]| {
        for key in value.as_object().into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) {
                errors.push(FieldError::invalid(
                    format!("{field}.{key}"),
                    &json!(key),
                    "is not served here",
                ));
            }
        }
    };
    let spec = &object["spec"];
    if resource.plural == BINDINGS {
        unknown("spec", spec, &["policyName", "validationActions"]);
        return errors;
    }
    unknown("spec", spec, &SPEC);
    unknown("spec.matchConstraints", &spec["matchConstraints"], &["resourceRules", "matchPolicy"]);
    for rule in list_at(spec, &["matchConstraints", "resourceRules"]) {
        let known = ["apiGroups", "apiVersions", "operations", "resources", "scope"];
        unknown("spec.matchConstraints.resourceRules", rule, &known);
    }
    for validation in list_at(spec, &["validations"]) {
        unknown(
            "spec.validations",
            validation,
            &["expression", "message", "messageExpression", "reason"],
        );
    }
    for list in ["matchConditions", "variables", "validations"] {
        for (at, item) in list_at(spec, &[list]).iter().enumerate() {
            for key in ["expression", "messageExpression"] {
                let text = string_at(item, &[key]);
                if key == "messageExpression" && text.is_empty() {
                    continue;
                }
                if let Err(error) = LANGUAGE.compile(text) {
                    let why = format!("compilation failed: {error}");
                    errors.push(FieldError::invalid(
                        format!("spec.{list}[{at}].{key}"),
                        &json!(text),
                        &why,
                    ));
                }
            }
        }
    }
    errors
}

impl Change<'_> {
    fn operation(&self) -> &'static str {
        if self.old.is_some() { "UPDATE" } else { "CREATE" }
    }

    fn is_matter_of(&self, policy: &Value) -> bool {
        let resource = match self.subresource {
            "" => self.resource.plural.clone(),
            subresource => format!("{}/{subresource}", self.resource.plural),
        };
        let names = |rule: &Value, key: &str, wanted: &str| {
            strings_at(rule, &[key]).iter().any(|name| name == "*" || name == wanted)
        };
        list_at(policy, &["spec", "matchConstraints", "resourceRules"]).iter().any(|rule| {
            names(rule, "apiGroups", &self.resource.group)
                && names(rule, "apiVersions", self.resource.preferred())
                && names(rule, "operations", self.operation())
                && names(rule, "resources", &resource)
        })
    }

    fn judge(&self, policy: &Value, binding: &Value) -> Result<(), ApiError> {
        let mut known = vec![
            ("object", cel(self.object)),
            ("oldObject", self.old.map_or(CelValue::Null, cel)),
            ("request", cel(&self.request())),
            ("variables", cel(&json!({}))),
        ];
        for condition in list_at(policy, &["spec", "matchConditions"]) {
            match holds(condition, &known) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(why) => return Err(self.denied(policy, binding, (condition, &why))),
            }
        }
        let mut variables: HashMap<String, CelValue> = HashMap::new();
        for variable in list_at(policy, &["spec", "variables"]) {
            let value = evaluate(string_at(variable, &["expression"]), &known);
            let value = value.map_err(|why| self.denied(policy, binding, (variable, &why)))?;
            variables.insert(string_at(variable, &["name"]).to_owned(), value);
            known[3].1 = variables.clone().into();
        }
        for validation in list_at(policy, &["spec", "validations"]) {
            let why = match holds(validation, &known) {
                Ok(true) => continue,
                Ok(false) => message(validation, &known),
                Err(why) => why,
            };
            return Err(self.denied(policy, binding, (validation, &why)));
        }
        Ok(())
    }

    fn request(&self) -> Value {
        let Identity { username, uid, groups, extra } = self.caller;
        let mut user = json!({ "username": username, "uid": uid, "groups": groups });
        // Absent, not empty: an expression that asks for it unasked fails.
        if !extra.is_null() {
            user["extra"] = extra.clone();
        }
        json!({
            "operation": self.operation(), "subResource": self.subresource, "userInfo": user,
            "name": string_at(self.object, &["metadata", "name"]),
            "namespace": string_at(self.object, &["metadata", "namespace"]),
            "kind": { "group": self.resource.group, "kind": self.resource.kind },
            "dryRun": false,
        })
    }

    fn denied(&self, policy: &Value, binding: &Value, (item, why): (&Value, &str)) -> ApiError {
        let name = |object: &Value| string_at(object, &["metadata", "name"]).to_owned();
        let told = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {why}",
            name(policy),
            name(binding)
        );
        let of = name(self.object);
        if at(item, &["reason"]).and_then(Value::as_str) == Some("Forbidden") {
            return ApiError::forbidden(self.resource, &of, &told);
        }
        let error = FieldError { field: String::new(), reason: "FieldValueInvalid", message: told };
        ApiError::invalid(self.resource, &of, &[error])
    }
}

type Known<'k> = [(&'k str, CelValue)];

fn evaluate(expression: &str, known: &Known<'_>) -> Result<CelValue, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("expression '{expression}' resulted in error: {error}")
    };
    let program: Program = LANGUAGE.compile(expression).map_err(|error| failed(&error))?;
    let mut context = Context::with_env(LANGUAGE.clone());
    for (name, value) in known {
        context.add_variable_from_value(*name, value.clone());
    }
    program.execute(&context).map_err(|error| failed(&error))
}

fn holds(item: &Value, known: &Known<'_>) -> Result<bool, String> {
    let expression = string_at(item, &["expression"]);
    match evaluate(expression, known)? {
        CelValue::Bool(holds) => Ok(holds),
        other => Err(format!("expression '{expression}' is {other:?}, no verdict")),
    }
}

fn message(validation: &Value, known: &Known<'_>) -> String {
    let made = match string_at(validation, &["messageExpression"]) {
        "" => None,
        expression => match evaluate(expression, known) {
            Ok(CelValue::String(text)) => Some(text.to_string()),
            _ => None,
        },
    };
    let told = string_at(validation, &["message"]);
    let expression = string_at(validation, &["expression"]);
    made.unwrap_or_else(|| match told {
        "" => format!("failed expression: {expression}"),
        told => told.to_owned(),
    })
}
