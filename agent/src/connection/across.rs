//! To another network: a tunnel within a tunnel to the gateway of that network.
//!
//! The outer one is shared as any; the inner one is its stream's alone, as the gateway chooses anew for each who serves it.
//! Who serves proves its identity in the inner one, and so does the pod: the gateway is neither.

use std::future::ready;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use http::{HeaderMap, HeaderValue};
use tokio::net::TcpStream;

use super::carry::{self, Carrying};
use super::quota::Place;
use super::record::Record;
use super::trust;
use super::upstream::{self, From, TunnelError};
use crate::route::Across;
use crate::sys::socket;
use crate::tunnel::{Asked, Caller, PoolKey, Progress, TunnelStream, hbone};

/// Opens both for an application, and carries its bytes. Boxed, as few connections need room for it.
pub(super) fn open<'a>(
    from: &'a From<'a>,
    across: &'a Across,
    app: TcpStream,
    whose: (Record, Place),
) -> LocalBoxFuture<'a, Option<Carrying>> {
    Box::pin(opened(from, across, app, whose))
}

async fn opened(
    from: &From<'_>,
    across: &Across,
    app: TcpStream,
    (record, place): (Record, Place),
) -> Option<Carrying> {
    let live = record.live();
    match tunnels(from, across, (app, live.progress())).await {
        Ok(tunnels) => Some(carry::outbound_across(record, place, tunnels)),
        Err(error) => {
            record.fail(error.flags(), &error);
            None
        }
    }
}

/// A stream in the inner tunnel, and the outer one's that carries that.
async fn tunnels(
    from: &From<'_>,
    across: &Across,
    app: (TcpStream, &Rc<Progress>),
) -> Result<(TunnelStream, TunnelStream), TunnelError> {
    let (near, far) = socket::pair().await.map_err(TunnelError::Pair)?;
    // What it carries is the inner tunnel's, and counted there.
    let outer = upstream::tunnel(from, (near, &Rc::new(Progress::staying()))).await?;
    let inner = inner(from, across, far, app).await?;
    Ok((inner, outer))
}

/// A stream in a tunnel of its own, over a connection that leads to who serves.
async fn inner(
    from: &From<'_>,
    across: &Across,
    transport: TcpStream,
    app: (TcpStream, &Rc<Progress>),
) -> Result<TunnelStream, TunnelError> {
    let From { context, pod, route, .. } = *from;
    let source = pod.pod.account.identity(&from.home.trust_domain);
    let svid = context.certificates.svid(&source).await.map_err(TunnelError::Identity)?;
    let key = PoolKey {
        source,
        pod: pod.pod.uid.clone(),
        gateway: route.gateway,
        expected: across.expected.clone(),
        alone: Some(rand::random()),
    };
    let tls = svid.client_config(&across.expected);
    let caller = Caller { tls, trust: trust::of(&svid), account: Rc::clone(from.account) };
    let dial = ready(Ok(transport));
    let stream = context.pool.connect_aboard(&key, dial, caller, &Inner(from), app).await;
    // There is no other for it, whatever became of this one.
    context.pool.retire(&key);
    stream.map(TunnelStream::without_answer).map_err(TunnelError::Beyond)
}

/// What is asked of who serves: the same, and from which network.
struct Inner<'a>(&'a From<'a>);

impl Asked for Inner<'_> {
    fn authority(&self) -> &str {
        self.0.authority()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = self.0.headers();
        if let Ok(network) = HeaderValue::try_from(self.0.home.network.as_str()) {
            headers.insert(hbone::FORWARDED_NETWORK, network);
        }
        headers
    }
}
