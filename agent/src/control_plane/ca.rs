//! The certificate authority: it signs a node agent's requests on behalf of the pods of its node.

mod admit;
mod authority;
mod service;

pub use admit::{Admission, Refusal};
pub use authority::{Authority, AuthorityError, RootPem};
pub use service::{Ca, CaConfig};
