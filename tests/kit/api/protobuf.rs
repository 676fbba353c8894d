//! Bodies that typed Go clients (kubectl's `create` commands among them) send in protobuf whatever the server says.
//!
//! Only what they send so is described; the rest of the API speaks JSON. Answers are always JSON, which these
//! clients accept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::decode_varint;
use serde_json::{Map, Value, json};

/// Before every protobuf body: `k8s` and a zero byte.
const MAGIC: &[u8] = b"k8s\0";
/// Messages deeper than this are refused.
const DEEPEST: usize = 16;

/// Field numbers, names and types: `s` string, `y` bytes, `i` number (0 is not set), `p` number that may be 0,
/// `t` bool, `m` map of strings, `n` map of bytes, `x` number or string, else a message; `*` is a list.
const MESSAGES: &[(&str, &str)] = &[
    ("Unknown", "1 type TypeMeta, 2 raw y"),
    ("TypeMeta", "1 apiVersion s, 2 kind s"),
    (
        "ObjectMeta",
        "1 name s, 2 generateName s, 3 namespace s, 11 labels m, 12 annotations m, \
         13 ownerReferences *OwnerReference, 14 finalizers *s",
    ),
    (
        "OwnerReference",
        "1 kind s, 3 name s, 4 uid s, 5 apiVersion s, 6 controller t, 7 blockOwnerDeletion t",
    ),
    ("Namespace", "1 metadata ObjectMeta"),
    ("ConfigMap", "1 metadata ObjectMeta, 2 data m, 3 binaryData n, 4 immutable t"),
    ("Secret", "1 metadata ObjectMeta, 2 data n, 3 type s, 4 stringData m, 5 immutable t"),
    ("ServiceAccount", "1 metadata ObjectMeta, 4 automountServiceAccountToken t"),
    ("Service", "1 metadata ObjectMeta, 2 spec ServiceSpec"),
    (
        "ServiceSpec",
        "1 ports *ServicePort, 2 selector m, 3 clusterIP s, 4 type s, 10 externalName s, \
         18 clusterIPs *s",
    ),
    (
        "ServicePort",
        "1 name s, 2 protocol s, 3 port i, 4 targetPort x, 5 nodePort i, 6 appProtocol s",
    ),
    ("IntOrString", "1 type i, 2 intVal i, 3 strVal s"),
    ("Deployment", "1 metadata ObjectMeta, 2 spec DeploymentSpec"),
    ("DeploymentSpec", "1 replicas p, 2 selector LabelSelector, 3 template PodTemplateSpec"),
    ("LabelSelector", "1 matchLabels m"),
    ("PodTemplateSpec", "1 metadata ObjectMeta, 2 spec PodSpec"),
    ("PodSpec", "2 containers *Container, 3 restartPolicy s, 8 serviceAccountName s"),
    ("Container", "1 name s, 2 image s, 3 command *s, 4 args *s, 6 ports *ContainerPort"),
    ("ContainerPort", "1 name s, 2 hostPort i, 3 containerPort i, 4 protocol s"),
    ("Role", "1 metadata ObjectMeta, 2 rules *PolicyRule"),
    ("ClusterRole", "1 metadata ObjectMeta, 2 rules *PolicyRule"),
    (
        "PolicyRule",
        "1 verbs *s, 2 apiGroups *s, 3 resources *s, 4 resourceNames *s, 5 nonResourceURLs *s",
    ),
    ("RoleBinding", "1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef"),
    ("ClusterRoleBinding", "1 metadata ObjectMeta, 2 subjects *Subject, 3 roleRef RoleRef"),
    ("Subject", "1 kind s, 2 apiGroup s, 3 name s, 4 namespace s"),
    ("RoleRef", "1 apiGroup s, 2 kind s, 3 name s"),
    ("TokenRequest", "1 metadata ObjectMeta, 2 spec TokenRequestSpec"),
    (
        "TokenRequestSpec",
        "1 audiences *s, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds p",
    ),
    ("BoundObjectReference", "1 kind s, 2 apiVersion s, 3 name s, 4 uid s"),
    ("SelfSubjectReview", "1 metadata ObjectMeta"),
    ("SelfSubjectAccessReview", "1 metadata ObjectMeta, 2 spec AccessReviewSpec"),
    (
        "AccessReviewSpec",
        "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes",
    ),
    (
        "ResourceAttributes",
        "1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, 6 subresource s, 7 name s",
    ),
    ("NonResourceAttributes", "1 path s, 2 verb s"),
    ("SelfSubjectRulesReview", "1 metadata ObjectMeta, 2 spec RulesReviewSpec"),
    ("RulesReviewSpec", "1 namespace s"),
    ("Eviction", "1 metadata ObjectMeta, 2 deleteOptions DeleteOptions"),
    ("DeleteOptions", "1 gracePeriodSeconds p, 4 propagationPolicy s"),
];

