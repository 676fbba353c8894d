//! The far end of a tunnel: who it may be, and where.

use std::net::IpAddr;

use arcstr::ArcStr;

use crate::mesh::{Service, Workload};

use super::RouteError;

/// Whom the far end may prove to be: the workload, or an alternative the service names.
pub(super) fn expected(workload: &Workload, service: Option<&Service>) -> Vec<ArcStr> {
    let alternatives = service.into_iter().flat_map(|service| &service.subject_alt_names);
    let own = arcstr::format!("{}", workload.identity);
    std::iter::once(own).chain(alternatives.cloned()).collect()
}

/// An address to reach a workload at: one that may be used, of the family of another if there is one.
pub(super) fn address_for(
    workload: &Workload,
    like: IpAddr,
    may_be: impl Fn(IpAddr) -> bool,
) -> Result<IpAddr, RouteError> {
    let all = || workload.addresses.iter().copied().filter(|address| may_be(*address));
    let same_family = all().find(|address| address.is_ipv4() == like.is_ipv4());
    same_family.or_else(|| all().next()).ok_or_else(|| RouteError::NoAddress {
        workload: workload.uid.clone(),
        hostname: workload.hostname.clone(),
    })
}
