//! Who claims an address or a name: usually one, sometimes several for a while.

use std::sync::Arc;

/// The claimants of one key, in the order they came.
///
/// Cheap to clone, since persistent maps copy the entries that neighbour a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claims<K> {
    /// The usual case.
    One(K),
    /// Two or more.
    Many(Arc<[K]>),
}

impl<K: Clone + PartialEq> Claims<K> {
    /// All claimants, oldest first.
    pub(super) fn as_slice(&self) -> &[K] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    fn from_vec(mut keys: Vec<K>) -> Option<Self> {
        match keys.len() {
            0 => None,
            1 => keys.pop().map(Self::One),
            _ => Some(Self::Many(keys.into())),
        }
    }
}

/// Adds a claim; one that stands already keeps its place.
pub(super) fn claim<I, K>(index: &mut imbl::HashMap<I, Claims<K>>, at: I, key: &K)
where
    I: Clone + Eq + std::hash::Hash,
    K: Clone + PartialEq,
{
    let claims = match index.get(&at) {
        None => Claims::One(key.clone()),
        Some(claims) if claims.as_slice().contains(key) => return,
        Some(claims) => {
            Claims::Many(claims.as_slice().iter().chain(std::iter::once(key)).cloned().collect())
        }
    };
    index.insert(at, claims);
}

/// Withdraws a claim; the entry goes with the last one.
pub(super) fn release<I, K>(index: &mut imbl::HashMap<I, Claims<K>>, at: &I, key: &K)
where
    I: Clone + Eq + std::hash::Hash,
    K: Clone + PartialEq,
{
    let Some(claims) = index.get(at) else { return };
    let left = claims.as_slice().iter().filter(|claimant| *claimant != key).cloned().collect();
    match Claims::from_vec(left) {
        Some(claims) => index.insert(at.clone(), claims),
        None => index.remove(at),
    };
}
