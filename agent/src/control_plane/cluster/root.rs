//! The root, kept in a Secret so that it outlives us and replicas share it.

mod follow;
mod layout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, api::PostParams};

use super::{ApiError, request};
use crate::control_plane::ca::{Authority, AuthorityError, KeptAuthority};
pub use follow::{Root, follow};
use layout::Corruption;

/// The Secret's name.
pub const ROOT_SECRET: &str = "sotto-ca-secret";

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The Secret can be neither read nor made.
    #[error("{step} secret {namespace}/{ROOT_SECRET}")]
    Api {
        /// Which of the two.
        step: &'static str,
        /// Where.
        namespace: String,
        /// Why.
        source: ApiError,
    },
    /// It is there, but nothing can be signed with it. It is never replaced: every certificate hangs on it.
    #[error(
        "secret {namespace}/{ROOT_SECRET} is corrupt; mend it, or delete it to start with a new root"
    )]
    Corrupt {
        /// Where.
        namespace: String,
        /// Why.
        source: Corruption,
    },
    /// A new one cannot be made.
    #[error("make a root")]
    Generate(#[source] AuthorityError),
}

/// What the Secret held.
#[derive(Debug)]
pub struct Found {
    authority: Arc<Authority>,
    /// Of the Secret, that held it.
    version: Option<String>,
}

/// The cluster's root: the one that is there, or a new one. Of several replicas that find none,
/// one makes it and the others take that one.
///
/// # Errors
/// The API server refuses, or what is there is not a root.
pub async fn root(client: Client, namespace: &str, trust_domain: &str) -> Result<Found, RootError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let api = |step| move |source| RootError::Api { step, namespace: namespace.to_owned(), source };
    let corrupt = |source| RootError::Corrupt { namespace: namespace.to_owned(), source };
    if let Some(found) = request(secrets.get_opt(ROOT_SECRET)).await.map_err(api("read"))? {
        return read(&found).map_err(corrupt);
    }
    let now = SystemTime::now();
    let made = KeptAuthority::generate(trust_domain, now).map_err(RootError::Generate)?;
    match request(secrets.create(&PostParams::default(), &secret(namespace, &made))).await {
        Ok(kept) => {
            tracing::info!(namespace, secret = ROOT_SECRET, "new root made");
            read(&kept).map_err(corrupt)
        }
        Err(error) if error.code() == Some(409) => {
            let found = request(secrets.get(ROOT_SECRET)).await.map_err(api("read"))?;
            read(&found).map_err(corrupt)
        }
        Err(error) => Err(api("create")(error)),
    }
}

fn read(secret: &Secret) -> Result<Found, Corruption> {
    let authority = Authority::load(&layout::parts(secret)?, SystemTime::now())?;
    let version = secret.metadata.resource_version.clone();
    Ok(Found { authority: Arc::new(authority), version })
}

fn secret(namespace: &str, root: &KeptAuthority) -> Secret {
    let data =
        [(layout::CERTIFICATE, root.certificate.as_bytes()), (layout::KEY, root.key.as_bytes())];
    let data = data.map(|(part, text)| (part.to_owned(), ByteString(text.to_vec())));
    Secret {
        metadata: ObjectMeta {
            name: Some(ROOT_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from(data)),
        type_: Some("istio.io/ca-root".to_owned()),
        ..Secret::default()
    }
}
