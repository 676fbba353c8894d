use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// Counts how often the page is made, and on which threads.
#[derive(Debug, Clone, Default)]
struct Made {
    times: Arc<AtomicUsize>,
    threads: Arc<Mutex<Vec<std::thread::ThreadId>>>,
}

impl Collector for Made {
    fn encode(&self, _: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.times.fetch_add(1, Relaxed);
        self.threads.lock().push(std::thread::current().id());
        Ok(())
    }
}

/// Both pages, where they are, and what makes the metrics.
async fn serving(readiness: &Readiness) -> ([SocketAddr; 2], Made) {
    let made = Made::default();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(made.clone()));
    let any = "127.0.0.1:0".parse().unwrap();
    let listeners = listen(any, any).unwrap();
    let metrics = listeners.metrics.as_ref().unwrap().local_addr().unwrap();
    let addresses = [listeners.ready.local_addr().unwrap(), metrics];
    serve(listeners, readiness.clone(), registry, &Shutdown::new());
    (addresses, made)
}

async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn readiness_names_what_is_pending() {
    let readiness = Readiness::new(&["a", "b"]);
    let ([ready, _], _) = serving(&readiness).await;
    readiness.done("b");
    let text = ask(ready, "/healthz/ready").await;
    assert!(
        text.starts_with("HTTP/1.1 500 ") && text.ends_with("not ready, pending: a\n"),
        "{text}"
    );
    readiness.done("a");
    let text = ask(ready, "/healthz/ready").await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("ready\n"), "{text}");
}

#[tokio::test]
async fn one_address_serves_both() {
    let ready = bind("both", "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = ready.local_addr().unwrap();
    let listeners = Listeners { ready, metrics: None };
    serve(listeners, Readiness::new(&[]), Registry::default(), &Shutdown::new());
    assert!(ask(address, "/healthz/ready").await.ends_with("ready\n"));
    assert!(ask(address, "/metrics").await.ends_with("# EOF\n"));
}

#[tokio::test]
async fn who_holds_connections_to_either_port_loses_the_oldest() {
    let (addresses, _) = serving(&Readiness::new(&[])).await;
    for (address, path) in addresses.into_iter().zip(["/healthz/ready", "/metrics"]) {
        let mut held = Vec::new();
        for _ in 0..30 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, path).await.starts_with("HTTP/1.1 200 "));
        let oldest = timeout(Duration::from_secs(2), held[0].read(&mut [0])).await;
        assert_eq!(oldest.expect("it is closed").unwrap_or(0), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_in_time() {
    let (addresses, _) = serving(&Readiness::new(&[])).await;
    for address in addresses {
        let mut mute = TcpStream::connect(address).await.unwrap();
        let closed = timeout(Duration::from_secs(11), mute.read(&mut [0; 512])).await;
        assert!(closed.is_ok());
    }
}

#[tokio::test]
async fn metrics_are_made_once_a_second_and_not_where_agents_are_served() {
    let ([_, metrics], made) = serving(&Readiness::new(&[])).await;
    let all = (0..8).map(|_| ask(metrics, "/metrics"));
    for text in futures::future::join_all(all).await {
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("# EOF\n"), "{text}");
    }
    // Eight take no second, unless the machine stands still between them.
    assert!(made.times.load(Relaxed) <= 2);
    let serving = std::thread::current().id();
    assert!(made.threads.lock().iter().all(|thread| *thread != serving));
}
