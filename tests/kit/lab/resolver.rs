//! A resolver: an application of a pod that answers every question, and remembers who asked.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use sotto::sys::Netns;

use super::{Cgroups, Place};

const PORT: u16 = 53;
/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// How long it thinks about some names.
const SLOW: Duration = Duration::from_millis(300);
const HEADER: usize = 12;
/// The types of the questions that have an address as their answer (RFC 1035, 3.2.2; RFC 3596, 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// A question that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asked.
    pub client: SocketAddr,
    /// For what, with its dots.
    pub name: String,
    /// Over TCP.
    pub by_stream: bool,
}

/// It answers until dropped. A name that begins with `silent` it does not; one that begins with `big` it does not in a
/// datagram, but says that there is more; one that begins with `slow` in a datagram 300 ms later.
#[derive(Debug)]
pub struct Resolver {
    seen: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Resolver {
    pub(super) fn start(cgroups: &Arc<Cgroups>, netns: &Netns) -> Result<Self> {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Asked>>>::default());
        let (udp, tcp) = netns.enter(listen)??;
        let (of_udp, of_tcp) = ((stop.clone(), seen.clone()), (stop.clone(), seen.clone()));
        let (udp_cgroups, tcp_cgroups) = (Arc::clone(cgroups), Arc::clone(cgroups));
        let datagrams = std::thread::spawn(move || {
            let joined = udp_cgroups.join(Place::App);
            drop(udp_cgroups);
            if joined.is_ok() {
                answer_datagrams(&udp, &of_udp.0, &of_udp.1);
            }
        });
        let streams = std::thread::spawn(move || {
            let joined = tcp_cgroups.join(Place::App);
            drop(tcp_cgroups);
            if joined.is_ok() {
                answer_streams(&tcp, &of_tcp.0, &of_tcp.1);
            }
        });
        Ok(Self { seen, stop, threads: vec![datagrams, streams] })
    }

    /// All questions so far.
    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().clone()
    }

    /// The answer to a question: an address for those that ask for one, and something odd besides. None for what is none.
    pub fn answer(question: &[u8], by_stream: bool) -> Option<Vec<u8>> {
        let (name, end) = name(question)?;
        if name.starts_with("silent") {
            return None;
        }
        let is_cut = name.starts_with("big") && !by_stream;
        let asked = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
        let data = match asked {
            A => Ipv4Addr::new(192, 0, 2, 53).octets().to_vec(),
            AAAA => "2001:db8::53".parse::<Ipv6Addr>().ok()?.octets().to_vec(),
            _ => vec![3, b'o', b'd', b'd'],
        };
        let mut answer = question.get(..2)?.to_vec();
        // A response, with a reserved bit that nobody should set.
        answer.extend([if is_cut { 0x87 } else { 0x85 }, 0xc0]);
        answer.extend([0, 1, 0, u8::from(!is_cut), 0, 0, 0, 0]);
        answer.extend(question.get(HEADER..end + 4)?);
        if !is_cut {
            answer.extend([0xc0, 12]);
            answer.extend(asked.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 77, 0, u8::try_from(data.len()).ok()?]);
            answer.extend(data);
        }
        Some(answer)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn listen() -> io::Result<(UdpSocket, TcpListener)> {
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into();
    let udp = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    udp.set_only_v6(false)?;
    udp.set_read_timeout(Some(LOOK))?;
    udp.set_recv_buffer_size(4 << 20)?;
    udp.bind(&at)?;
    let tcp = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    tcp.set_only_v6(false)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&at)?;
    tcp.listen(128)?;
    tcp.set_nonblocking(true)?;
    Ok((udp.into(), tcp.into()))
}

fn answer_datagrams(socket: &UdpSocket, stop: &AtomicBool, seen: &Mutex<Vec<Asked>>) {
    let mut buffer = [0; 4096];
    std::thread::scope(|scope| {
        let (later, due) = channel();
        scope.spawn(move || answer_late(socket, &due));
        while !stop.load(Ordering::Relaxed) {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            let question = &buffer[..length];
            note(question, client, false, seen);
            let Some(answer) = Resolver::answer(question, false) else { continue };
            if name(question).is_some_and(|(name, _)| name.starts_with("slow")) {
                drop(later.send((Instant::now() + SLOW, answer, client)));
            } else {
                drop(socket.send_to(&answer, client));
            }
        }
        drop(later);
    });
}

/// All take as long, and so are due in order.
fn answer_late(socket: &UdpSocket, due: &Receiver<(Instant, Vec<u8>, SocketAddr)>) {
    while let Ok((when, answer, client)) = due.recv() {
        std::thread::sleep(when.saturating_duration_since(Instant::now()));
        drop(socket.send_to(&answer, client));
    }
}

fn answer_streams(listener: &TcpListener, stop: &AtomicBool, seen: &Arc<Mutex<Vec<Asked>>>) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                let seen = Arc::clone(seen);
                std::thread::spawn(move || drop(answer_stream(stream, client, &seen)));
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn answer_stream(
    mut stream: TcpStream,
    client: SocketAddr,
    seen: &Mutex<Vec<Asked>>,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        note(&question, client, true, seen);
        let Some(answer) = Resolver::answer(&question, true) else { continue };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
    }
}

fn note(question: &[u8], client: SocketAddr, by_stream: bool, seen: &Mutex<Vec<Asked>>) {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    if let Some((name, _)) = name(question) {
        seen.lock().push(Asked { client, name, by_stream });
    }
}

/// The name of a question, and where its type is.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 1));
        }
        let label = message.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += 1 + length;
    }
}
