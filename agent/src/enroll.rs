//! Which pods are ours: found in the cluster and told by CNI, captured and released one by one.

pub mod install;
