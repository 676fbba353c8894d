//! A mesh of other names than the usual: of another cluster's, on a network with a name, in another trust domain. The agent
//! goes by what the control plane says, or refuses.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use sotto::identify::Revocations;
use sotto::mesh::Given;
use sotto::tunnel::Limits;

use crate::node::{Bench, Ca, Names, alone, soon};

const HOUR: Duration = Duration::from_secs(3600);

fn corp(given: Given) -> Names {
    Names { cluster: "east", network: "net1", trust_domain: "corp", given }
}

#[test]
fn a_mesh_of_other_names_is_a_mesh_all_the_same() {
    alone(30, |place| async move {
        let (ca, limits) = (Ca::new(HOUR), Limits::default());
        let names = corp(Given::default());
        let mut bench =
            Bench::among(&place, ca.clone(), Revocations::default(), limits, &names).await;
        bench.open(2).await;
        let both = ["spiffe://corp/ns/shop/sa/client", "spiffe://corp/ns/shop/sa/server"];
        assert_eq!(ca.issued(), both, "not in the clear");
    });
}

#[test]
fn an_agent_that_goes_by_the_wrong_names_sends_nothing() {
    let wrong = [
        Given { network: Some("".into()), ..Given::default() },
        Given { cluster_id: Some("Kubernetes".into()), ..Given::default() },
        Given { trust_domain: "cluster.local".parse().ok(), ..Given::default() },
        // It is told of no pod at all on its node.
        Given { node: "elsewhere".into(), ..Given::default() },
    ];
    for given in wrong {
        alone(30, |place| async move {
            let (ca, limits) = (Ca::new(HOUR), Limits::default());
            let names = corp(given);
            let bench =
                Bench::among(&place, ca.clone(), Revocations::default(), limits, &names).await;
            let mut near = bench.dial();
            near.write_all(b"?").unwrap();
            near.set_nonblocking(true).unwrap();
            let ended = soon(|| match near.read(&mut [0]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(error),
                ended => Ok(ended),
            });
            let ended = ended.await;
            assert!(ended.is_err(), "{ended:?}: not reset, {names:?}");
            assert!(!bench.is_reached() && ca.issued().is_empty(), "{names:?}");
        });
    }
}
