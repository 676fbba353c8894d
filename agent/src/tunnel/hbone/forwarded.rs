//! Where a connection came from and the name it asked for, as RFC 7239 says it.

use std::net::{IpAddr, SocketAddr};

use arcstr::ArcStr;
use http::HeaderValue;

/// The first element of a `forwarded` header. What a peer says here serves metrics and logs only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The application's own address.
    pub client: Option<SocketAddr>,
    /// The service's hostname, if the application asked for a service.
    pub host: Option<ArcStr>,
}

impl Forwarded {
    /// The header's value; none if there is nothing to say.
    pub fn header(&self) -> Option<HeaderValue> {
        let mut text = String::new();
        if let Some(client) = self.client {
            text.push_str("for=\"");
            text.push_str(&client.to_string());
            text.push('"');
        }
        if let Some(host) = &self.host {
            text.push_str(if text.is_empty() { "host=" } else { ";host=" });
            push_value(host, &mut text);
        }
        if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
    }

    /// Reads the first element; parameters that make no sense are passed over.
    pub fn parse(header: &str) -> Self {
        let mut forwarded = Self::default();
        let mut rest = header;
        loop {
            let Some((name, after)) = rest.split_once('=') else { return forwarded };
            let Some((value, after)) = take_value(after.trim_start()) else { return forwarded };
            forwarded.set(name.trim(), value);
            match after.trim_start().strip_prefix(';') {
                Some(next) => rest = next,
                // A comma begins the next, older element.
                None => return forwarded,
            }
        }
    }

    fn set(&mut self, name: &str, value: String) {
        if name.eq_ignore_ascii_case("for") && self.client.is_none() {
            let bare = || value.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0));
            self.client = value.parse().ok().or_else(bare);
        } else if name.eq_ignore_ascii_case("host") && self.host.is_none() && !value.is_empty() {
            self.host = Some(value.into());
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn push_value(value: &str, text: &mut String) {
    if value.bytes().all(is_token) && !value.is_empty() {
        text.push_str(value);
        return;
    }
    text.push('"');
    for char in value.chars() {
        if matches!(char, '"' | '\\') {
            text.push('\\');
        }
        text.push(char);
    }
    text.push('"');
}

/// A token or quoted string, and what follows it. Unquoted colons and brackets are let pass, as
/// many write addresses so.
fn take_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Some((value.trim_end().to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, client: Option<&str>, host: Option<&str>) {
        let client = client.map(|client| client.parse().unwrap());
        let expected = Forwarded { client, host: host.map(ArcStr::from) };
        assert_eq!(Forwarded::parse(text), expected, "{text}");
    }

    #[test]
    fn reads_what_meshes_send() {
        check("for=\"10.0.0.1:4711\";host=a.ns.svc", Some("10.0.0.1:4711"), Some("a.ns.svc"));
        check("for=\"[fd00::1]:4711\"", Some("[fd00::1]:4711"), None);
        check("For=10.0.0.1 ; Host = \"a\\\"b\"", Some("10.0.0.1:0"), Some("a\"b"));
        check("host=first, host=second;for=10.0.0.1:1", None, Some("first"));
        check("proto=http;for=unknown;host=\"open", None, None);
        check("", None, None);
    }

    #[test]
    fn builds_what_meshes_read() {
        let client = Some("[fd00::1]:80".parse().unwrap());
        let forwarded = Forwarded { client, host: Some("a.ns.svc.cluster.local".into()) };
        let header = forwarded.header().unwrap();
        assert_eq!(header, "for=\"[fd00::1]:80\";host=a.ns.svc.cluster.local");
        assert_eq!(Forwarded::default().header(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            Forwarded::parse(&text);
        }

        #[test]
        fn text_like_the_grammar_is_read_without_panic(text in "[forhst=\";,\\\\ \\[\\]:0-9é]*") {
            Forwarded::parse(&text);
        }

        #[test]
        fn what_is_built_is_read_back(
            client: Option<SocketAddr>,
            host in proptest::option::of("[ -~]{1,30}"),
        ) {
            // A flow label or scope has no place in the text.
            let client = client.map(|client| SocketAddr::new(client.ip(), client.port()));
            let forwarded = Forwarded { client, host: host.map(ArcStr::from) };
            let header = forwarded.header();
            let text = header.as_ref().map_or("", |value| value.to_str().unwrap());
            prop_assert_eq!(Forwarded::parse(text), forwarded);
        }
    }
}
