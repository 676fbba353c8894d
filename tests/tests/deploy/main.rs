//! What `deploy/` installs: that it renders, that a cluster takes it, and that its parts agree.
//!
//! Needs kubectl, and no cluster.

mod agree;
mod crd;
mod flags;
mod render;
mod typed;
