//! When a token ends, as it says of itself. Nothing is proved by that: it is asked only of tokens that were found good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The part of a token's claims that tells (RFC 7519, 4.1.4).
#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970; part of one may be there.
    exp: f64,
}

/// When a token ends; none if that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry(Option<SystemTime>);

impl Expiry {
    /// Of a JSON web token in its compact form.
    pub(super) fn of(token: &str) -> Self {
        Self(read(token))
    }

    /// It is known not to have ended.
    pub(super) fn is_ahead(self) -> bool {
        self.0.is_some_and(|end| SystemTime::now() < end)
    }

    /// It is known to have ended.
    pub(super) fn has_passed(self) -> bool {
        self.0.is_some_and(|end| SystemTime::now() >= end)
    }
}

fn read(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.').skip(1);
    let claims = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_end_is_read_from_the_claims() {
        let at = |seconds| Expiry(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)));
        assert_eq!(Expiry::of(&token(r#"{"exp":4102444800,"sub":"a"}"#)), at(4_102_444_800.0));
        assert_eq!(Expiry::of(&token(r#"{"exp":1.5}"#)), at(1.5));
        assert!(at(4_102_444_800.0).is_ahead() && !at(4_102_444_800.0).has_passed());
        assert!(at(1.5).has_passed() && !at(1.5).is_ahead());
    }

    #[test]
    fn what_cannot_be_read_is_neither_ahead_nor_past() {
        let odd = [r#"{"exp":-1}"#, r#"{"exp":1e300}"#, r#"{"exp":"soon"}"#, "{}", "no claims"];
        let odd = odd.iter().map(|claims| token(claims));
        for token in odd.chain(["", ".", "a.b", "a.!.c"].map(str::to_owned)) {
            let expiry = Expiry::of(&token);
            assert!(!expiry.is_ahead() && !expiry.has_passed(), "{token}: {expiry:?}");
        }
    }
}
