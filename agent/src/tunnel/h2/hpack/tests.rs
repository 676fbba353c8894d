//! The vectors of RFC 7541 appendix C, and the rules of its sections.

use proptest::prelude::*;

use super::{Decoder, Encoder, HpackError, TABLE_SIZE};

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

type List = Vec<(Vec<u8>, Vec<u8>)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<List, HpackError> {
    let mut fields = Vec::new();
    decoder
        .decode(block, usize::MAX, |name, value| fields.push((name.to_vec(), value.to_vec())))?;
    Ok(fields)
}

fn list(fields: &[(&str, &str)]) -> List {
    let bytes = |text: &str| text.as_bytes().to_vec();
    fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect()
}

/// A block, what it decodes to, and the size of the table after it.
type Block<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

fn check(table: usize, blocks: &[Block<'_>]) {
    let mut decoder = Decoder::new(table);
    for (block, expected, size) in blocks {
        assert_eq!(decode(&mut decoder, &unhex(block)), Ok(list(expected)), "{block}");
        assert_eq!(decoder.table_size(), *size, "{block}");
    }
}

fn fails(block: &[u8], expected: HpackError) {
    assert_eq!(decode(&mut Decoder::new(TABLE_SIZE), block), Err(expected), "{block:?}");
}

#[test]
fn each_representation_decodes_as_in_c_2() {
    check(
        TABLE_SIZE,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
            55,
        )],
    );
    check(TABLE_SIZE, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 0)]);
    check(
        TABLE_SIZE,
        &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0)],
    );
    check(TABLE_SIZE, &[("82", &[(":method", "GET")], 0)]);
}

const FIRST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: [(&str, &str); 5] =
    [FIRST[0], FIRST[1], FIRST[2], FIRST[3], ("cache-control", "no-cache")];
const THIRD: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn requests_decode_as_in_c_3_and_c_4() {
    check(
        TABLE_SIZE,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &FIRST, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", &SECOND, 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                &THIRD,
                164,
            ),
        ],
    );
    check(
        TABLE_SIZE,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &FIRST, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", &SECOND, 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &THIRD, 164),
        ],
    );
}

const DATE: &str = "Mon, 21 Oct 2013 20:13:21 GMT";
const LATER: &str = "Mon, 21 Oct 2013 20:13:22 GMT";
const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
const PLACE: (&str, &str) = ("location", "https://www.example.com");
const PRIVATE: (&str, &str) = ("cache-control", "private");

#[test]
fn responses_evict_as_in_c_5_and_c_6() {
    let first = [(":status", "302"), PRIVATE, ("date", DATE), PLACE];
    let second = [(":status", "307"), PRIVATE, ("date", DATE), PLACE];
    let third = [
        (":status", "200"),
        PRIVATE,
        ("date", LATER),
        PLACE,
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ];
    check(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032
                 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                &first,
                222,
            ),
            ("4803 3330 37c1 c0bf", &second, 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0
                 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851
                 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                &third,
                215,
            ),
        ],
    );
    check(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b
                 ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &first,
                222,
            ),
            ("4883 640e ffc1 c0bf", &second, 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad
                 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160
                 65c0 03ed 4ee5 b106 3d50 07",
                &third,
                215,
            ),
        ],
    );
}

#[test]
fn integers_decode_as_in_c_1_and_are_bounded() {
    let decoded = |mut bytes: &[u8], prefix| super::integer::decode(&mut bytes, prefix);
    assert_eq!(decoded(&[0b0000_1010], 5), Ok(10));
    assert_eq!(decoded(&[0b0001_1111, 0b1001_1010, 0b0000_1010], 5), Ok(1337));
    assert_eq!(decoded(&[42], 8), Ok(42));
    assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff, 0x7f], 8), Ok(255 + (1 << 28) - 1));
    assert_eq!(decoded(&[0xff, 0x80, 0x80, 0x80, 0x80, 0], 8), Err(HpackError::IntegerOverflow));
    assert_eq!(decoded(&[0xff, 0x80], 8), Err(HpackError::Truncated));
    assert_eq!(decoded(&[], 8), Err(HpackError::Truncated));
}

#[test]
fn a_block_that_is_cut_short_is_refused() {
    let whole = unhex("4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
    for end in 1..whole.len() {
        fails(&whole[..end], HpackError::Truncated);
    }
}

#[test]
fn an_index_refers_to_an_entry() {
    fails(&[0x80], HpackError::Index);
    fails(&[0x80 | 62], HpackError::Index);
    fails(&[0x7e, 0], HpackError::Index);
    fails(&[0x0f, 62 - 15, 0], HpackError::Index);
}

#[test]
fn the_table_is_resized_only_before_fields_and_within_the_limit() {
    let mut decoder = Decoder::new(TABLE_SIZE);
    let insert = unhex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    decode(&mut decoder, &insert).unwrap();
    // To 0 and back: empty, and usable.
    let resized = [&[0x20, 0x3f, 0xe1, 0x1f][..], &insert, &[0xbe]].concat();
    assert_eq!(decode(&mut decoder, &resized).unwrap().len(), 2);
    decode(&mut decoder, &[0x20]).unwrap();
    assert_eq!(decoder.table_size(), 0);
    fails(&[0x3f, 0xe2, 0x1f], HpackError::TableSize);
    fails(&[0x82, 0x20], HpackError::LateTableSize);
}

#[test]
fn two_table_sizes_in_a_block_say_all_that_happened_and_more_are_refused() {
    let mut decoder = Decoder::new(TABLE_SIZE);
    assert_eq!(decode(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f, 0x82]).unwrap().len(), 1);
    // Each block has its own two.
    assert_eq!(decode(&mut decoder, &[0x20, 0x20, 0x82]).unwrap().len(), 1);
    fails(&[0x20, 0x20, 0x20, 0x82], HpackError::TableSizes);
    fails(&[0x20, 0x3f, 0xe1, 0x1f].repeat(4000), HpackError::TableSizes);
}

