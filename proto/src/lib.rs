//! Messages and services a mesh node exchanges with its control plane, and an agent with the next.
//!
//! The `.proto` files are this project's own; those of the control plane are wire-compatible with Istio's and Envoy's.

/// Delta aggregated discovery (`envoy.service.discovery.v3`).
pub mod ads {
    tonic::include_proto!("envoy.service.discovery.v3");

    use bytes::Bytes;
    use prost::Message as _;

    impl Resource {
        /// As a response has it.
        pub fn encoded(&self) -> Bytes {
            self.encode_to_vec().into()
        }
    }

    impl DeltaDiscoveryResponse {
        /// Its resources, taken apart.
        ///
        /// # Errors
        /// One of them is none.
        pub fn decoded(&self) -> Result<Vec<Resource>, prost::DecodeError> {
            self.resources.iter().map(|one| Resource::decode(&one[..])).collect()
        }
    }
}

/// The certificate service (`istio.v1.auth`).
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// Workloads and services (`istio.workload`).
#[expect(
    clippy::large_enum_variant,
    reason = "generated; a message is decoded once and taken apart"
)]
pub mod workload {
    tonic::include_proto!("istio.workload");
}

/// Authorization policies (`istio.security`).
pub mod security {
    tonic::include_proto!("istio.security");
}

/// What an agent gives to the one that follows it (`sotto.handover`).
pub mod handover {
    tonic::include_proto!("sotto.handover");
}

/// Type URL of [`workload::Address`] resources.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of [`security::Authorization`] resources.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";
