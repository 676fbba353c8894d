//! Objects as the tables that `kubectl get` prints.

use serde_json::{Value, json};

use super::clock;
use super::columns;
use super::definition::Column;
use super::json::{at, string_at};
use super::jsonpath;
use super::resource::Resource;

/// How much of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// From the query.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// The table of objects of one resource in a version.
pub(super) fn table(
    resource: &Resource,
    version: &str,
    objects: &[Value],
    include: Include,
) -> Value {
    let custom = resource.definition().and_then(|d| d.version(version)).map(|v| &v.columns);
    let built_in = columns::of(resource);
    let mut headers = vec![header("Name", "string", "name", 0)];
    match custom {
        Some(custom) if !custom.is_empty() => {
            headers.extend(custom.iter().map(|c| header(&c.name, &c.kind, "", c.priority)));
        }
        Some(_) => headers.push(header("Age", "date", "", 0)),
        None => headers.extend(built_in.iter().map(|c| header(c.name, "string", "", c.priority))),
    }
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut cells = vec![json!(string_at(object, &["metadata", "name"]))];
            match custom {
                Some(custom) if !custom.is_empty() => {
                    cells.extend(custom.iter().map(|column| cell(column, object)));
                }
                Some(_) => cells.push(json!(columns::age(object))),
                None => cells.extend(built_in.iter().map(|c| json!((c.cell)(object)))),
            }
            row(cells, object, include)
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": headers, "rows": rows,
    })
}

fn header(name: &str, kind: &str, format: &str, priority: i64) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": name, "priority": priority})
}

fn row(cells: Vec<Value>, object: &Value, include: Include) -> Value {
    let mut row = json!({"cells": cells});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// The metadata of an object alone.
pub(super) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": at(object, &["metadata"]),
    })
}

fn cell(column: &Column, object: &Value) -> Value {
    let found = jsonpath::find(object, &column.path);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "date" => json!(clock::age(first.as_str().unwrap_or_default())),
        "integer" | "number" | "boolean" => (*first).clone(),
        _ => match first {
            Value::String(_) => (*first).clone(),
            other => json!(other.to_string()),
        },
    }
}
