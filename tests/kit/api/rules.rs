//! What a schema asks of values beyond their shape: `pattern`, and the CEL rules of `x-kubernetes-validations`.
//!
//! Both are compiled when the definition comes, and a definition whose rules do not compile is refused. A rule sees
//! `self`, and when the object changes, `oldSelf`; one that names the latter waits for a change, and is not asked
//! of what is in a list. There is no ratcheting: what was wrong before is wrong still. Of Kubernetes' libraries
//! beside CEL's own there is none; names and types are not checked until a rule runs, which then refuses.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program, Value as CelValue};
use regex::Regex;
use serde_json::Value;

use super::error::FieldError;

const RULES: &str = "x-kubernetes-validations";
const OLD: &str = "oldSelf";
/// What of a rule is served here.
const KEYS: [&str; 2] = ["rule", "message"];

/// CEL's own functions and macros.
pub(super) static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The rules and patterns of one schema, compiled, by their text.
#[derive(Default)]
pub(super) struct Rules {
    programs: HashMap<String, Program>,
    patterns: HashMap<String, Regex>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.programs.keys()).entries(self.patterns.keys()).finish()
    }
}

impl Rules {
    /// Compiles all of a schema that is at `path` of its definition; adds what does not compile to `errors`.
    pub(super) fn compile(schema: &Value, path: &str, errors: &mut Vec<FieldError>) -> Self {
        let mut rules = Self::default();
        rules.add(schema, path, errors);
        rules
    }

    fn add(&mut self, schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
        if let Some(text) = schema["pattern"].as_str() {
            match Regex::new(text) {
                Ok(pattern) => drop(self.patterns.insert(text.to_owned(), pattern)),
                Err(error) => {
                    let why = format!("must be a valid regular expression: {error}");
                    errors.push(FieldError::invalid(
                        format!("{path}.pattern"),
                        &schema["pattern"],
                        &why,
                    ));
                }
            }
        }
        for (at, rule) in schema[RULES].as_array().into_iter().flatten().enumerate() {
            if let Err(why) = self.add_rule(rule) {
                let field = format!("{path}.{RULES}[{at}].rule");
                errors.push(FieldError::invalid(field, &rule["rule"], &why));
            }
        }
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            self.add(property, &format!("{path}.properties[{key}]"), errors);
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                self.add(&schema[key], &format!("{path}.{key}"), errors);
            }
        }
    }

    fn add_rule(&mut self, rule: &Value) -> Result<(), String> {
        let unknown = rule.as_object().and_then(|r| r.keys().find(|k| !KEYS.contains(&k.as_str())));
        if let Some(key) = unknown {
            return Err(format!("{key} is not served here"));
        }
        let Some(text) = rule["rule"].as_str() else { return Err("is required".to_owned()) };
        let program =
            LANGUAGE.compile(text).map_err(|error| format!("compilation failed: {error}"))?;
        self.programs.insert(text.to_owned(), program);
        Ok(())
    }

    /// What of an object a pattern or, if `rules` are asked, a CEL rule refuses. `old` is what it was.
    pub(super) fn check(
        &self,
        schema: &Value,
        object: &Value,
        old: Option<&Value>,
        rules: bool,
    ) -> Vec<FieldError> {
        let mut check = Check { known: self, rules, errors: Vec::new() };
        check.visit(schema, object, old, "");
        check.errors
    }
}

/// One object on its way through a schema.
struct Check<'r> {
    known: &'r Rules,
    rules: bool,
    errors: Vec<FieldError>,
}

impl Check<'_> {
    fn visit(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str) {
        if !schema.is_object() || value.is_null() {
            return;
        }
        self.pattern(schema, value, path);
        if self.rules {
            for rule in schema[RULES].as_array().into_iter().flatten() {
                self.rule(schema, rule, (value, old), path);
            }
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let old = old.and_then(|old| old.get(key));
                    let (schema, path) = match schema["properties"].get(key) {
                        Some(schema) if path.is_empty() => (schema, key.clone()),
                        Some(schema) => (schema, format!("{path}.{key}")),
                        None => (&schema["additionalProperties"], format!("{path}[{key}]")),
                    };
                    self.visit(schema, value, old, &path);
                }
            }
            Value::Array(list) => {
                for (at, value) in list.iter().enumerate() {
                    self.visit(&schema["items"], value, None, &format!("{path}[{at}]"));
                }
            }
            _ => {}
        }
    }

    fn pattern(&mut self, schema: &Value, value: &Value, path: &str) {
        let (Some(text), Some(value_text)) = (schema["pattern"].as_str(), value.as_str()) else {
            return;
        };
        if self.known.patterns.get(text).is_some_and(|pattern| !pattern.is_match(value_text)) {
            let why = format!("{path} in body should match '{text}'");
            self.errors.push(FieldError::invalid(path, value, &why));
        }
    }

    fn rule(
        &mut self,
        schema: &Value,
        rule: &Value,
        (value, old): (&Value, Option<&Value>),
        path: &str,
    ) {
        let text = rule["rule"].as_str().unwrap_or_default();
        let Some(program) = self.known.programs.get(text) else { return };
        let mut context = Context::with_env(LANGUAGE.clone());
        context.add_variable_from_value("self", cel(value));
        if program.references().has_variable(OLD) {
            let Some(old) = old else { return };
            context.add_variable_from_value(OLD, cel(old));
        }
        let told =
            rule["message"].as_str().map_or_else(|| format!("failed rule: {text}"), str::to_owned);
        let why = match program.execute(&context) {
            Ok(CelValue::Bool(true)) => return,
            Ok(CelValue::Bool(false)) => told,
            Ok(other) => format!("{other:?} is no verdict, evaluating rule: {told}"),
            Err(error) => format!("{error} evaluating rule: {told}"),
        };
        self.errors.push(FieldError::invalid(path, &schema["type"], &why));
    }
}

