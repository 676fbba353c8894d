//! Kubernetes, as far as the control plane needs it: the only part of it that sees its types.

pub use kube::Client;
