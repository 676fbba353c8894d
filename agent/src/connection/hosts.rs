//! Addresses of workloads that have a hostname instead: those of entries for services outside the cluster.
//!
//! The node's resolver is asked, as the agent's own; what it says is kept as long as it says.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::mesh::LocalPod;
use crate::observe::names::Names;
use crate::route::{self, Route, Unresolved};

/// Names that are known at a time.
const KEPT: u64 = 4096;
/// Names that are asked for at a time; those beyond wait as long as for an answer.
const AT_ONCE: usize = 64;
/// For an answer, all attempts together: as a connection waits for what is not known yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(2);

/// What resolves hostnames. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hosts(Option<Arc<Asked>>);

struct Asked {
    resolver: TokioResolver,
    room: Semaphore,
}

/// Why a hostname has no address.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The resolver's configuration cannot be read.
    #[error("the agent's own /etc/resolv.conf was not usable when it started")]
    Unconfigured,
    /// The resolver does not answer.
    #[error("no answer within {PATIENCE:?}")]
    Silent,
    /// There is no such name, or it has no address.
    #[error("the resolver says no")]
    Refused(#[source] hickory_resolver::net::NetError),
}

impl Hosts {
    /// By what the process's `/etc/resolv.conf` says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_system() -> io::Result<Self> {
        Self::by(TokioResolver::builder_tokio().map_err(io::Error::other)?)
    }

    fn by(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> io::Result<Self> {
        let options = builder.options_mut();
        options.timeout = ATTEMPT;
        options.attempts = 2;
        options.cache_size = KEPT;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(io::Error::other)?;
        Ok(Self(Some(Arc::new(Asked { resolver, room: Semaphore::new(AT_ONCE) }))))
    }

    /// The addresses of a name in full; never none.
    ///
    /// # Errors
    /// There are none, or nobody says in time.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, HostError> {
        let asked = self.0.as_deref().ok_or(HostError::Unconfigured)?;
        let ask = async {
            // Nobody closes it.
            let _room = asked.room.acquire().await;
            let name = format!("{}.", name.trim_end_matches('.'));
            asked.resolver.lookup_ip(name).await.map_err(HostError::Refused)
        };
        let answer = timeout(PATIENCE, ask).await.map_err(|_| HostError::Silent)??;
        Ok(answer.iter().collect())
    }

    /// Where a connection goes, also if its destination has a hostname.
    pub(super) async fn settle(&self, pod: &LocalPod, route: Route, counts: &Names) -> Route {
        match route {
            Route::Resolve(to) => {
                counts.resolved();
                Box::pin(self.route(pod, &to)).await
            }
            route => route,
        }
    }

    async fn route(&self, pod: &LocalPod, to: &Unresolved) -> Route {
        let addresses = match self.addresses(&to.workload.hostname).await {
            Ok(addresses) => addresses,
            Err(error) => {
                let error = crate::error::chain(&error);
                let (hostname, workload) = (&to.workload.hostname, &to.workload.uid);
                tracing::debug!(error, %hostname, %workload, "a hostname has no address");
                Vec::new()
            }
        };
        route::resolved(pod, to, &addresses)
    }
}

impl std::fmt::Debug for Hosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosts").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hickory_proto::op::Message;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, Record, RecordType};
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use tokio::net::UdpSocket;

    use super::*;

    /// A resolver that answers for IPv4, with a TTL of 0 for names that begin with `fleeting`, and not at all for those that
    /// begin with `silent`; and how often it was asked.
    async fn resolver() -> (Hosts, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (at, asked) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let counted = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = answer(&buffer[..length]) {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        (Hosts::by(builder(at)).unwrap(), asked)
    }

    fn builder(at: SocketAddr) -> ResolverBuilder<TokioRuntimeProvider> {
        let mut connection = ConnectionConfig::udp();
        connection.port = at.port();
        let server = NameServerConfig::new(at.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    }

    fn answer(question: &[u8]) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).unwrap();
        let query = asked.queries[0].clone();
        let name = query.name().to_ascii();
        if name.starts_with("silent") {
            return None;
        }
        let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
        message.metadata.recursion_available = true;
        let ttl = if name.starts_with("fleeting") { 0 } else { 300 };
        if query.query_type() == RecordType::A {
            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
            message.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
        }
        message.add_query(query);
        message.to_vec().ok()
    }

    #[tokio::test]
    async fn an_answer_is_kept_as_long_as_it_says() {
        let (hosts, asked) = resolver().await;
        let expected = [IpAddr::from([192, 0, 2, 7])];
        assert_eq!(hosts.addresses("kept.example.com").await.unwrap(), expected);
        let once = asked.load(Ordering::Relaxed);
        assert_eq!(hosts.addresses("kept.example.com").await.unwrap(), expected);
        // That there is no IPv6 address comes without a time to keep it.
        let a_again = asked.load(Ordering::Relaxed) - once;
        assert!(a_again < once, "{a_again} of {once}");
        let before = asked.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(hosts.addresses("fleeting.example.com.").await.unwrap(), expected);
        }
        assert!(asked.load(Ordering::Relaxed) >= before + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_name() {
        let (hosts, _) = resolver().await;
        let started = tokio::time::Instant::now();
        hosts.addresses("silent.example.com").await.unwrap_err();
        assert!(started.elapsed() <= PATIENCE, "{:?}", started.elapsed());
        let none = Hosts::default().addresses("kept.example.com").await.unwrap_err();
        assert!(matches!(none, HostError::Unconfigured));
    }
}
