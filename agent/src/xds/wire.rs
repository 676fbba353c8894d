//! Messages read in place: fields of a protobuf message, one after the other, without a copy.
//!
//! Only what is as it always is gets through. Whatever is odd, and may have to be refused, put together from several
//! parts or understood in another way, is left to the decoder that knows all of protobuf.

/// A message has something that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Odd;

/// The fields of a message, in the order of its bytes.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// What a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that no field has that is read here.
    Fixed,
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn number(&mut self) -> Result<u64, Odd> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Odd)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(Odd);
            }
            number |= bits << shift;
            if *byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Odd)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Odd> {
        let length = usize::try_from(length).map_err(|_| Odd)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Odd)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Odd> {
        let key = u32::try_from(self.number()?).map_err(|_| Odd)?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.number()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Value::Fixed)?,
            _ => return Err(Odd),
        };
        if key >> 3 == 0 { Err(Odd) } else { Ok((key >> 3, value)) }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Odd>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Odd> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Odd) }
    }

    pub(super) fn text(self) -> Result<&'a str, Odd> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Odd)
    }

    fn number(self) -> Result<u64, Odd> {
        if let Self::Number(number) = self { Ok(number) } else { Err(Odd) }
    }

    pub(super) fn u32(self) -> Result<u32, Odd> {
        u32::try_from(self.number()?).map_err(|_| Odd)
    }

    /// Of an enumeration.
    pub(super) fn i32(self) -> Result<i32, Odd> {
        i32::try_from(self.number()?).map_err(|_| Odd)
    }

    pub(super) fn bool(self) -> Result<bool, Odd> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Odd),
        }
    }
}

/// Fills what was not told before; what is told twice would have to be put together.
pub(super) fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Odd> {
    if place.replace(value).is_some() { Err(Odd) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use sotto_proto::workload::{Locality, Port};

    use super::*;

    fn texts(message: &[u8]) -> Result<[String; 3], Odd> {
        let mut texts = [const { String::new() }; 3];
        for field in Fields::of(message) {
            let (number, value) = field?;
            if let Some(text) = texts.get_mut(number as usize - 1) {
                value.text()?.clone_into(text);
            }
        }
        Ok(texts)
    }

    fn numbers(message: &[u8]) -> Result<[u32; 3], Odd> {
        let mut numbers = [0; 3];
        for field in Fields::of(message) {
            let (number, value) = field?;
            if let Some(place) = numbers.get_mut(number as usize - 1) {
                *place = value.u32()?;
            }
        }
        Ok(numbers)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(port in any::<(u16, u16)>(), texts_told in any::<(String, String)>()) {
            let (service_port, target_port) = (port.0.into(), port.1.into());
            let bytes = Port { service_port, target_port, app_protocol: 1 }.encode_to_vec();
            prop_assert_eq!(numbers(&bytes), Ok([service_port, target_port, 1]));
            let (region, zone) = texts_told;
            let expected = Ok([region.clone(), zone.clone(), String::new()]);
            let bytes = Locality { region, zone, subzone: String::new() }.encode_to_vec();
            prop_assert_eq!(texts(&bytes), expected);
        }

        #[test]
        fn what_is_read_of_any_bytes_the_other_decoder_reads_too(bytes in any::<Vec<u8>>()) {
            if let Ok([region, zone, subzone]) = texts(&bytes) {
                prop_assert_eq!(Locality::decode(&bytes[..]), Ok(Locality { region, zone, subzone }));
            }
            if let Ok([service_port, target_port, protocol]) = numbers(&bytes)
                && let Ok(app_protocol) = i32::try_from(protocol)
            {
                let port = Port { service_port, target_port, app_protocol };
                prop_assert_eq!(Port::decode(&bytes[..]), Ok(port));
            }
        }
    }
}
