//! The largest frames that HTTP/2 has, by hand: another HTTP/2 may split what it is given.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use sotto::tunnel::Limits;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::bytes::{self, Arriving, PART, part};
use crate::ends::{Dialler, Gateway, until};
use crate::frames::*;
use crate::local;
use crate::peer::{Reader, dial};
use crate::pki::{LOCALHOST, Pki};

/// The most that SETTINGS_MAX_FRAME_SIZE can allow (RFC 9113 section 6.5.2).
const LARGEST: usize = (1 << 24) - 1;
/// Frames of it that are sent.
const COUNT: usize = 3;
/// Sent in one frame until the windows let a larger one pass.
const STEP: usize = 1 << 20;
/// Windows are wide enough long before.
const TOO_MUCH: u64 = 1 << 30;
/// What comes back.
const BACK: u64 = 64 << 20;
/// A frame of ours that a peer of the default limit could not take, by far.
const LARGE: usize = 128 << 10;
const MAX_31: u32 = (1 << 31) - 1;
/// The flows there and back.
const FLOWS: (u64, u64) = (2, 3);

/// Windows that let the largest frame pass, once they have grown.
fn wide() -> Limits {
    let (stream_window, connection_window) = (64 << 20, 16 << 20);
    Limits { stream_window, connection_window, window_budget: 256 << 20, ..Limits::default() }
}

/// What the end by hand has been told.
#[derive(Default)]
struct Heard {
    connection: Cell<usize>,
    stream: Cell<usize>,
    asked: Cell<bool>,
    pongs: Cell<usize>,
    ended: Cell<bool>,
    /// The longest DATA.
    largest: Cell<usize>,
    news: Notify,
}

impl Heard {
    /// Up to the close.
    async fn listen(&self, mut read: impl AsyncRead + Unpin, preface: usize) {
        read.read_exact(&mut vec![0; preface]).await.unwrap();
        let (mut reader, mut buffer) = (Reader::default(), vec![0; PART]);
        let mut arriving = Arriving::new(FLOWS.1);
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            for frame in reader.take(&buffer[..count]) {
                self.hear(&frame, &mut arriving);
            }
            self.news.notify_one();
        }
    }

    fn hear(&self, frame: &Frame, arriving: &mut Arriving) {
        let number = || u32::from_be_bytes(frame.payload[..4].try_into().unwrap()) as usize;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                let entries = frame.payload.chunks_exact(6);
                for entry in entries.filter(|entry| entry[..2] == [0, 4]) {
                    let window = u32::from_be_bytes(entry[2..].try_into().unwrap());
                    self.stream.set(window as usize);
                }
            }
            WINDOW_UPDATE => {
                let window = if frame.stream == 0 { &self.connection } else { &self.stream };
                window.set(window.get() + number());
            }
            HEADERS => self.asked.set(true),
            PING if frame.flags & ACK != 0 => self.pongs.set(self.pongs.get() + 1),
            DATA => {
                self.largest.set(self.largest.get().max(frame.payload.len()));
                arriving.take(&frame.payload).unwrap();
                if frame.flags & END_STREAM != 0 {
                    assert_eq!(arriving.at, BACK, "the flow back ends early");
                    self.ended.set(true);
                }
            }
            GOAWAY | RST_STREAM => panic!("refused: {:?}", frame.payload),
            _ => {}
        }
    }

    async fn until(&self, met: impl Fn(&Self) -> bool) {
        while !met(self) {
            self.news.notified().await;
        }
    }
}

/// The writing half of the end by hand.
struct Hand<'a, S> {
    write: WriteHalf<S>,
    heard: &'a Heard,
    pings: usize,
}

impl<S: AsyncRead + AsyncWrite> Hand<'_, S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
        self.write.flush().await.unwrap();
    }

    /// What was sent is judged, and the connection's credit for it is back.
    async fn settle(&mut self) {
        self.pings += 1;
        self.send(&frame(PING, 0, 0, &[0; 8])).await;
        self.heard.until(|heard| heard.pongs.get() == self.pings).await;
    }

    /// One frame of the flow from `at` on.
    async fn data(&mut self, at: u64, length: usize) {
        let [window, connection] = [&self.heard.stream, &self.heard.connection];
        window.set(window.get() - length);
        connection.set(connection.get() - length);
        self.send(&head(u32::try_from(length).unwrap(), DATA, 0, 1)).await;
        let mut sent = 0;
        while sent < length {
            let part = part(FLOWS.0, at + sent as u64, (length - sent).min(PART));
            self.send(part).await;
            sent += part.len();
        }
    }

    /// Sends the flow, with as many of the largest frames as asked for; tells how long it is.
    async fn upload(&mut self) -> u64 {
        let (mut at, mut sent) = (0, 0);
        while sent < COUNT {
            self.settle().await;
            let room = self.heard.stream.get().min(self.heard.connection.get());
            let length = if room >= LARGEST { LARGEST } else { room.min(STEP) };
            if length == 0 {
                self.heard.until(|heard| heard.stream.get() > 0).await;
                continue;
            }
            self.data(at, length).await;
            sent += usize::from(length == LARGEST);
            at += length as u64;
            assert!(at < TOO_MUCH, "the windows do not grow");
        }
        self.send(&frame(DATA, END_STREAM, 1, &[])).await;
        at
    }
}

