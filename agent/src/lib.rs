//! Sotto's node agent and its embedded control plane, in the order of a connection's life.

// The one module that may know all others: it builds them and wires them together.
pub mod app;
// Flags and environment, typed, validated at once.
pub mod config;
// The story: what happens to a captured connection, outbound and inbound.
pub mod connection;

// May they talk.
pub mod authorize;
// How their connections come to us.
pub mod capture;
// What a pod is answered that asks for a name.
pub mod dns;
// Which pods are ours.
pub mod enroll;
// Who is at each end.
pub mod identify;
// Where it really goes.
pub mod route;
// How the bytes go.
pub mod tunnel;

// The embedded control plane.
pub mod control_plane;
// Who may ask for our own pages.
pub mod door;
// What we know of the mesh.
pub mod mesh;
// What others can see of us.
pub mod observe;
// Sockets, namespaces, shutdown: the only module with `unsafe`.
pub mod sys;
// How we learn it.
/// Errors told with everything that led to them.
pub mod error;
pub mod xds;
