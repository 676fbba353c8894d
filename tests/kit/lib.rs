//! The pocket cluster: an API server, nodes and pods, without Kubernetes.
pub mod lab;