/// A value as CEL sees it.
pub(super) fn cel(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => CelValue::Int(number),
            (None, Some(number)) => CelValue::UInt(number),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(list) => CelValue::List(Arc::new(list.iter().map(cel).collect())),
        Value::Object(map) => {
            let map: HashMap<String, CelValue> =
                map.iter().map(|(key, value)| (key.clone(), cel(value))).collect();
            map.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A schema with one rule for `spec`.
    fn schema(rule: &str) -> Value {
        json!({"type": "object", "properties": {"spec": {
            "type": "object",
            RULES: [{"rule": rule, "message": "so it must be"}],
            "properties": {
                "mode": {"type": "string", "pattern": "^[A-Z]+$"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "ports": {"type": "array", "items": {"type": "integer"}},
            },
        }}})
    }

    #[track_caller]
    fn check(rule: &str, spec: Value, old: Option<Value>, expected: &[&str]) {
        let (schema, mut errors) = (schema(rule), Vec::new());
        let rules = Rules::compile(&schema, "schema", &mut errors);
        assert_eq!(errors, [], "{rule}");
        let (object, old) = (json!({"spec": spec}), old.map(|spec| json!({"spec": spec})));
        let errors = rules.check(&schema, &object, old.as_ref(), true);
        let errors: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        assert_eq!(errors, expected, "{rule} of {object}");
    }

    const BROKEN: &str = "spec: Invalid value: \"object\": so it must be";

    #[test]
    fn a_rule_that_is_false_is_told_with_its_message() {
        let spec = json!({"mode": "ON", "labels": {"a": "1", "bb": "2"}, "ports": [80, 443]});
        for (rule, expected) in [
            ("self.mode == 'ON'", &[][..]),
            ("self.mode.matches('^O')", &[]),
            ("self.mode.startsWith('X')", &[BROKEN]),
            ("size(self.labels) == 2 && self.labels.all(name, size(name) < 3)", &[]),
            ("self.labels.exists(name, name == 'c')", &[BROKEN]),
            ("has(self.mode) && !has(self.host)", &[]),
            ("(has(self.mode) ? 1 : 0) + (has(self.ports) ? 1 : 0) <= 1", &[BROKEN]),
            ("self.ports.exists_one(port, port > 100)", &[]),
            ("443 in self.ports && !(444 in self.ports)", &[]),
        ] {
            check(rule, spec.clone(), None, expected);
        }
    }

    #[test]
    fn a_rule_that_cannot_be_evaluated_refuses() {
        let (schema, mut errors) = (schema("int(self.mode) > 0"), Vec::new());
        let rules = Rules::compile(&schema, "", &mut errors);
        let errors = rules.check(&schema, &json!({"spec": {"mode": "ON"}}), None, true);
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(error.message.ends_with("evaluating rule: so it must be"), "{error}");
    }

    #[test]
    fn a_rule_of_change_waits_for_a_change() {
        let (rule, on, off) =
            ("self.mode == oldSelf.mode", json!({"mode": "ON"}), json!({"mode": "OFF"}));
        check(rule, on.clone(), None, &[]);
        check(rule, on.clone(), Some(on.clone()), &[]);
        check(rule, on, Some(off), &[BROKEN]);
    }

    #[test]
    fn a_pattern_is_found_anywhere_in_a_value() {
        check("true", json!({"mode": "ON"}), None, &[]);
        let expected =
            "spec.mode: Invalid value: \"On\": spec.mode in body should match '^[A-Z]+$'";
        check("true", json!({"mode": "On"}), None, &[expected]);
    }

    #[test]
    fn rules_that_do_not_compile_are_told() {
        for (rule, why) in [
            (json!({"rule": "self ="}), "compilation failed"),
            (json!({"message": "x"}), "is required"),
            (
                json!({"rule": "true", "messageExpression": "'x'"}),
                "messageExpression is not served",
            ),
        ] {
            let mut errors = Vec::new();
            Rules::compile(&json!({"type": "object", RULES: [rule]}), "schema", &mut errors);
            let [error] = errors.as_slice() else { panic!("{rule}: {errors:?}") };
            assert_eq!(error.field, format!("schema.{RULES}[0].rule"));
            assert!(error.message.contains(why), "{error}");
        }
    }
}