#[test]
fn a_block_unpacks_to_no_more_than_there_is_room_for() {
    let mut decoder = Decoder::new(TABLE_SIZE);
    let name = [&[0x40, 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000], &[0]].concat();
    decode(&mut decoder, &name).unwrap();
    let mut unpacked = 0;
    // Its name again, as often as it is asked for with two bytes.
    let bomb = [0x7e, 0].repeat(30_000);
    let result = decoder.decode(&bomb, 100_000, |name, value| unpacked += name.len() + value.len());
    assert_eq!(result, Err(HpackError::ListSize));
    assert!((90_000..=100_000).contains(&unpacked), "{unpacked}");
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(60);
    let insert = unhex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
    decode(&mut decoder, &insert).unwrap();
    assert_eq!(decoder.table_size(), 55);
    decode(&mut decoder, &[&[0x40, 1, b'a', 28][..], &[b'x'; 28]].concat()).unwrap();
    assert_eq!(decoder.table_size(), 0);
}

#[test]
fn a_name_of_an_entry_that_its_own_insertion_evicts_is_kept() {
    let mut decoder = Decoder::new(60);
    decode(
        &mut decoder,
        &unhex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"),
    )
    .unwrap();
    let fields = decode(&mut decoder, &[0x7e, 1, b'x', 0xbe]).unwrap();
    assert_eq!(fields, list(&[("custom-key", "x"), ("custom-key", "x")]));
}

#[test]
fn a_field_that_comes_again_is_sent_once() {
    let mut encoder = Encoder::new();
    let mut sizes = Vec::new();
    for stream in ["1", "2", "3", "4"] {
        let mut block = Vec::new();
        encoder.start(&mut block);
        encoder.field("baggage", b"service.name=cart", &mut block);
        encoder.field("forwarded", stream.as_bytes(), &mut block);
        sizes.push(block.len());
    }
    // Name and value of the second, and one byte for the first.
    assert_eq!(sizes, [40, 40, 14, 14]);
}

/// A value in Huffman code.
fn huffman(bytes: &[u8]) -> Vec<u8> {
    [&[0x00, 1, b'a', 0x80 | u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

#[test]
fn huffman_padding_is_less_than_a_byte_of_ones() {
    let ok =
        |bytes: &[u8]| decode(&mut Decoder::new(TABLE_SIZE), &huffman(bytes)).unwrap()[0].1.clone();
    assert_eq!(ok(&[]), b"");
    // '0' is 00000.
    assert_eq!(ok(&[0b0000_0111]), b"0");
    // ':' is 1011100 and '&' 11111000.
    assert_eq!(ok(&[0b1011_1001]), b":");
    assert_eq!(ok(&[0b1111_1000]), b"&");
    fails(&huffman(&[0b0000_0110]), HpackError::HuffmanPadding);
    fails(&huffman(&[0b0000_0000]), HpackError::HuffmanPadding);
    fails(&huffman(&[0b0000_0111, 0xff]), HpackError::HuffmanPadding);
    fails(&huffman(&[0xff]), HpackError::HuffmanPadding);
    fails(&huffman(&[0xff, 0xff, 0xff, 0xff]), HpackError::HuffmanEos);
    fails(&huffman(&[0xff, 0xff, 0xff, 0xfc, 0xff]), HpackError::HuffmanEos);
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(
        blocks in prop::collection::vec(prop::collection::vec(("[a-d]{1,3}", "[a-c]{0,4}"), 0..8), 1..20),
        limits in prop::collection::vec((0usize..20, 0u32..300), 0..6),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(TABLE_SIZE));
        for (at, fields) in blocks.iter().enumerate() {
            for (_, limit) in limits.iter().filter(|(when, _)| *when == at) {
                encoder.limit(*limit);
            }
            let mut block = Vec::new();
            encoder.start(&mut block);
            for (name, value) in fields {
                encoder.field(name, value.as_bytes(), &mut block);
            }
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            prop_assert_eq!(decode(&mut decoder, &block), Ok(list(&fields)));
        }
    }

    #[test]
    fn no_block_makes_the_decoder_panic_or_grow(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..10)) {
        let mut decoder = Decoder::new(TABLE_SIZE);
        for block in blocks {
            let outcome = decode(&mut decoder, &block);
            prop_assert!(decoder.table_size() <= TABLE_SIZE);
            if outcome.is_err() {
                break;
            }
        }
    }
}
