//! Captures at one device of a namespace into a bounded ring.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::segment::{Segment, parse};
use super::trace::Trace;
use crate::netns;

/// Bytes of frames kept; the oldest go first.
const RING_BYTES: usize = 64 << 20;
/// The largest frame before segmentation offload, with room for headers.
const FRAME_BYTES: usize = (64 << 10) + 256;
/// Every protocol (`linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;

/// A moment in a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// A running capture; stops when dropped.
#[derive(Debug)]
pub struct Capture {
    ring: Arc<Mutex<Ring>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Ring {
    frames: VecDeque<(SystemTime, Vec<u8>)>,
    bytes: usize,
    /// Frames ever dropped from the front: the number of the first frame kept.
    first: u64,
}

impl Ring {
    fn push(&mut self, frame: &[u8]) {
        self.bytes += frame.len();
        self.frames.push_back((SystemTime::now(), frame.to_vec()));
        while self.bytes > RING_BYTES {
            let Some((_, old)) = self.frames.pop_front() else { break };
            self.bytes -= old.len();
            self.first += 1;
        }
    }

    fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }
}

impl Capture {
    /// Starts to capture at `device` in the namespace `netns`.
    ///
    /// # Errors
    /// No such device, or no right to capture.
    pub fn start(netns: &str, device: &str) -> Result<Self> {
        let (socket, index) = netns::within(netns, || open(device))??;
        let (ring, stop) = (Arc::<Mutex<Ring>>::default(), Arc::new(AtomicBool::new(false)));
        let (to, ended) = (Arc::clone(&ring), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(String::from("capture"))
            .spawn(move || record(&socket, index, &to, &ended))
            .context("start the capture's thread")?;
        Ok(Self { ring, stop, thread: Some(thread) })
    }

    /// Now.
    pub fn mark(&self) -> Mark {
        Mark(self.ring.lock().end())
    }

    /// Every connection of which something was seen since `mark`, only what was seen since then.
    ///
    /// # Errors
    /// The ring was too small to hold all of it: the trace would prove nothing.
    pub fn since(&self, mark: Mark) -> Result<Trace> {
        Ok(Trace::new(&self.segments(mark)?))
    }

    fn segments(&self, mark: Mark) -> Result<Vec<Segment>> {
        let ring = self.ring.lock();
        if ring.first > mark.0 {
            bail!("{} frames were lost: the capture's ring is too small", ring.first - mark.0);
        }
        let skip = usize::try_from(mark.0 - ring.first)?;
        Ok(ring.frames.iter().skip(skip).filter_map(|(_, frame)| parse(frame)).collect())
    }

    /// Writes what the ring holds as a pcap file, for tcpdump and Wireshark.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let file = std::fs::File::create(path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        let mut out = std::io::BufWriter::new(file);
        // libpcap file format: magic with microseconds, 2.4, snap length, LINKTYPE_ETHERNET.
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, u32::MAX >> 1, 1] {
            out.write_all(&word.to_le_bytes())?;
        }
        for (at, frame) in &self.ring.lock().frames {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
            let length = u32::try_from(frame.len())?;
            for word in [seconds, since.subsec_micros(), length, length] {
                out.write_all(&word.to_le_bytes())?;
            }
            out.write_all(frame)?;
        }
        out.flush().context("write the pcap file")
    }
}

impl Capture {
    /// Ends the capture: every frame costs time, which a measurement must not pay.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the capture's thread panicked");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

fn open(device: &str) -> Result<(Socket, usize)> {
    let index = nix::net::if_::if_nametoindex(device);
    let index = index.with_context(|| format!("find the device {device}"))?;
    let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket =
        Socket::new(Domain::PACKET, Type::RAW, Some(all)).context("open a packet socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.set_recv_buffer_size(32 << 20)?;
    Ok((socket, usize::try_from(index)?))
}

fn record(socket: &Socket, index: usize, ring: &Mutex<Ring>, stop: &AtomicBool) {
    let mut buffer = vec![0; FRAME_BYTES];
    while !stop.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) if from.ifindex() == index => {
                ring.lock().push(&buffer[..length.min(FRAME_BYTES)]);
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => {
                tracing::error!(%error, "the capture ends");
                return;
            }
        }
    }
}
