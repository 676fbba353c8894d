//! Questions and answers as bytes (RFC 1035, RFC 6891). The one module that sees hickory's messages.

use std::net::IpAddr;
use std::str::FromStr as _;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{Answer, TTL, Transport};

/// The least that whoever asks must take in a datagram (RFC 1035, 2.3.4).
const LEAST: usize = 512;
/// The most that is sent in one, and taken: it never leaves the pod.
const MOST: u16 = 4096;
/// A record of an address, with the shortest of names (RFC 1035, 3.2.1, 4.1.4).
const SHORTEST: usize = 16;
/// A header (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// A question that the mesh may answer: for the addresses, of one family, of one name.
#[derive(Debug, Clone)]
pub struct Question {
    id: u16,
    query: Query,
    /// In lower case, without a dot at the end.
    name: String,
    is_v4: bool,
    recursion_desired: bool,
    /// Bytes that an answer may have, if that is said.
    room: Option<u16>,
}

impl Question {
    /// Reads a question; none for any other message, and for what cannot be read.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        let is_question = message.metadata.message_type == MessageType::Query
            && message.metadata.op_code == OpCode::Query;
        let [query] = &message.queries[..] else { return None };
        let is_v4 = match query.query_type() {
            RecordType::A => true,
            RecordType::AAAA => false,
            _ => return None,
        };
        let edns = message.edns.as_ref();
        if !is_question
            || query.query_class() != DNSClass::IN
            || edns.is_some_and(|edns| edns.version() != 0)
        {
            return None;
        }
        let name = query.name().to_ascii().to_ascii_lowercase();
        Some(Self {
            id: message.metadata.id,
            query: query.clone(),
            name: name.trim_end_matches('.').to_owned(),
            is_v4,
            recursion_desired: message.metadata.recursion_desired,
            room: edns.map(Edns::max_payload),
        })
    }

    /// The name, in lower case, without a dot at the end.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether IPv4 addresses are asked for; else it is IPv6.
    pub fn is_v4(&self) -> bool {
        self.is_v4
    }

    /// The answer as bytes. As many addresses as there is room for: if not all, it says so, and who asks can do so again by
    /// another transport. None for a name that has no form on the wire.
    pub fn answer(&self, answer: &Answer, transport: Transport) -> Option<Vec<u8>> {
        let room = match transport {
            Transport::Datagram => usize::from(self.room.unwrap_or_default().min(MOST)).max(LEAST),
            Transport::Stream => usize::from(u16::MAX),
        };
        let mut message = self.respond(ResponseCode::NoError);
        message.metadata.authoritative = true;
        self.add(&mut message, answer)?;
        // What cannot have room is not even tried.
        let all = message.answers.len();
        message.answers.truncate(room / SHORTEST);
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= room && message.answers.len() == all {
            return Some(bytes);
        }
        message.metadata.truncation = true;
        within(message, room)
    }

    fn respond(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if self.room.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MOST);
            message.set_edns(edns);
        }
        message
    }

    fn add(&self, message: &mut Message, answer: &Answer) -> Option<()> {
        let mut name = self.query.name().clone();
        if answer.addresses.is_empty() {
            return Some(());
        }
        if let Some(alias) = &answer.alias {
            let mut alias = Name::from_str(alias).ok()?;
            alias.set_fqdn(true);
            let data = RData::CNAME(CNAME(alias.clone()));
            message.add_answer(Record::from_rdata(name, TTL, data));
            name = alias;
        }
        for ip in &answer.addresses {
            let data = match ip {
                IpAddr::V4(ip) => RData::A(A(*ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
            };
            message.add_answer(Record::from_rdata(name.clone(), TTL, data));
        }
        Some(())
    }
}

/// A message with as many of its answers as there is room for.
fn within(mut message: Message, room: usize) -> Option<Vec<u8>> {
    let answers = std::mem::take(&mut message.answers);
    let mut with = |count: usize| {
        message.answers = answers.get(..count)?.to_vec();
        message.to_vec().ok()
    };
    let (mut fitting, mut count, mut too_many) = (with(0)?, 0, answers.len() + 1);
    while too_many - count > 1 {
        let middle = count.midpoint(too_many);
        let bytes = with(middle)?;
        if bytes.len() <= room {
            (fitting, count) = (bytes, middle);
        } else {
            too_many = middle;
        }
    }
    Some(fitting)
}

/// What is said where a question cannot be answered now, so that who asks need not wait; none for what is no question.
pub fn failure(question: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    if asked.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.response_code = ResponseCode::ServFail;
    message.queries = asked.queries;
    message.to_vec().ok()
}

/// Whether a message says to be the answer to a question. Whether it is true is for who asked to judge.
pub fn is_answer(question: &[u8], message: &[u8]) -> bool {
    let is_response = message.get(2).is_some_and(|flags| flags & 0x80 != 0);
    message.len() >= HEADER && is_response && question.get(..2) == message.get(..2)
}
