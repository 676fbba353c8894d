//! The root, kept in a Secret so that it outlives us and replicas share it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, api::PostParams};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{ApiError, request};
use crate::control_plane::ca::{Authority, AuthorityError, RootPem};

/// The Secret's name.
pub const ROOT_SECRET: &str = "sotto-ca-secret";
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
/// How often it is looked whether it is another one.
const CHECK: Duration = Duration::from_secs(10);

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
    /// It is there, but not a root. It is never replaced: every certificate hangs on it.
    #[error(
        "secret {namespace}/{ROOT_SECRET} is corrupt; restore it, or delete it to start with a new root"
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

/// What is wrong with a root.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// A part is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A part is not text.
    #[error("{0} is not text")]
    NotText(&'static str),
    /// Its content cannot sign.
    #[error(transparent)]
    Content(#[from] AuthorityError),
}

/// The cluster's root: the one that is there, or a new one. Of several replicas that find none,
/// one makes it and the others take that one.
///
/// # Errors
/// The API server refuses, or what is there is not a root.
pub async fn root(
    client: Client,
    namespace: &str,
    trust_domain: &str,
) -> Result<Authority, RootError> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let api = |step| move |source| RootError::Api { step, namespace: namespace.to_owned(), source };
    let corrupt = |source| RootError::Corrupt { namespace: namespace.to_owned(), source };
    if let Some(found) = request(secrets.get_opt(ROOT_SECRET)).await.map_err(api("read"))? {
        return read(&found).map_err(corrupt);
    }
    let made = RootPem::generate(trust_domain, SystemTime::now()).map_err(RootError::Generate)?;
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

/// Waits until the cluster's root is another one than `held`, which is PEM. What is gone or corrupt is
/// no other: whoever starts says so.
pub async fn replaced(client: Client, namespace: &str, held: &str) {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    loop {
        sleep(CHECK).await;
        match request(secrets.get_opt(ROOT_SECRET)).await {
            Ok(Some(found)) => match read(&found) {
                Ok(found) if found.root_pem() != held => return,
                Ok(_) => {}
                Err(error) => tracing::error!(secret = ROOT_SECRET, %error, "root is corrupt"),
            },
            Ok(None) => tracing::error!(secret = ROOT_SECRET, "root is gone; it is still in use"),
            Err(error) => tracing::debug!(%error, "root not checked"),
        }
    }
}

fn read(secret: &Secret) -> Result<Authority, Corruption> {
    let text = |part: &'static str| {
        let data = secret.data.as_ref().and_then(|data| data.get(part));
        let ByteString(bytes) = data.ok_or(Corruption::Missing(part))?;
        std::str::from_utf8(bytes).map_err(|_| Corruption::NotText(part))
    };
    let root = RootPem {
        certificate: text(CERTIFICATE)?.to_owned(),
        key: Zeroizing::new(text(KEY)?.to_owned()),
    };
    Ok(Authority::load(&root, SystemTime::now())?)
}

fn secret(namespace: &str, root: &RootPem) -> Secret {
    let data = [(CERTIFICATE, root.certificate.as_bytes()), (KEY, root.key.as_bytes())];
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
