//! The SPIFFE identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;

use arcstr::ArcStr;

/// The trust domain that the workload API elides.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// A workload's identity, correct once built: every part is non-empty and free of `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: ArcStr,
    namespace: ArcStr,
    service_account: ArcStr,
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
        let id = Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        let sound = |part: &ArcStr| !part.is_empty() && !part.contains('/');
        if sound(&id.trust_domain) && sound(&id.namespace) && sound(&id.service_account) {
            Ok(id)
        } else {
            Err(SpiffeIdError::Shape(id.to_string()))
        }
    }

    /// The trust domain, as `cluster.local`.
    pub fn trust_domain(&self) -> &ArcStr {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &ArcStr {
        &self.namespace
    }

    /// The Kubernetes service account's name.
    pub fn service_account(&self) -> &ArcStr {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
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
            prop_assert_eq!(id.to_string().parse(), Ok(id));
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
