use serde_json::{Value, json};

use super::*;

fn judge(status: Value) -> Result<Caller, String> {
    caller(serde_json::from_value(json!({ "spec": {}, "status": status })).unwrap())
}

fn valid() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": "system:serviceaccount:istio-system:sotto",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["sotto-x"],
                "authentication.kubernetes.io/pod-uid": ["u1"],
            },
        },
    })
}

#[test]
fn a_valid_token_names_account_and_pod() {
    let pod = CallerPod { name: "sotto-x".to_owned(), uid: "u1".to_owned() };
    let expected = Caller { account: ObjectKey::new("istio-system", "sotto"), pod: Some(pod) };
    assert_eq!(judge(valid()), Ok(expected));
}

#[test]
fn a_token_without_a_pod_is_unbound() {
    let mut unbound = valid();
    unbound["user"]["extra"] = json!({});
    assert_eq!(judge(unbound).unwrap().pod, None);
}

#[test]
fn invalid_tokens_are_told_apart() {
    let check = |field: &str, value: Value, expected: &str| {
        let mut status = valid();
        status[field] = value;
        assert_eq!(judge(status), Err(expected.to_owned()));
    };
    check("authenticated", json!(false), "token is not valid for audience istio-ca");
    check("audiences", json!(["other"]), "token is not for audience istio-ca");
    check("audiences", json!([]), "token is not for audience istio-ca");
    check("user", json!({ "username": "admin" }), r#""admin" is not a service account"#);
    let expired = json!({ "authenticated": false, "error": "expired" });
    assert_eq!(judge(expired), Err("token is not valid: expired".to_owned()));
}
