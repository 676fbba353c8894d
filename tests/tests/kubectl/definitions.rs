//! The definitions of Istio's kinds, as deployed: each thing that they ask refuses, when it is applied, what
//! breaks it and nothing else, and takes what just holds.
//!
//! What is asked is read from the definitions: a new pattern or rule without an example here fails.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::cluster::Cluster;

#[path = "definitions/examples.rs"]
mod examples;

use examples::{of_pattern, rules};

/// Something that a schema asks of the value at `path`.
#[derive(Debug)]
struct Asked {
    path: Vec<Step>,
    what: What,
}

/// One step down a schema.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Item,
    /// A key of a map: the name is the example's.
    Key(&'static str),
}

#[derive(Debug)]
enum What {
    Enum(Value),
    Required(String),
    /// A keyword and its number.
    Bound(&'static str, i64),
    Pattern(String),
    /// A CEL rule and its message.
    Rule(String, String),
}

const BOUNDS: [&str; 8] = [
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];

/// All that a schema asks.
fn asked(schema: &Value, path: &[Step], all: &mut Vec<Asked>) {
    let mut add = |what| all.push(Asked { path: path.to_vec(), what });
    if schema["enum"].is_array() {
        add(What::Enum(schema["enum"].clone()));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        add(What::Required(name.as_str().unwrap().to_owned()));
    }
    for bound in BOUNDS {
        if let Some(number) = schema[bound].as_i64() {
            add(What::Bound(bound, number));
        }
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        add(What::Pattern(pattern.to_owned()));
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = |field: &str| rule[field].as_str().unwrap().to_owned();
        add(What::Rule(text("rule"), text("message")));
    }
    let below = |step: Step| path.iter().cloned().chain([step]).collect::<Vec<_>>();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        asked(property, &below(Step::Field(name.clone())), all);
    }
    if schema["items"].is_object() {
        asked(&schema["items"], &below(Step::Item), all);
    }
    if schema["additionalProperties"].is_object() {
        asked(&schema["additionalProperties"], &below(Step::Key(key_of(path))), all);
    }
}

/// A key that a map takes.
fn key_of(path: &[Step]) -> &'static str {
    if path.last() == Some(&Step::Field("portLevelMtls".to_owned())) { "80" } else { "app" }
}

/// The smallest value that a schema takes.
fn example(schema: &Value) -> Value {
    match schema["type"].as_str().unwrap() {
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten();
            let required: Vec<&str> = required.map(|name| name.as_str().unwrap()).collect();
            let properties = schema["properties"].as_object().into_iter().flatten();
            // Of those that may be there, as few as must.
            let least = usize::try_from(schema["minProperties"].as_u64().unwrap_or(0)).unwrap();
            let more = properties.map(|(name, _)| name.as_str()).filter(|n| !required.contains(n));
            let more = more.take(least.saturating_sub(required.len())).collect::<Vec<_>>();
            let names = required.into_iter().chain(more);
            let mut made: Value =
                names.map(|n| (n.to_owned(), example(&schema["properties"][n]))).collect();
            // A condition needs values, which its rule asks for.
            if schema["properties"]["notValues"].is_object() {
                made["values"] = json!(["a"]);
            }
            made
        }
        "array" => (0..schema["minItems"].as_u64().unwrap_or(0))
            .map(|_| example(&schema["items"]))
            .collect(),
        "integer" => json!(schema["minimum"].as_i64().unwrap_or(0)),
        _ => match (&schema["enum"], schema["pattern"].as_str()) {
            (Value::Array(all), _) => all[0].clone(),
            (_, Some(pattern)) => json!(of_pattern(pattern).1[0]),
            _ => json!("a"),
        },
    }
}

/// The schema of what a step leads to.
fn follow<'s>(schema: &'s Value, step: &Step) -> &'s Value {
    match step {
        Step::Field(name) => &schema["properties"][name],
        Step::Item => &schema["items"],
        Step::Key(_) => &schema["additionalProperties"],
    }
}

