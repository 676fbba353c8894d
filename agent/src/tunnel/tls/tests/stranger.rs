//! What anybody may do to a handshake.

use super::*;

/// A `ClientHello` that offers early data, which no server here takes (RFC 8446 4.2.10).
fn early_hello(pki: &Pki) -> Vec<u8> {
    let client = Arc::clone(&pki.client);
    let mut client = Handshake::client(client, name(), RecordLayer::Rustls).unwrap();
    let mut hello = Vec::new();
    assert!(!client.advance(&mut Vec::new(), &mut hello).unwrap());
    let number = |hello: &[u8], at: usize| u16::from_be_bytes([hello[at], hello[at + 1]]);
    // Behind the headers, the version and the random are three lists; then come the extensions.
    let mut extensions = 5 + 4 + 2 + 32;
    extensions += 1 + usize::from(hello[extensions]);
    extensions += 2 + usize::from(number(&hello, extensions));
    extensions += 1 + usize::from(hello[extensions]);
    // The lengths of the record, of the message, and of the extensions.
    for at in [3, 7, extensions] {
        let longer = number(&hello, at) + 4;
        hello[at..at + 2].copy_from_slice(&longer.to_be_bytes());
    }
    hello.extend([0, 42, 0, 0]);
    hello
}

#[test]
fn what_is_skipped_as_early_data_ends() {
    let pki = Pki::new();
    for layer in LAYERS {
        let mut server = Handshake::server(Arc::clone(&pki.server), layer).unwrap();
        let (mut wire, mut out) = (early_hello(&pki), Vec::new());
        assert!(!server.advance(&mut wire, &mut out).unwrap());
        // To rustls not a byte of early data each, and it looks at all of them with each.
        let taken = (0..5000).take_while(|_| {
            wire.extend([23, 3, 3, 0, 0]);
            server.advance(&mut wire, &mut out).is_ok()
        });
        let taken = taken.count();
        assert!((100..1100).contains(&taken), "{layer:?} takes {taken}");
    }
}

#[test]
fn a_message_in_too_many_records_ends_the_handshake() {
    let pki = Pki::new();
    for layer in LAYERS {
        for part in [1, 100, 2000] {
            let mut handshake = Handshake::server(Arc::clone(&pki.server), layer).unwrap();
            let (mut wire, mut out) = (Vec::new(), Vec::new());
            // A ClientHello of 65,535 bytes, so many of them in a record.
            let hello = [&[1, 0, 0xff, 0xff][..], &vec![0; 0xffff]].concat();
            let mut held = 0;
            let refused = hello.chunks(part).any(|part| {
                wire.extend([22, 3, 1]);
                wire.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
                wire.extend(part);
                held = held.max(wire.len());
                handshake.advance(&mut wire, &mut out).is_err()
            });
            assert!(refused && held <= 65 << 10, "{layer:?} {part}: {held}");
        }
    }
}

#[test]
fn data_behind_the_last_record_is_left_whatever_that_says_its_version_is() {
    let pki = Pki::new();
    for layer in LAYERS {
        // Names that rustls knows, of protocols that it does not speak.
        for version in [[3, 3], [0, 2], [0xfe, 0xfd]] {
            let client = Arc::clone(&pki.client);
            let mut client = Handshake::client(client, name(), RecordLayer::Rustls).unwrap();
            let mut server = Handshake::server(Arc::clone(&pki.server), layer).unwrap();
            let (mut up, mut down) = (Vec::new(), Vec::new());
            assert!(!client.advance(&mut down, &mut up).unwrap());
            assert!(!server.advance(&mut up, &mut down).unwrap());
            assert!(client.advance(&mut down, &mut up).unwrap());
            let mut at = 0;
            while let Some(length) = framing::first_record(&up[at..]) {
                up[at + 1..at + 3].copy_from_slice(&version);
                at += length;
            }
            let mut client = client.finish(Vec::new()).unwrap();
            let data = seal(&mut client.session, b"data");
            up.extend_from_slice(&data);
            assert!(server.advance(&mut up, &mut down).unwrap(), "{layer:?} {version:?}");
            assert_eq!(up, data);
        }
    }
}
