//! The SPIFFE identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;

use arcstr::ArcStr;

/// The trust domain that the workload API elides.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// A trust domain, correct once built: not empty, and free of `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(ArcStr);

/// A Kubernetes service account, correct once built: both parts are non-empty and free of `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    namespace: ArcStr,
    name: ArcStr,
}

/// A workload's identity, correct once built: every part is non-empty and free of `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    account: Account,
}

/// Why a string is not a workload's SPIFFE identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The scheme is missing.
    #[error("{0:?} does not start with spiffe://")]
    Scheme(String),
    /// Not exactly `td/ns/<ns>/sa/<sa>`.
    #[error("{0:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Shape(String),
    /// Not the name of a trust domain.
    #[error("{0:?} cannot be a trust domain: it is empty or holds a /")]
    TrustDomain(String),
    /// Not a namespace and the name of a service account.
    #[error("{0:?} cannot be a service account: a part is empty or holds a /")]
    Account(String),
}

impl SpiffeId {
    /// An identity from its parts.
    ///
    /// # Errors
    /// [`SpiffeIdError::Shape`] if a part is empty or holds a `/`.
    pub fn new(
        trust_domain: impl Into<ArcStr>,
        namespace: impl Into<ArcStr>,
        service_account: impl Into<ArcStr>,
    ) -> Result<Self, SpiffeIdError> {
        let (trust_domain, namespace) = (trust_domain.into(), namespace.into());
        let name = service_account.into();
        if ![&trust_domain, &namespace, &name].into_iter().all(sound) {
            let text = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}");
            return Err(SpiffeIdError::Shape(text));
        }
        Ok(Self { trust_domain: TrustDomain(trust_domain), account: Account { namespace, name } })
    }

    /// The trust domain, as `cluster.local`.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The service account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &ArcStr {
        &self.account.namespace
    }

    /// The Kubernetes service account's name.
    pub fn service_account(&self) -> &ArcStr {
        &self.account.name
    }
}

impl TrustDomain {
    /// A trust domain by its name.
    ///
    /// # Errors
    /// [`SpiffeIdError::TrustDomain`] if it is empty or holds a `/`.
    pub fn new(name: impl Into<ArcStr>) -> Result<Self, SpiffeIdError> {
        let name = name.into();
        if sound(&name) {
            Ok(Self(name))
        } else {
            Err(SpiffeIdError::TrustDomain(name.to_string()))
        }
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its name, to share.
    pub fn name(&self) -> &ArcStr {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, SpiffeIdError> {
        Self::new(name)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Account {
    /// An account from its parts.
    ///
    /// # Errors
    /// [`SpiffeIdError::Account`] if a part is empty or holds a `/`.
    pub fn new(
        namespace: impl Into<ArcStr>,
        name: impl Into<ArcStr>,
    ) -> Result<Self, SpiffeIdError> {
        let account = Self { namespace: namespace.into(), name: name.into() };
        if sound(&account.namespace) && sound(&account.name) {
            Ok(account)
        } else {
            Err(SpiffeIdError::Account(account.to_string()))
        }
    }

    /// The account's identity in a trust domain.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId { trust_domain: trust_domain.clone(), account: self.clone() }
    }

    /// The account's own name.
    pub fn name(&self) -> &ArcStr {
        &self.name
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn sound(part: &ArcStr) -> bool {
    !part.is_empty() && !part.contains('/')
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { namespace, name } = &self.account;
        write!(f, "spiffe://{}/ns/{namespace}/sa/{name}", self.trust_domain)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let Some(path) = text.strip_prefix("spiffe://") else {
            return Err(SpiffeIdError::Scheme(text.to_owned()));
        };
        let mut parts = path.split('/');
        let shape = || SpiffeIdError::Shape(text.to_owned());
        let (Some(td), Some("ns"), Some(ns), Some("sa"), Some(sa), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        Self::new(td, ns, sa).map_err(|_| shape())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, sound: bool) {
        assert_eq!(text.parse::<SpiffeId>().is_ok(), sound, "{text:?}");
    }

    #[test]
    fn an_identity_has_exactly_five_parts() {
        check("spiffe://cluster.local/ns/bookinfo/sa/details", true);
        check("spiffe://cluster.local/ns/bookinfo/sa/details/", false);
        check("spiffe://cluster.local/ns/bookinfo/sa", false);
        check("spiffe://cluster.local/ns/bookinfo/sa/", false);
        check("spiffe://cluster.local/ns//sa/details", false);
        check("spiffe:///ns/bookinfo/sa/details", false);
        check("spiffe://cluster.local/sa/details/ns/bookinfo", false);
        check("cluster.local/ns/bookinfo/sa/details", false);
        check("SPIFFE://cluster.local/ns/bookinfo/sa/details", false);
        check("", false);
    }

    proptest! {
        #[test]
        fn an_identity_survives_printing_and_parsing(
            domain in "[^/]{1,20}", namespace in "[^/]{1,20}", account in "[^/]{1,20}",
        ) {
            let id = SpiffeId::new(domain, namespace, account).unwrap();
            prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
            prop_assert_eq!(id.account().identity(id.trust_domain()), id);
        }

        #[test]
        fn parsing_arbitrary_text_never_panics_and_is_stable(
            text in prop_oneof![".{0,60}", "spiffe://[a-z/]{0,40}", "spiffe://.{0,9}/ns/.{0,9}/sa/.{0,9}"],
        ) {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