/// The smallest value of `schema` with `value` at `path`, over what `base` has.
fn place(schema: &Value, base: Value, path: &[Step], value: Value) -> Value {
    let Some((step, rest)) = path.split_first() else { return value };
    let inner = follow(schema, step);
    let (key, into) = match step {
        Step::Item => return json!([place(inner, example(inner), rest, value)]),
        Step::Field(name) => (name.as_str(), base),
        Step::Key(name) => (*name, base),
    };
    let mut into = if into.is_object() { into } else { example(schema) };
    let below = into.get(key).cloned().unwrap_or_else(|| example(inner));
    into[key] = place(inner, below, rest, value);
    into
}

/// `count` of something that a schema takes, as its type has it.
fn many(schema: &Value, count: i64) -> Value {
    match schema["type"].as_str().unwrap() {
        "string" => json!("a".repeat(usize::try_from(count).unwrap())),
        "array" => (0..count).map(|_| example(&schema["items"])).collect(),
        "object" if schema["properties"].is_object() => {
            let properties = schema["properties"].as_object().unwrap().iter();
            let some = properties.take(usize::try_from(count).unwrap());
            some.map(|(name, schema)| (name.clone(), example(schema))).collect()
        }
        "object" => {
            let value = example(&schema["additionalProperties"]);
            (0..count).map(|at| ((at + 1).to_string(), value.clone())).collect()
        }
        _ => json!(count),
    }
}

/// Values that just hold and values that do not, and what is told of the latter.
fn examples(schema: &Value, what: &What) -> (Vec<Value>, Vec<Value>, String) {
    let owned = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<_>>();
    match what {
        What::Enum(all) => (
            all.as_array().unwrap().clone(),
            vec![json!("NONE_OF_THESE"), json!(all[0].as_str().unwrap().to_lowercase())],
            "supported values".to_owned(),
        ),
        What::Required(name) => {
            let mut without = example(schema);
            without.as_object_mut().unwrap().remove(name);
            (vec![example(schema)], vec![without], "Required value".to_owned())
        }
        What::Bound(word, bound) => {
            let beyond = if word.starts_with("min") { bound - 1 } else { bound + 1 };
            let told = if word.starts_with("min") { "at least" } else { "at most" };
            let told = match *word {
                "minimum" => "greater than or equal to",
                "maximum" => "less than or equal to",
                _ => told,
            };
            (vec![many(schema, *bound)], vec![many(schema, beyond)], told.to_owned())
        }
        What::Pattern(pattern) => {
            let (_, good, bad) = of_pattern(pattern);
            (owned(good), owned(bad), format!("should match '{pattern}'"))
        }
        What::Rule(rule, message) => {
            let all = rules();
            let found = all.into_iter().find(|(start, ..)| message.starts_with(start));
            let (_, good, bad) =
                found.unwrap_or_else(|| panic!("no example of the rule {rule}: {message}"));
            (good, bad, message.clone())
        }
    }
}

/// What everything of a kind needs beside the value in question.
fn base(plural: &str, path: &[Step]) -> Value {
    let first = path.get(1);
    match plural {
        "peerauthentications" if first == Some(&Step::Field("portLevelMtls".to_owned())) => {
            json!({ "selector": { "matchLabels": { "app": "a" } } })
        }
        "destinationrules" => json!({ "host": "a" }),
        _ => json!({}),
    }
}

fn written(path: &[Step]) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Item => "[0]".to_owned(),
        Step::Key(name) => format!("[{name}]"),
    };
    path.iter().map(step).collect::<String>().trim_start_matches('.').to_owned()
}

/// Without the difference between `.name` and `[name]`, which Kubernetes makes for rules.
fn plain(path: &str) -> String {
    path.replace(['[', ']'], ".").split('.').filter(|p| !p.is_empty()).collect::<Vec<_>>().join(".")
}

struct Kind {
    plural: String,
    kind: String,
    group: String,
    version: String,
    schema: Value,
}

/// Every version of every definition that is deployed.
fn kinds(cluster: &Cluster) -> Vec<Kind> {
    let listed = cluster.api.store().list("customresourcedefinitions", "", "").unwrap();
    let mut kinds = Vec::new();
    for crd in &listed {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let spec = &crd["spec"];
        for version in spec["versions"].as_array().unwrap() {
            kinds.push(Kind {
                plural: text(&spec["names"]["plural"]),
                kind: text(&spec["names"]["kind"]),
                group: text(&spec["group"]),
                version: text(&version["name"]),
                schema: version["schema"]["openAPIV3Schema"].clone(),
            });
        }
    }
    kinds
}

