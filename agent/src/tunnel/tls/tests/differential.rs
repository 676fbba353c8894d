//! The same records of a peer that holds the keys, genuine or not, to both layers.

use super::peer::{Key, Secrets};
use super::*;

/// What the peer does.
#[derive(Debug, Clone)]
enum Act {
    Data {
        length: usize,
        padding: usize,
    },
    /// A key update, cut in two there.
    Update {
        asks: bool,
        cut: usize,
    },
    /// Damages what it did last.
    Damage {
        at: usize,
        bit: u32,
    },
    /// Drops the end of what it did last.
    Cut(usize),
    /// Sends its last record once more.
    Again,
    /// Sends, but not so many bytes of the end.
    Send(usize),
    /// Hears this much from us.
    Hear(usize),
}

/// One session, and its peer.
struct Pair {
    session: Session,
    to: Key,
    from: Key,
    records: Vec<Vec<u8>>,
    wire: Vec<u8>,
    plain: Vec<u8>,
    /// Updates that it asked for, and that did not come yet: one may be for many.
    asked: usize,
}

impl Pair {
    fn new(pki: &Pki, layer: RecordLayer, is_server: bool) -> Self {
        let secrets = Arc::new(Secrets::default());
        let (mut client, mut server) = ((*pki.client).clone(), (*pki.server).clone());
        let layers = if is_server {
            client.key_log = Arc::clone(&secrets) as _;
            [RecordLayer::Rustls, layer]
        } else {
            server.key_log = Arc::clone(&secrets) as _;
            [layer, RecordLayer::Rustls]
        };
        let client = Handshake::client(Arc::new(client), name(), layers[0]).unwrap();
        let server = Handshake::server(Arc::new(server), layers[1]).unwrap();
        let [mut client, server] = shake_by(client, server, usize::MAX);
        let tickets = u64::try_from(records(&client.rest).len()).unwrap();
        let mut up = secrets.key("CLIENT_TRAFFIC_SECRET_0");
        let mut down = secrets.key("SERVER_TRAFFIC_SECRET_0");
        down.sequence = tickets;
        let (session, to, from) = if is_server {
            (server.session, up, down)
        } else {
            client.session.open(&mut client.rest).unwrap();
            std::mem::swap(&mut up, &mut down);
            (client.session, up, down)
        };
        let (records, wire, plain) = (Vec::new(), Vec::new(), Vec::new());
        Self { session, to, from, records, wire, plain, asked: 0 }
    }

    fn act(&mut self, act: &Act) -> Result<(), rustls::Error> {
        let last = self.records.last_mut();
        match *act {
            Act::Data { length, padding } => {
                let inner = [&noise(length)[..], &[23], &vec![0; padding]].concat();
                self.records.push(self.to.seal(&inner));
            }
            Act::Update { asks, cut } => {
                let message = [24, 0, 0, 1, u8::from(asks)];
                for part in message.chunks(cut) {
                    self.records.push(self.to.seal(&[part, &[22]].concat()));
                }
                self.to.update();
                self.asked += usize::from(asks);
            }
            Act::Damage { at, bit } => {
                if let Some(last) = last {
                    let at = HEADER + at % (last.len() - HEADER);
                    last[at] ^= 1 << bit;
                }
            }
            Act::Cut(by) => {
                if let Some(last) = last {
                    last.truncate(HEADER + 1 + by % (last.len() - HEADER));
                }
            }
            Act::Again => {
                let last = last.cloned();
                self.records.extend(last);
            }
            Act::Send(but) => return self.send(but),
            Act::Hear(length) => self.hear(length),
        }
        Ok(())
    }

    fn send(&mut self, but: usize) -> Result<(), rustls::Error> {
        let mut bytes = self.records.concat();
        let kept = bytes.split_off(bytes.len() - but.min(bytes.len()));
        // What was not sent is no record to be damaged.
        self.records.clear();
        self.wire.append(&mut bytes);
        let opened = self.session.open(&mut self.wire)?;
        self.plain.extend_from_slice(&self.wire[..opened.plain]);
        self.wire.drain(..opened.consumed);
        self.wire.extend(kept);
        Ok(())
    }

    /// All that we say arrives, and no update that was not asked for.
    fn hear(&mut self, length: usize) {
        let mut heard = Vec::new();
        for record in records(&seal(&mut self.session, &noise(length))) {
            match self.from.open(record) {
                (23, data) => heard.extend(data),
                (22, message) => {
                    assert_eq!((&message[..], heard.len()), (&[24, 0, 0, 1, 0][..], 0));
                    self.asked = self.asked.checked_sub(1).expect("nobody asked");
                    self.from.update();
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(heard == noise(length));
    }
}

fn records(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some(length) = framing::first_record(wire) {
        let (record, rest) = wire.split_at(length);
        records.push(record);
        wire = rest;
    }
    assert!(wire.is_empty());
    records
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let length = prop_oneof![0_usize..40, Just(16_383), Just(16_384)];
    let data = (length, prop_oneof![4 => Just(0_usize), 1 => 0_usize..17_000]).prop_map(
        |(length, padding)| Act::Data { length, padding: padding.min((1 << 14) - length) },
    );
    let act = prop_oneof![
        8 => data,
        4 => (any::<bool>(), 1_usize..6).prop_map(|(asks, cut)| Act::Update { asks, cut }),
        1 => (any::<usize>(), 0_u32..8).prop_map(|(at, bit)| Act::Damage { at, bit }),
        1 => any::<usize>().prop_map(Act::Cut),
        1 => Just(Act::Again),
        6 => prop_oneof![Just(0_usize), 1_usize..100].prop_map(Act::Send),
        4 => prop_oneof![0_usize..50, 16_000_usize..40_000].prop_map(Act::Hear),
    ];
    proptest::collection::vec(act, 1..25)
}

#[test]
fn both_layers_take_the_same() {
    let pki = Pki::new();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) };
    proptest!(config, |(acts in acts(), is_server: bool)| {
        let [rustls, own] = LAYERS.map(|layer| {
            let mut pair = Pair::new(&pki, layer, is_server);
            let mut all = acts.iter().chain([&Act::Send(0), &Act::Send(0)]);
            let done = all.try_for_each(|act| pair.act(act));
            (done, pair.plain)
        });
        prop_assert_eq!(rustls, own);
    });
}

#[test]
fn a_record_with_nothing_in_it_gets_its_alert() {
    let pki = Pki::new();
    for is_server in [false, true] {
        for inner in [&[][..], &[0], &[0; 100]] {
            let mut pair = Pair::new(&pki, RecordLayer::Own, is_server);
            pair.session.open(&mut pair.to.seal(inner)).unwrap_err();
            let mut alert = Vec::new();
            pair.session.flush(&mut alert).unwrap();
            let expected = AlertDescription::UnexpectedMessage.into();
            assert_eq!(pair.from.open(&alert), (21, vec![2, expected]));
        }
    }
}
