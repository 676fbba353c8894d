//! The two traffic secrets of one handshake, taken as rustls makes them: it gives keys away, but not what the next keys
//! are made of, without which a session cannot live on in another process.

use parking_lot::Mutex;
use rustls::{CipherSuite, Error, KeyLog};
use zeroize::Zeroizing;

use super::schedule::{Suite, TrafficSecret};

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// Of one handshake alone; written nowhere, wiped when dropped.
#[derive(Default)]
pub(super) struct Traffic {
    client: Mutex<Option<Zeroizing<Vec<u8>>>>,
    server: Mutex<Option<Zeroizing<Vec<u8>>>>,
}

impl Traffic {
    /// The client's and the server's; once.
    ///
    /// # Errors
    /// They are not there, or of a suite that is not ours.
    pub(super) fn take(&self, suite: Option<CipherSuite>) -> Result<[TrafficSecret; 2], Error> {
        let suite = suite.and_then(Suite::of);
        let take = |secret: &Mutex<Option<Zeroizing<Vec<u8>>>>| {
            secret.lock().take().and_then(|bytes| TrafficSecret::new(suite?, bytes))
        };
        match (take(&self.client), take(&self.server)) {
            (Some(client), Some(server)) => Ok([client, server]),
            _ => Err(Error::General("the handshake left no traffic secrets of ours".into())),
        }
    }
}

impl KeyLog for Traffic {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let of = match label {
            CLIENT => &self.client,
            SERVER => &self.server,
            _ => return,
        };
        *of.lock() = Some(Zeroizing::new(secret.to_vec()));
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traffic")
    }
}