impl Kind {
    fn object(&self, asked: &Asked, value: Value) -> Value {
        let schema = &self.schema["properties"]["spec"];
        let spec = place(schema, base(&self.plural, &asked.path), &asked.path[1..], value);
        json!({
            "apiVersion": format!("{}/{}", self.group, self.version), "kind": self.kind,
            "metadata": { "name": "a", "namespace": "default" }, "spec": spec,
        })
    }

    /// All that the schema of `spec` asks.
    fn asked(&self) -> Vec<Asked> {
        let (mut all, path) = (Vec::new(), [Step::Field("spec".to_owned())]);
        asked(&self.schema["properties"]["spec"], &path, &mut all);
        all
    }

    fn at(&self, path: &[Step]) -> &Value {
        path.iter().fold(&self.schema, follow)
    }
}

#[test]
fn whatever_a_definition_asks_is_refused_when_it_is_broken_and_taken_when_it_holds() {
    let cluster = Cluster::start();
    cluster.ok(concat!("apply -k ", env!("CARGO_MANIFEST_DIR"), "/../deploy/crds"));
    let store = cluster.api.store();
    let (mut kinds_seen, mut broken) = (BTreeSet::new(), 0);
    for kind in kinds(&cluster) {
        kinds_seen.insert(kind.plural.clone());
        for asked in kind.asked() {
            let (good, bad, told) = examples(kind.at(&asked.path), &asked.what);
            for value in good {
                let object = kind.object(&asked, value);
                let made = store.create(object.clone());
                assert!(made.is_ok(), "{asked:?} refuses {object}: {}", made.unwrap_err());
                store
                    .delete(&kind.plural, "default", "a", &kit::api::DeleteOptions::now())
                    .unwrap();
            }
            let field = match &asked.what {
                What::Required(name) => format!("{}.{name}", written(&asked.path)),
                _ => written(&asked.path),
            };
            for value in bad {
                let object = kind.object(&asked, value);
                let Err(error) = store.create(object.clone()) else {
                    panic!("{asked:?} takes {object}")
                };
                let causes = error.details["causes"].as_array().unwrap();
                let [cause] = causes.as_slice() else { panic!("{asked:?} of {object}: {error}") };
                assert_eq!(plain(cause["field"].as_str().unwrap()), plain(&field), "{object}");
                assert!(error.message.contains(&told), "{asked:?}: {error}");
                broken += 1;
            }
        }
    }
    let expected = ["authorizationpolicies", "destinationrules", "peerauthentications"];
    assert_eq!(kinds_seen.iter().collect::<Vec<_>>(), expected);
    assert!(broken > 200, "only {broken} things were broken");
}

#[test]
fn kubectl_apply_fails_with_the_message_of_the_rule_that_is_broken() {
    let cluster = Cluster::start();
    cluster.ok(concat!("apply -k ", env!("CARGO_MANIFEST_DIR"), "/../deploy/crds"));
    let mut seen = Map::new();
    for kind in kinds(&cluster).iter().filter(|kind| kind.version == "v1") {
        for asked in kind.asked() {
            let What::Rule(_, message) = &asked.what else { continue };
            if seen.insert(message.clone(), Value::Null).is_some() {
                continue;
            }
            let (good, bad, _) = examples(kind.at(&asked.path), &asked.what);
            let said =
                cluster.fails_with("apply -f -", &kind.object(&asked, bad[0].clone()).to_string());
            let start = format!("The {} \"a\" is invalid: spec", kind.kind);
            assert!(said.contains(&start) && said.contains(message), "{message}: {said}");
            cluster.ok_with("apply -f -", &kind.object(&asked, good[0].clone()).to_string());
            // What is in force cannot be made wrong either.
            cluster.fails_with("apply -f -", &kind.object(&asked, bad[0].clone()).to_string());
            cluster.ok(&format!("delete {} a", kind.plural));
        }
    }
    assert_eq!(seen.len(), rules().len(), "{seen:?}");
}
