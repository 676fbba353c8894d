//! The server: for each role a listener and threads that accept and serve one connection after the
//! other. The threads are there beforehand, so that no connection waits for one to be made.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use super::{PATIENCE, SINK, SOURCE};

/// One more than a client may open at once, and those that are just ending.
const ECHO_THREADS: usize = 1100;
const BULK_THREADS: usize = 16;
/// A thread blocks in a handful of calls and keeps a small buffer.
const STACK_BYTES: usize = 64 << 10;
pub(super) const BLOCK_BYTES: usize = 256 << 10;
const MESSAGE_BYTES: usize = 16 << 10;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(120);

/// Starts to serve and returns; the threads serve for ever.
///
/// # Errors
/// A port is taken, or no thread can be made.
pub(super) fn start(port: u16) -> Result<()> {
    // Who tries whether the server is there asks for an echo: that port comes last.
    pool("sink", port + SINK, BULK_THREADS, sink)?;
    pool("source", port + SOURCE, BULK_THREADS, source)?;
    pool("echo", port, ECHO_THREADS, echo)
}

fn pool(
    name: &str,
    port: u16,
    threads: usize,
    serve: fn(&TcpStream) -> io::Result<()>,
) -> Result<()> {
    let listener = listen(port).with_context(|| format!("listen on port {port}"))?;
    let listener = Arc::new(listener);
    for _ in 0..threads {
        let listener = Arc::clone(&listener);
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || accept(&listener, serve)).context("start a thread")?;
    }
    Ok(())
}

/// All addresses of both families, of IPv4 alone where there is no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let any = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(TcpListener::from(socket))
    };
    bind(any[0]).or_else(|_| bind(any[1]))
}

fn accept(listener: &TcpListener, serve: fn(&TcpStream) -> io::Result<()>) {
    loop {
        let served = listener.accept().and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(IDLE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            serve(&stream)
        });
        // The client counts what fails: here it is only told in the log.
        if let Err(error) = served {
            tracing::warn!(%error, "a connection failed");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; MESSAGE_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
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
