//! The version of a resource, which only has to be given back as it came: in place, as long as it is of a usual length.

use std::fmt;

/// A version.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Version(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// 32 digits of lower-case hexadecimal, as our own control plane's are.
    Hash([u8; 16]),
    Short {
        length: u8,
        text: [u8; SHORT],
    },
    Long(Box<str>),
}

const SHORT: usize = 22;

impl Version {
    pub(super) fn new(text: &str) -> Self {
        if let Some(hash) = hash(text) {
            return Self(Form::Hash(hash));
        }
        match u8::try_from(text.len()) {
            Ok(length) if text.len() <= SHORT => {
                let mut short = [0; SHORT];
                short[..text.len()].copy_from_slice(text.as_bytes());
                Self(Form::Short { length, text: short })
            }
            _ => Self(Form::Long(text.into())),
        }
    }
}

fn hash(text: &str) -> Option<[u8; 16]> {
    let digits = <[u8; 32]>::try_from(text.as_bytes()).ok()?;
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 16];
    for (byte, [high, low]) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Hash(hash) => hash.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Form::Short { length, text } => {
                // It was text, whole, when it came.
                f.write_str(std::str::from_utf8(&text[..usize::from(*length)]).unwrap_or_default())
            }
            Form::Long(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_given_back_as_it_came(text in prop_oneof![any::<String>(), "[0-9a-fA-F]{31,33}", ".{0,24}"]) {
            prop_assert_eq!(Version::new(&text).to_string(), text);
        }
    }

    #[test]
    fn it_takes_the_room_of_three_pointers() {
        assert!(size_of::<Version>() <= 24);
        assert!(matches!(Version::new("0123456789abcdef0123456789abcdef").0, Form::Hash(_)));
    }
}
