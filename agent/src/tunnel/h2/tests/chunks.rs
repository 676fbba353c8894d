//! Whatever the pieces the input comes in, the same is told and sent.

use proptest::prelude::*;

use super::support::{Tale, block, connect, feed_by, frame, output, serving};
use crate::tunnel::h2::frame::{flag, kind};
use crate::tunnel::h2::{Config, Connection, Violation};

/// Frames as a peer may send them, and as none should.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![Just(0u32), Just(1), Just(3), Just(5), Just(7), Just(2)];
    let flags = prop_oneof![
        Just(flag::END_HEADERS),
        Just(flag::END_HEADERS | flag::END_STREAM),
        Just(flag::PADDED),
        any::<u8>()
    ];
    let request = block(&[(":method", "POST"), (":scheme", "x"), (":path", "/"), ("a", "b")]);
    let payload = prop_oneof![
        3 => prop::collection::vec(0u8..8, 0..40),
        2 => Just(connect()),
        1 => Just(request),
        1 => Just(vec![0; 4]),
        1 => Just(vec![0, 0, 0, 1]),
        1 => Just(vec![0, 0, 0, 3, 0, 0, 0, 0]),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    (0u8..=kind::CONTINUATION + 1, flags, id, payload)
        .prop_map(|(kind, flags, id, payload)| frame(kind, flags, id, &payload))
}

/// The frames that rarely come about by chance.
fn likely_frame() -> impl Strategy<Value = Vec<u8>> {
    let ids = prop_oneof![Just(1u32), Just(3), Just(5), Just(7)];
    let open = ids.clone().prop_map(|id| frame(kind::HEADERS, flag::END_HEADERS, id, &connect()));
    let data = (ids.clone(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(
        |(id, end, bytes)| frame(kind::DATA, u8::from(end) * flag::END_STREAM, id, &bytes),
    );
    let padded = (ids, 0u8..9, prop::collection::vec(any::<u8>(), 9..20)).prop_map(
        |(id, padding, bytes)| {
            frame(kind::DATA, flag::PADDED, id, &[&[padding][..], &bytes].concat())
        },
    );
    prop_oneof![3 => open, 4 => data, 2 => padded, 1 => some_frame()]
}

type Outcome = (Result<Tale, Violation>, Vec<u8>);

fn outcome(mut connection: Connection, input: &[u8], size: usize) -> Outcome {
    let told = feed_by(&mut connection, input, size);
    (told, output(&mut connection))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn events_and_output_do_not_depend_on_the_pieces(
        frames in prop::collection::vec(likely_frame(), 1..12),
        size in 1usize..40,
    ) {
        let input = frames.concat();
        let config = Config { initial_window: 300, max_window: 300, ..Config::default() };
        let whole = outcome(serving(config), &input, usize::MAX);
        prop_assert_eq!(&whole, &outcome(serving(config), &input, 1));
        prop_assert_eq!(&whole, &outcome(serving(config), &input, size));
    }
}
