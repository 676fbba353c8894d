//! Bearer tokens: who a request is from, and what token reviews answer.
//!
//! Tokens look like those of service accounts (a JWT whose claims can be read), but are known by heart, not by
//! signature.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};

use super::clock;
use super::json::string_at;
use super::names;
use super::state::{Place, State};

/// The audience of tokens for the API server itself.
pub const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";
/// Tokens kept; when there are more, expired ones go, then the one that expires first.
const TOKENS: usize = 65_536;

/// The pod a token is bound to: it is valid as long as the pod exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodBinding {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The node it runs on, empty if none yet.
    pub node: String,
}

/// A service account, as a token names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Who a token stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// As `system:serviceaccount:istio-system:sotto`.
    pub username: String,
    /// The account's uid.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Pod and node of a bound token, lists by key.
    pub extra: Value,
}

#[derive(Debug, Clone)]
struct Token {
    identity: Identity,
    audiences: Vec<String>,
    expires: i64,
    /// None for tokens of people.
    account: Option<Account>,
    pod: Option<PodBinding>,
}

/// All tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Token>>);

impl Tokens {
    /// Makes a token for a person in groups, valid for the API until the server ends.
    pub(super) fn mint_user(&self, username: &str, groups: &[&str]) -> String {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        let identity =
            Identity { username: username.to_owned(), uid: names::uid(), groups, extra: json!({}) };
        let claims = json!({"sub": username, "aud": [API_AUDIENCE]});
        let audiences = vec![API_AUDIENCE.to_owned()];
        self.keep(
            &claims,
            Token { identity, audiences, expires: i64::MAX, account: None, pod: None },
        )
    }

    /// Makes a token for a service account; no audience means the API's own.
    pub(super) fn mint(
        &self,
        account: Account,
        pod: Option<PodBinding>,
        audiences: Vec<String>,
        ttl_seconds: i64,
    ) -> String {
        let audiences =
            if audiences.is_empty() { vec![API_AUDIENCE.to_owned()] } else { audiences };
        let (issued, id) = (clock::unix_now(), names::uid());
        let expires = issued.saturating_add(ttl_seconds);
        let (namespace, name) = (&account.namespace, &account.name);
        let username = format!("system:serviceaccount:{namespace}:{name}");
        let mut about =
            json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": account.uid}});
        let mut extra =
            json!({"authentication.kubernetes.io/credential-id": [format!("JTI={id}")]});
        if let Some(pod) = &pod {
            about["pod"] = json!({"name": pod.name, "uid": pod.uid});
            extra["authentication.kubernetes.io/pod-name"] = json!([pod.name]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([pod.uid]);
            if !pod.node.is_empty() {
                about["node"] = json!({"name": pod.node});
                extra["authentication.kubernetes.io/node-name"] = json!([pod.node]);
            }
        }
        let claims = json!({
            "iss": API_AUDIENCE, "sub": username, "aud": audiences, "iat": issued, "nbf": issued,
            "exp": expires, "jti": id, "kubernetes.io": about,
        });
        let groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        let identity = Identity { username, uid: account.uid.clone(), groups, extra };
        self.keep(&claims, Token { identity, audiences, expires, account: Some(account), pod })
    }

    fn keep(&self, claims: &Value, token: Token) -> String {
        let header = json!({"alg": "ES256", "kid": "pocket", "typ": "JWT"});
        let signature: [u8; 64] = rand::rng().random();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let text = [
            part(header.to_string().as_bytes()),
            part(claims.to_string().as_bytes()),
            part(&signature),
        ]
        .join(".");
        let mut tokens = self.0.lock();
        if tokens.len() >= TOKENS {
            let now = clock::unix_now();
            tokens.retain(|_, token| token.expires > now);
            let first = tokens.iter().min_by_key(|(_, token)| token.expires);
            if let Some(first) = first.map(|(text, _)| text.clone())
                && tokens.len() >= TOKENS
            {
                tokens.remove(&first);
            }
        }
        tokens.insert(text.clone(), token);
        text
    }

    /// Who a token stands for and which of the audiences it is good for.
    ///
    /// # Errors
    /// Why it is not good, as a token review tells it.
    pub(super) fn authenticate(
        &self,
        state: &State,
        text: &str,
        audiences: &[String],
    ) -> Result<(Identity, Vec<String>), &'static str> {
        let token = self.0.lock().get(text).cloned().ok_or("invalid bearer token")?;
        if token.expires <= clock::unix_now() {
            return Err("invalid bearer token, token has expired");
        }
        let fitting: Vec<String> =
            audiences.iter().filter(|a| token.audiences.contains(a)).cloned().collect();
        if fitting.is_empty() {
            return Err("token audiences are invalid for the target audiences");
        }
        if let Some(account) = &token.account {
            let lives = |plural: &str, name: &str, uid: &str| {
                let resource = state.registry.get("", plural)?;
                let object = state.find(&Place::new(&resource, &account.namespace, name))?;
                (string_at(&object, &["metadata", "uid"]) == uid).then_some(())
            };
            lives("serviceaccounts", &account.name, &account.uid)
                .ok_or("service account has been deleted")?;
            if let Some(pod) = &token.pod {
                lives("pods", &pod.name, &pod.uid).ok_or("pod has been deleted")?;
            }
        }
        Ok((token.identity, fitting))
    }
}