/// The object in a protobuf body.
///
/// # Errors
/// What is wrong with it, or that its kind is not described.
pub(super) fn object(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(MAGIC).ok_or("not a Kubernetes protobuf body")?;
    let envelope = message("Unknown", envelope, 0)?;
    let raw = envelope["raw"].as_str().unwrap_or_default();
    let raw = STANDARD.decode(raw).map_err(|error| error.to_string())?;
    let kind = envelope["type"]["kind"].as_str().unwrap_or_default();
    let mut object = message(kind, &raw, 0)?;
    for field in ["apiVersion", "kind"] {
        object[field] = envelope["type"][field].clone();
    }
    if kind.ends_with("Review") && object["spec"].is_null() {
        object["spec"] = json!({});
    }
    Ok(object)
}

/// The fields of a message that are described and set.
fn message(name: &str, mut bytes: &[u8], depth: usize) -> Result<Value, String> {
    let fields = MESSAGES.iter().find(|(message, _)| *message == name);
    let (_, fields) = fields.ok_or_else(|| format!("{name:?} is not taken in protobuf"))?;
    if depth > DEEPEST {
        return Err("too deep".to_owned());
    }
    let mut object = Map::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes)?;
        let found = fields.split(", ").map(parse_field).find(|field| field.0 == key >> 3);
        let payload = payload(&mut bytes, key & 7)?;
        let Some((_, name, kind)) = found else { continue };
        add(&mut object, name, kind, payload, depth)?;
    }
    Ok(Value::Object(object))
}

fn parse_field(text: &str) -> (u64, &str, &str) {
    let mut words = text.split_whitespace();
    let number = words.next().and_then(|n| n.parse().ok()).unwrap_or_default();
    (number, words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

enum Payload<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

fn number(bytes: &mut &[u8]) -> Result<u64, String> {
    decode_varint(bytes).map_err(|error| error.to_string())
}

fn payload<'a>(bytes: &mut &'a [u8], wire_type: u64) -> Result<Payload<'a>, String> {
    let length = match wire_type {
        0 => return Ok(Payload::Number(number(bytes)?)),
        1 => 8,
        2 => usize::try_from(number(bytes)?).map_err(|error| error.to_string())?,
        5 => 4,
        other => return Err(format!("unknown wire type {other}")),
    };
    let (payload, rest) = bytes.split_at_checked(length).ok_or("cut short")?;
    *bytes = rest;
    Ok(if wire_type == 2 { Payload::Bytes(payload) } else { Payload::Other })
}

fn add(
    object: &mut Map<String, Value>,
    name: &str,
    kind: &str,
    payload: Payload<'_>,
    depth: usize,
) -> Result<(), String> {
    if let ("m" | "n", Payload::Bytes(entry)) = (kind, &payload) {
        let (key, value) = map_entry(entry, kind == "n")?;
        let map = object.entry(name).or_insert_with(|| json!({}));
        map[key] = value;
        return Ok(());
    }
    let (repeated, kind) = match kind.strip_prefix('*') {
        Some(kind) => (true, kind),
        None => (false, kind),
    };
    let value = match (kind, payload) {
        ("i", Payload::Number(0)) => return Ok(()),
        ("i" | "p", Payload::Number(number)) => json!(number.cast_signed()),
        ("t", Payload::Number(number)) => json!(number != 0),
        ("s", Payload::Bytes(text)) => json!(String::from_utf8_lossy(text)),
        ("y", Payload::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        ("x", Payload::Bytes(bytes)) => either(&message("IntOrString", bytes, depth + 1)?),
        (_, Payload::Bytes(bytes)) => message(kind, bytes, depth + 1)?,
        _ => return Err(format!("{name} has another type")),
    };
    if repeated {
        if let Value::Array(list) = object.entry(name).or_insert_with(|| json!([])) {
            list.push(value);
        }
    } else if value != json!("") && value != json!({}) && !value.is_null() {
        object.insert(name.to_owned(), value);
    }
    Ok(())
}

fn map_entry(mut bytes: &[u8], of_bytes: bool) -> Result<(String, Value), String> {
    let (mut key, mut value) = (String::new(), json!(""));
    while !bytes.is_empty() {
        let tag = number(&mut bytes)?;
        match (tag >> 3, payload(&mut bytes, tag & 7)?) {
            (1, Payload::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, Payload::Bytes(data)) if of_bytes => value = json!(STANDARD.encode(data)),
            (2, Payload::Bytes(text)) => value = json!(String::from_utf8_lossy(text)),
            _ => {}
        }
    }
    Ok((key, value))
}

/// A number or a string; 0 means that it is not set.
fn either(message: &Value) -> Value {
    match message["type"].as_i64() {
        Some(1) => message["strVal"].clone(),
        _ => message["intVal"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_namespace_as_go_clients_send_it() {
        let mut body = MAGIC.to_vec();
        body.extend(
            b"\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x0b\x0a\x07\x0a\x01a\x12\x00\x42\x00\x12\x00",
        );
        let expected = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
        assert_eq!(object(&body), Ok(expected));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ignored = message("Deployment", &bytes, 0).is_ok();
            let _ignored = object(&[MAGIC, &bytes].concat()).is_ok();
        }
    }
}
