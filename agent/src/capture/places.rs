//! Where the agent's sockets are inside a pod: at addresses of the range that pods connect to, which stand for nothing, and
//! the port of HBONE.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rand::seq::SliceRandom;
use sotto_abi::{FIRST_RESOLVER, HBONE_PORT, Prefixes};

use super::{PodCapture, StandInRanges};

/// Why a pod has no listeners.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The namespace is gone, or may not be entered.
    #[error("failed to enter the pod's network namespace")]
    Enter(#[source] io::Error),
    /// The kernel does not tell which namespace it is.
    #[error("failed to tell the pod's network namespace from others")]
    Cookie(#[source] io::Error),
    /// The kernel refuses a listener.
    #[error("failed to listen on {address} in the pod")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where stand-ins are in a pod.
pub(super) fn prefixes_of(pod: &PodCapture) -> Prefixes {
    let prefixes = pod.stand_ins.prefixes().copied();
    prefixes.unwrap_or_else(|| StandInRanges::default().record([0; 2]))
}

/// Binds a socket at a place that no other agent's is at.
pub(super) fn at_some_place<S>(
    prefixes: &Prefixes,
    is_v4: bool,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> Result<S, ListenError> {
    let mut places: Vec<u32> = (1..FIRST_RESOLVER).collect();
    places.shuffle(&mut rand::rng());
    let mut last = None;
    for place in places {
        let ip = IpAddr::from(prefixes.out(is_v4, place));
        let address = SocketAddr::new(ip, HBONE_PORT);
        match bind(address) {
            Err(source) => {
                let is_taken = source.kind() == io::ErrorKind::AddrInUse;
                last = Some(ListenError::Listen { address, source });
                if !is_taken {
                    break;
                }
            }
            Ok(socket) => return Ok(socket),
        }
    }
    Err(last.expect("there are places to try"))
}

/// Whether the kernel or the pod lacks an address family.
pub(super) fn is_family_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
