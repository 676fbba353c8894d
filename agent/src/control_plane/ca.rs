//! The certificate authority: it signs a node agent's requests on behalf of the pods of its node.

mod admit;
mod authority;
mod chain;
mod pem;
mod service;

pub use admit::{Admission, Refusal};
pub use authority::{Authority, AuthorityError, KeptAuthority};
pub use chain::{Chain, ChainError, Link};
pub use service::{Ca, CaConfig};
