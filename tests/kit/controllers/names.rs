//! Names as Kubernetes makes them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The letters of generated names: no vowels, so no words.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name part of `length` letters, the same for the same `seed`.
pub(super) fn hashed(seed: &str, length: usize) -> String {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    letters(hasher.finish(), length)
}

/// A random name part of five letters.
pub(super) fn random() -> String {
    letters(rand::random(), 5)
}

fn letters(mut number: u64, length: usize) -> String {
    let mut name = String::with_capacity(length);
    for _ in 0..length {
        let index = usize::try_from(number % 27).unwrap_or_default();
        name.push(char::from(LETTERS[index]));
        number /= 27;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_name() {
        assert_eq!(hashed("a", 10), hashed("a", 10));
        assert_ne!(hashed("a", 10), hashed("b", 10));
        assert_eq!((hashed("a", 10).len(), random().len()), (10, 5));
    }
}
