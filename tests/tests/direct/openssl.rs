//! Our records with OpenSSL's at the other end: key updates of either side, and a session that goes on elsewhere.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use sotto::tunnel::tls::{self, Established, Frozen, RecordLayer, Session};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::local;
use crate::pki::{LOCALHOST, Pki};

/// `openssl s_server` or `s_client`: what it is told on its input it sends, but for lines that are commands.
struct OpenSsl {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl OpenSsl {
    fn start(dir: &Path, suite: &str, argv: &[&str]) -> Self {
        let file = |name: &str| dir.join(name).display().to_string();
        let mut child = Command::new("openssl")
            .args(argv)
            .args(["-cert", &file("leaf.pem"), "-key", &file("leaf-key.pem")])
            .args(["-CAfile", &file("root.pem"), "-verify_return_error"])
            .args(["-tls1_3", "-alpn", "h2", "-ciphersuites", suite, "-msg"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("openssl is needed: apt-get install openssl");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output: BufReader::new(output) }
    }

    async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
    }

    /// The next line that has `part`.
    async fn line(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).await.unwrap();
            assert!(read > 0, "openssl ended before it said {part:?}");
            if line.contains(part) {
                return line;
            }
        }
    }
}

/// Our end.
struct Ours {
    tcp: TcpStream,
    session: Session,
    wire: Vec<u8>,
    plain: Vec<u8>,
}

impl Ours {
    fn new(tcp: TcpStream, Established { session, rest, .. }: Established) -> Self {
        Self { tcp, session, wire: rest, plain: Vec::new() }
    }

    async fn say(&mut self, line: &str) {
        let mut out = Vec::new();
        self.session.seal(format!("{line}\n").as_bytes(), &mut out).unwrap();
        self.tcp.write_all(&out).await.unwrap();
    }

    async fn hear(&mut self, line: &str) {
        let expected = format!("{line}\n").into_bytes();
        loop {
            let opened = self.session.open(&mut self.wire).unwrap();
            self.plain.extend_from_slice(&self.wire[..opened.plain]);
            self.wire.drain(..opened.consumed);
            if self.plain.len() >= expected.len() {
                assert_eq!(
                    String::from_utf8_lossy(&self.plain),
                    String::from_utf8_lossy(&expected)
                );
                self.plain.clear();
                return;
            }
            assert!(self.tcp.read_buf(&mut self.wire).await.unwrap() > 0, "openssl closed");
        }
    }

    /// Goes on as another process would.
    fn hand_over(self) -> Self {
        let frozen = self.session.freeze().unwrap_or_else(|_| panic!("it is not frozen"));
        let bytes = frozen.as_bytes().to_vec();
        let session = Session::thaw(&Frozen::from_bytes(bytes.into())).unwrap();
        Self { session, ..self }
    }
}

/// Lines both ways, with every kind of key update between them.
async fn talk(mut ours: Ours, mut theirs: OpenSsl) {
    for round in 0..6 {
        // Both of its commands update its keys; the first asks for ours as well.
        for command in [Some("K"), Some("k"), None] {
            if let Some(command) = command {
                theirs.say(command).await;
                // It takes all that it reads at once for one command.
                theirs.line(">>> TLS 1.3, Handshake [length 0005], KeyUpdate").await;
            }
            let line = format!("down {round} {command:?}");
            theirs.say(&line).await;
            ours.hear(&line).await;
            let line = format!("up {round} {command:?}");
            ours.say(&line).await;
            theirs.line(&line).await;
            ours = ours.hand_over();
        }
    }
}

const SUITES: [&str; 2] = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"];

#[tokio::test]
async fn openssl_as_the_server_does_not_notice_who_goes_on() {
    local(60, async {
        let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
        pki.write_leaf(dir.path());
        for suite in SUITES {
            let argv = ["s_server", "-accept", "127.0.0.1:0", "-Verify", "1"];
            let mut theirs = OpenSsl::start(dir.path(), suite, &argv);
            let line = theirs.line("ACCEPT 127.0.0.1:").await;
            let mut tcp =
                TcpStream::connect(line.trim().trim_start_matches("ACCEPT ")).await.unwrap();
            let name = ServerName::from(LOCALHOST);
            let layer = RecordLayer::Own;
            let established = tls::connect(&mut tcp, Arc::clone(&pki.client), name, layer).await;
            talk(Ours::new(tcp, established.unwrap()), theirs).await;
        }
    })
    .await;
}

#[tokio::test]
async fn openssl_as_the_client_does_not_notice_who_goes_on() {
    local(60, async {
        let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
        pki.write_leaf(dir.path());
        for suite in SUITES {
            let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let theirs = OpenSsl::start(dir.path(), suite, &["s_client", "-connect", &to]);
            let (mut tcp, _) = listener.accept().await.unwrap();
            let layer = RecordLayer::Own;
            let established = tls::accept(&mut tcp, Arc::clone(&pki.server), layer).await;
            talk(Ours::new(tcp, established.unwrap()), theirs).await;
        }
    })
    .await;
}
