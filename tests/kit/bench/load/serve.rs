//! The server: an echo on event loops, for any number of connections; a sink and a source on threads
//! that serve one stream after the other.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::tasks::{event_loop, loops};
use super::{PATIENCE, SINK, SOURCE};

const BULK_THREADS: usize = 16;
/// A thread blocks in a handful of calls and keeps a small buffer.
const STACK_BYTES: usize = 64 << 10;
pub(super) const BLOCK_BYTES: usize = 256 << 10;
const MESSAGE_BYTES: usize = 16 << 10;
/// How long a stream may say nothing, and how long a connection to the echo may last: longer than any
/// load, so that what a client leaves behind does not stay.
const LIFE: Duration = Duration::from_secs(120);
/// Before the next attempt, when a connection cannot be had.
const PAUSE: Duration = Duration::from_millis(1);

/// Starts to serve and returns; the threads serve for ever.
///
/// # Errors
/// A port is taken, or no thread can be made.
pub(super) fn start(port: u16) -> Result<()> {
    // Who tries whether the server is there asks for an echo: that port comes last.
    pool("sink", port + SINK, BULK_THREADS, sink)?;
    pool("source", port + SOURCE, BULK_THREADS, source)?;
    let listener = listen(port)?;
    for _ in 0..loops() {
        let (listener, runtime) =
            (listener.try_clone().context("share a listener")?, event_loop()?);
        let thread = thread::Builder::new().name(String::from("echo"));
        thread.spawn(move || echoes(&runtime, listener)).context("start a thread")?;
    }
    Ok(())
}

fn pool(
    name: &str,
    port: u16,
    threads: usize,
    serve: fn(&TcpStream) -> io::Result<()>,
) -> Result<()> {
    let listener = Arc::new(listen(port)?);
    for _ in 0..threads {
        let listener = Arc::clone(&listener);
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || accept(&listener, serve)).context("start a thread")?;
    }
    Ok(())
}

/// All addresses of both families, of IPv4 alone where there is no IPv6.
fn listen(port: u16) -> Result<TcpListener> {
    let any = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        io::Result::Ok(TcpListener::from(socket))
    };
    let bound = bind(any[0]).or_else(|_| bind(any[1]));
    bound.with_context(|| format!("listen on port {port}"))
}

fn accept(listener: &TcpListener, serve: fn(&TcpStream) -> io::Result<()>) {
    loop {
        let served = listener.accept().and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LIFE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            serve(&stream)
        });
        if let Err(error) = served {
            complain(&error);
            thread::sleep(PAUSE);
        }
    }
}

fn echoes(runtime: &Runtime, listener: TcpListener) {
    let served = LocalSet::new().block_on(runtime, async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let Ok((stream, _)) = listener.accept().await.inspect_err(complain) else {
                sleep(PAUSE).await;
                continue;
            };
            tokio::task::spawn_local(async {
                let served = timeout(LIFE, echo(stream)).await;
                let served = served.unwrap_or_else(|elapsed| Err(elapsed.into()));
                served.unwrap_or_else(|error| complain(&error));
            });
        }
    });
    let Err(error): io::Result<Infallible> = served;
    complain(&error);
}

/// The client counts what fails: here it is only told in the log.
fn complain(error: &io::Error) {
    tracing::warn!(%error, "a connection failed");
}

async fn echo(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = Vec::with_capacity(MESSAGE_BYTES);
    while stream.read_buf(&mut message).await? > 0 {
        stream.write_all(&message).await?;
        message.clear();
    }
    Ok(())
}

/// Reads to the end, then says how many bytes that were.
fn sink(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut total = 0_u64;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return stream.write_all(&total.to_be_bytes());
        }
        total += count as u64;
    }
}

/// Is told for how many milliseconds, pours that long, and ends with how many bytes that were.
fn source(mut stream: &TcpStream) -> io::Result<()> {
    let mut word = [0; 8];
    stream.read_exact(&mut word)?;
    let until = Instant::now() + Duration::from_millis(u64::from_be_bytes(word).min(60_000));
    let buffer = vec![0x5a; BLOCK_BYTES];
    let mut total = 0_u64;
    while Instant::now() < until {
        stream.write_all(&buffer)?;
        total += buffer.len() as u64;
    }
    stream.write_all(&total.to_be_bytes())
}
