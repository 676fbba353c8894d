//! A resource of a response, as far as it has to be read to know what it is.

use prost::Message as _;
use sotto_proto::ads::Resource;

use super::wire::{Fields, Odd, once};

/// A resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) body: Option<Body<'a>>,
}

/// Its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Body<'a> {
    pub(super) type_url: &'a str,
    pub(super) value: &'a [u8],
}

/// Reads a resource, and tells what is done with it.
///
/// # Errors
/// It is none.
pub(super) fn read<T>(
    resource: &[u8],
    then: impl FnOnce(Told<'_>) -> T,
) -> Result<T, prost::DecodeError> {
    if let Ok(told) = in_place(resource) {
        return Ok(then(told));
    }
    let Resource { name, version, resource, .. } = Resource::decode(resource)?;
    let body = resource.as_ref();
    let body = body.map(|any| Body { type_url: &any.type_url, value: &any.value });
    Ok(then(Told { name: &name, version: &version, body }))
}

fn in_place(resource: &[u8]) -> Result<Told<'_>, Odd> {
    let (mut version, mut body, mut name) = (None, None, None);
    for field in Fields::of(resource) {
        match field? {
            (1, value) => once(&mut version, value.text()?)?,
            (2, value) => once(&mut body, any(value.bytes()?)?)?,
            (3, value) => once(&mut name, value.text()?)?,
            // Aliases: nobody wants them, but they are text.
            (4, value) => drop(value.text()?),
            _ => {}
        }
    }
    let (name, version) = (name.unwrap_or_default(), version.unwrap_or_default());
    Ok(Told { name, version, body })
}

fn any(message: &[u8]) -> Result<Body<'_>, Odd> {
    let (mut type_url, mut content) = (None, None);
    for field in Fields::of(message) {
        match field? {
            (1, value) => once(&mut type_url, value.text()?)?,
            (2, value) => once(&mut content, value.bytes()?)?,
            _ => {}
        }
    }
    Ok(Body { type_url: type_url.unwrap_or_default(), value: content.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost_types::Any;

    use super::{Body, Resource, Told, in_place, read};

    fn any_resource() -> impl Strategy<Value = Resource> {
        let body = proptest::option::of(any::<(String, Vec<u8>)>());
        let parts = (any::<String>(), any::<String>(), body, any::<Vec<String>>());
        parts.prop_map(|(name, version, body, aliases)| {
            let resource = body.map(|(type_url, value)| Any { type_url, value });
            Resource { version, resource, name, aliases }
        })
    }

    /// As the decoder of all protobuf has it.
    fn expected(told: Told<'_>) -> Resource {
        let any = |body: Body<'_>| Any { type_url: body.type_url.into(), value: body.value.into() };
        Resource {
            version: told.version.into(),
            resource: told.body.map(any),
            name: told.name.into(),
            aliases: Vec::new(),
        }
    }

    fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
        let whole = Resource::decode(bytes).map(|one| Resource { aliases: Vec::new(), ..one });
        prop_assert_eq!(read(bytes, expected), whole.clone());
        if let Ok(told) = in_place(bytes) {
            prop_assert_eq!(Ok(expected(told)), whole);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn it_is_read_in_place(resource in any_resource()) {
            let bytes = resource.encode_to_vec();
            prop_assert!(in_place(&bytes).is_ok());
            check(&bytes)?;
        }

        #[test]
        fn whatever_the_bytes_are_it_is_read_as_protobuf_has_it(
            one in any_resource(), other in any_resource(), cut in 0..40_usize, at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            // Two messages in a row are one, of which the parts are put together.
            let mut bytes = [one.encode_to_vec(), other.encode_to_vec()].concat();
            check(&bytes)?;
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = to;
                check(&bytes)?;
            }
            bytes.truncate(cut);
            check(&bytes)?;
        }
    }
}
