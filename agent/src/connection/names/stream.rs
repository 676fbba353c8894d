//! What a pod asks of a resolver over TCP: each message (RFC 1035, 4.2.2) by itself, as a stream may have many.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::asked::Ways;
use super::{Asking, PATIENCE};
use crate::capture::Captured;
use crate::connection::context::Context;
use crate::connection::of_pod::OfPod;
use crate::connection::quota::Place;
use crate::dns::Transport;
use crate::route::{self, Route};
use crate::sys::socket;

/// Without a message either way, an end is given up (RFC 7766, 6.2.3: of the order of seconds).
const IDLE: Duration = Duration::from_secs(30);

type Messages = Framed<TcpStream, LengthDelimitedCodec>;

/// Serves a pod's stream to a resolver to its end.
pub(in crate::connection) async fn stream(
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    captured: Captured,
    _place: Place,
) {
    let Captured { stream, pod, original_destination: resolver, .. } = captured;
    let asking = Asking { context, of_pod, pod, ways: Ways::default() };
    let mut exchange =
        Exchange { asking, resolver, client: messages(stream), upstream: None, owed: 0 };
    match exchange.run().await {
        // In order: its last answer is there to be read.
        Ok(()) => drop(socket::clear_reset(exchange.client.get_ref())),
        Err(error) => {
            let pod = &exchange.asking.pod.pod.name;
            tracing::debug!(%error, %pod, %resolver, "a pod's stream to its resolver broke off");
        }
    }
}

struct Exchange {
    asking: Asking,
    resolver: SocketAddr,
    client: Messages,
    /// From the first message on that is not the mesh's to answer.
    upstream: Option<Messages>,
    /// Answers that the resolver has not given yet.
    owed: usize,
}

impl Exchange {
    async fn run(&mut self) -> io::Result<()> {
        let mut asks = true;
        while asks || self.owed > 0 {
            let next = async {
                tokio::select! {
                    question = self.client.next(), if asks => (true, question),
                    answer = next_of(&mut self.upstream) => (false, answer),
                }
            };
            let Ok((is_question, message)) = timeout(IDLE, next).await else { return Ok(()) };
            match (is_question, message.transpose()?) {
                (true, Some(question)) => self.question(question).await?,
                (true, None) => asks = false,
                (false, Some(answer)) => {
                    self.owed = self.owed.saturating_sub(1);
                    send(&mut self.client, answer.freeze()).await?;
                }
                (false, None) if self.owed == 0 => self.upstream = None,
                (false, None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }

    async fn question(&mut self, question: BytesMut) -> io::Result<()> {
        let (asked, answer) = self.asking.of_mesh(&question, Transport::Stream);
        if let Some(answer) = answer {
            return send(&mut self.client, answer.into()).await;
        }
        self.asking.counts().forwarded(asked);
        let sent = self.forward(question).await;
        if sent.is_err() {
            self.asking.counts().failed(asked);
        }
        sent
    }

    async fn forward(&mut self, question: BytesMut) -> io::Result<()> {
        let upstream = match &mut self.upstream {
            Some(upstream) => upstream,
            none => none.insert(messages(self.asking.dial(self.resolver).await?)),
        };
        self.owed += 1;
        send(upstream, question.freeze()).await
    }
}

impl Asking {
    /// Connects to a resolver as the pod would without this: directly, or through the mesh where that carries it.
    async fn dial(&self, resolver: SocketAddr) -> io::Result<TcpStream> {
        socket::dial_from(&self.pod.netns, self.way(resolver)?, PATIENCE).await
    }

    /// What is not known to be outside of the mesh is reached by connecting to it inside the pod, and so captured.
    fn way(&self, resolver: SocketAddr) -> io::Result<SocketAddr> {
        let (mesh, pod) = (self.context.mesh.load(), &self.pod.pod);
        if let Ok(home) = mesh.home()
            && mesh.synced()
        {
            let source = mesh.workload_of(pod).map(AsRef::as_ref);
            let network = &home.network;
            let mut random = rand::rng();
            if let Route::Direct(to) =
                route::outbound(&mesh, pod, source, network, resolver, &mut random)
            {
                return Ok(to.target);
            }
        }
        let stand_in =
            self.pod.stand_ins.of_destination(resolver.ip()).map_err(io::Error::other)?;
        Ok(SocketAddr::new(stand_in, resolver.port()))
    }
}

fn messages(stream: TcpStream) -> Messages {
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(2)
        .max_frame_length(usize::from(u16::MAX))
        .new_codec();
    Framed::new(stream, codec)
}

/// The next message of a stream, if there is one.
async fn next_of(stream: &mut Option<Messages>) -> Option<io::Result<BytesMut>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// Sends a message. An end that takes none is given up.
async fn send(to: &mut Messages, message: Bytes) -> io::Result<()> {
    let sent = timeout(IDLE, to.send(message)).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
