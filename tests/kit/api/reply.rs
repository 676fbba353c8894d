//! Answers: JSON with a status code and warnings, in the form the client wants.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::error::ApiError;
use super::request::{Form, Params};
use super::resource::Resource;
use super::table::{self, Include};

/// The resource, the version and the form objects are sent in.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    /// Which resource.
    pub resource: &'a Resource,
    /// In which version.
    pub version: &'a str,
    /// In which form.
    pub form: Form,
    /// How much of an object a table row carries.
    pub include: Include,
}

impl<'a> View<'a> {
    /// As a request asks for it.
    pub(super) fn new(
        resource: &'a Resource,
        version: &'a str,
        form: Form,
        params: &Params,
    ) -> Self {
        Self { resource, version, form, include: Include::parse(params.get("includeObject")) }
    }

    /// A stored object in the version of the view. Versions differ in their name only.
    pub(super) fn convert(&self, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = json!(self.resource.api_version(self.version));
        object
    }

    /// One object.
    pub(super) fn object(&self, object: &Value) -> Value {
        let object = self.convert(object);
        match self.form {
            Form::Whole => object,
            Form::Partial => table::partial(&object),
            Form::Table => table::table(
                self.resource,
                self.version,
                std::slice::from_ref(&object),
                self.include,
            ),
        }
    }

    /// A list of objects as of a revision.
    pub(super) fn list(&self, objects: &[Arc<Value>], revision: u64) -> Value {
        let objects: Vec<Value> = objects.iter().map(|object| self.convert(object)).collect();
        let metadata = json!({"resourceVersion": revision.to_string()});
        let (api_version, kind, items) = match self.form {
            Form::Table => {
                let mut table = table::table(self.resource, self.version, &objects, self.include);
                table["metadata"] = metadata;
                return table;
            }
            Form::Whole => {
                let api_version = self.resource.api_version(self.version);
                (api_version, format!("{}List", self.resource.kind), objects)
            }
            Form::Partial => {
                let items = objects.iter().map(table::partial).collect();
                ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned(), items)
            }
        };
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})
    }
}

/// A JSON answer.
pub(super) fn json_reply(
    code: StatusCode,
    value: &Value,
    content_type: &'static str,
) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// An error as a `Status`.
pub(super) fn error_reply(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_reply(code, &error.to_status(), "application/json")
}

/// A plain text answer.
pub(super) fn text_reply(text: &'static str) -> Response<Body> {
    Response::new(Body::from(text))
}

/// Adds warnings that kubectl prints.
pub(super) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning.chars().filter(|c| *c != '"' && !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
