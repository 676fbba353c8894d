//! What many resources share, each kept once: names, and lists that are the same of all pods of a Deployment.
//!
//! What nobody has any more is forgotten when there is twice as much as after the last look.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::str::Utf8Error;

use arcstr::ArcStr;

use super::hashes::Seeds;

/// So few are not looked through.
const FEW: usize = 1024;

/// Values that are shared, by what they are made of.
#[derive(Clone)]
pub struct Pool<K, V> {
    all: HashMap<K, V, Seeds>,
    is_used: fn(&K, &V) -> bool,
    due: usize,
}

impl<K: Eq + Hash, V: Clone> Pool<K, V> {
    /// An empty one; `is_used` tells whether anybody has a value besides the pool.
    pub fn new(is_used: fn(&K, &V) -> bool) -> Self {
        Self { all: HashMap::default(), is_used, due: FEW }
    }

    /// The value of a key, if it was shared before.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.all.get(key)
    }

    /// Shares a value from now on.
    pub fn put(&mut self, key: K, value: V) {
        if self.all.len() >= self.due {
            let is_used = self.is_used;
            self.all.retain(|key, value| is_used(key, value));
            self.due = (2 * self.all.len()).max(FEW);
            self.all.shrink_to(self.due);
        }
        self.all.insert(key, value);
    }
}

impl<K, V> fmt::Debug for Pool<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("len", &self.all.len()).finish_non_exhaustive()
    }
}

/// Names.
#[derive(Debug, Clone)]
pub struct Names(Pool<ArcStr, ()>);

impl Default for Names {
    fn default() -> Self {
        // Of text that is part of the program there is no count, nor anything to gain.
        Self(Pool::new(|name, ()| ArcStr::strong_count(name).is_none_or(|count| count > 1)))
    }
}

impl Names {
    /// A name. The one that came before is often the same again, which is seen at a glance.
    ///
    /// # Errors
    /// It is no text.
    pub fn name(&mut self, text: &[u8], before: Option<&ArcStr>) -> Result<ArcStr, Utf8Error> {
        if text.is_empty() {
            return Ok(ArcStr::new());
        }
        if let Some(same) = before.filter(|before| before.as_bytes() == text) {
            return Ok(same.clone());
        }
        let text = std::str::from_utf8(text)?;
        if let Some((known, ())) = self.0.all.get_key_value(text) {
            return Ok(known.clone());
        }
        let name = ArcStr::from(text);
        self.0.put(name.clone(), ());
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(names: &mut Names, text: &str) -> ArcStr {
        names.name(text.as_bytes(), None).unwrap()
    }

    #[test]
    fn equal_names_are_one_text() {
        let mut names = Names::default();
        let (one, same) = (name(&mut names, "shop"), name(&mut names, "shop"));
        assert!(ArcStr::ptr_eq(&one, &same));
        assert!(ArcStr::ptr_eq(&one, &names.name(b"shop", Some(&same)).unwrap()));
        assert_eq!(names.name(b"other", Some(&one)), Ok("other".into()));
        assert_eq!(names.name(b"", Some(&one)), Ok(ArcStr::new()));
        assert!(names.name(&[0xff], Some(&one)).is_err());
    }

    #[test]
    fn names_that_nobody_has_are_forgotten() {
        let mut names = Names::default();
        let kept = name(&mut names, "kept");
        for number in 0..100 * FEW {
            name(&mut names, &number.to_string());
        }
        assert!(names.0.all.len() <= 2 * FEW, "{}", names.0.all.len());
        assert!(ArcStr::ptr_eq(&kept, &name(&mut names, "kept")));
    }

    #[test]
    fn as_many_as_are_had_are_kept() {
        let mut names = Names::default();
        let all: Vec<_> =
            (0..10 * FEW).map(|number| name(&mut names, &number.to_string())).collect();
        assert!(all.iter().all(|one| ArcStr::ptr_eq(one, &name(&mut names, one))));
    }
}