/// Plays a peer that allows everything, until all came back and it is `over`. As a client it asks and
/// uploads, as a server it answers the request first. Tells how much it sent.
async fn by_hand(
    tls: impl AsyncRead + AsyncWrite,
    client: bool,
    over: impl AsyncFnOnce(u64),
) -> (u64, usize) {
    let heard = Heard::default();
    heard.connection.set(65_535);
    heard.stream.set(65_535);
    let (read, write) = split(tls);
    let mut hand = Hand { write, heard: &heard, pings: 0 };
    let limits = settings(&[(4, MAX_31), (5, u32::try_from(LARGEST).unwrap())]);
    let limits = [limits, window_update(0, MAX_31 - 65_535)].concat();
    let writing = async {
        if client {
            hand.send(&[PREFACE, &limits, &connect(1)].concat()).await;
        } else {
            hand.send(&limits).await;
            heard.until(|heard| heard.asked.get()).await;
            hand.send(&frame(HEADERS, END_HEADERS, 1, OK)).await;
        }
        let sent = hand.upload().await;
        heard.until(|heard| heard.ended.get()).await;
        over(sent).await;
        sent
    };
    let reading = heard.listen(read, if client { 0 } else { PREFACE.len() });
    tokio::select! {
        sent = writing => (sent, heard.largest.get()),
        () = reading => panic!("closed in the middle"),
    }
}

/// The application: sends a flow and takes another to its end; tells how much that was.
async fn application(mut app: TcpStream) -> u64 {
    let (mut read, mut write) = app.split();
    let sending = async {
        bytes::send(&mut write, FLOWS.1, BACK).await;
        write.shutdown().await.unwrap();
    };
    let taking = async {
        let (mut arriving, mut buffer) = (Arriving::new(FLOWS.0), vec![0; PART]);
        while let count @ 1.. = read.read(&mut buffer).await.unwrap() {
            arriving.take(&buffer[..count]).unwrap();
        }
        arriving.at
    };
    tokio::join!(sending, taking).1
}

fn check((sent, largest): (u64, usize)) {
    println!("{sent} bytes there; the largest frame back has {largest}");
    assert!(sent >= (COUNT * LARGEST) as u64);
    assert!((LARGE..=LARGEST).contains(&largest), "ours are of {largest} bytes at most");
}

#[tokio::test]
async fn our_server_takes_the_largest_frames_and_sends_large_ones() {
    local(60, async {
        let (pki, taken) = (Pki::new(), Rc::new(Cell::new(0)));
        let count = Rc::clone(&taken);
        let app = move |_, app| {
            let count = Rc::clone(&count);
            async move { count.set(application(app).await) }
        };
        let gateway = Gateway::start(&pki, wide(), app).await;
        let tls = dial(&pki, gateway.address).await;
        let over = async |sent| until("all is taken", || taken.get() == sent).await;
        check(by_hand(tls, true, over).await);
    })
    .await;
}

#[tokio::test]
async fn our_client_takes_the_largest_frames_and_sends_large_ones() {
    local(60, async {
        let (pki, taken) = (Pki::new(), Cell::new(0));
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let dialler = Dialler::new(&pki, wide(), listener.local_addr().unwrap()).await;
        let theirs = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = TlsAcceptor::from(Arc::clone(&pki.server)).accept(tcp).await.unwrap();
            let over = async |sent| until("all is taken", || taken.get() == sent).await;
            check(by_hand(tls, false, over).await);
        };
        let ours = async {
            let (app, outcome) = dialler.open("10.0.0.1:80").await;
            taken.set(application(app).await);
            outcome.await.unwrap().unwrap();
        };
        tokio::join!(theirs, ours);
    })
    .await;
}
