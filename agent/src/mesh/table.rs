//! A hash table of which a copy costs nothing: copies share all that is the same in both.
//!
//! What is looked for is part of what is kept, so that a table of workloads holds pointers alone: who asks brings the hash,
//! and tells what is meant. Equal hashes keep the order in which they came. Sixteen ways lead on from each branch by four
//! bits of the hash; at their ends are packed lists, which a change copies if somebody else has them too.

use std::fmt;
use std::sync::Arc;

/// Bits of the hash that each level goes by, and how many that makes.
const BITS: u32 = 4;
const WAYS: usize = 1 << BITS;
/// A longer list is parted, as long as there are bits to part it by.
const LONGEST: usize = 32;

/// The table.
#[derive(Clone)]
pub struct Table<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Clone)]
enum Node<T> {
    Empty,
    /// Each with its hash, in the order in which they came.
    List(Arc<Vec<(u32, T)>>),
    Branch(Arc<[Self; WAYS]>),
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { root: Node::Empty, len: 0 }
    }
}

impl<T: Clone> Table<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first with this hash that is meant.
    pub fn get(&self, hash: u32, is: impl Fn(&T) -> bool) -> Option<&T> {
        self.with(hash).find(|one| is(one))
    }

    /// All with this hash, in the order in which they came.
    pub fn with(&self, hash: u32) -> impl DoubleEndedIterator<Item = &T> {
        let mut node = &self.root;
        let mut rest = hash;
        while let Node::Branch(ways) = node {
            node = &ways[way(rest)];
            rest >>= BITS;
        }
        let list = if let Node::List(list) = node { &list[..] } else { &[] };
        list.iter().filter(move |(own, _)| *own == hash).map(|(_, one)| one)
    }

    /// Every one, in no order.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter {
            open: vec![std::slice::from_ref(&self.root).iter()],
            list: [].iter(),
            left: self.len,
        }
    }

    /// Puts one in the place of the first with this hash that is meant, else behind all; gives the earlier.
    pub fn put(&mut self, hash: u32, is: impl Fn(&T) -> bool, one: T) -> Option<T> {
        let list = self.root.list_mut(hash);
        if let Some((_, place)) = list.iter_mut().find(|(own, place)| *own == hash && is(place)) {
            return Some(std::mem::replace(place, one));
        }
        list.push((hash, one));
        self.len += 1;
        None
    }

    /// Changes the first with this hash that is meant, else what `new` makes, which is kept.
    pub fn entry(&mut self, hash: u32, is: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
        let list = self.root.list_mut(hash);
        let found = list.iter().position(|(own, place)| *own == hash && is(place));
        let at = found.unwrap_or_else(|| {
            list.push((hash, new()));
            self.len += 1;
            list.len() - 1
        });
        &mut list[at].1
    }

    /// Takes the first with this hash that is meant.
    pub fn remove(&mut self, hash: u32, is: impl Fn(&T) -> bool) -> Option<T> {
        self.get(hash, &is)?;
        let taken = self.root.remove(hash, hash, &is);
        self.len -= usize::from(taken.is_some());
        taken
    }
}

impl<T: Clone> Node<T> {
    /// The list where this hash belongs, with room for one more.
    fn list_mut(&mut self, hash: u32) -> &mut Vec<(u32, T)> {
        let mut node = self;
        let mut depth = 0;
        loop {
            node.part(depth);
            match node {
                Self::Branch(ways) => {
                    node = &mut Arc::make_mut(ways)[way(hash >> (BITS * depth))];
                    depth += 1;
                }
                Self::List(list) => return Arc::make_mut(list),
                Self::Empty => *node = Self::List(Arc::default()),
            }
        }
    }

    /// Makes a branch of a list that is full.
    fn part(&mut self, depth: u32) {
        let Self::List(list) = self else { return };
        if list.len() < LONGEST || BITS * depth >= u32::BITS {
            return;
        }
        let mut ways: [Vec<(u32, T)>; WAYS] = Default::default();
        for (hash, one) in std::mem::take(Arc::make_mut(list)) {
            ways[way(hash >> (BITS * depth))].push((hash, one));
        }
        let node = |list: Vec<_>| match list.is_empty() {
            true => Self::Empty,
            false => Self::List(Arc::new(list)),
        };
        *self = Self::Branch(Arc::new(ways.map(node)));
    }

    fn remove(&mut self, hash: u32, rest: u32, is: &impl Fn(&T) -> bool) -> Option<T> {
        match self {
            Self::Empty => None,
            Self::List(list) => {
                let found = list.iter().position(|(own, one)| *own == hash && is(one))?;
                let list = Arc::make_mut(list);
                let (_, taken) = list.remove(found);
                if list.is_empty() {
                    *self = Self::Empty;
                } else if list.capacity() >= 2 * list.len().max(WAYS) {
                    list.shrink_to_fit();
                }
                Some(taken)
            }
            Self::Branch(ways) => {
                let ways = Arc::make_mut(ways);
                let taken = ways[way(rest)].remove(hash, rest >> BITS, is);
                if ways.iter().all(|way| matches!(way, Self::Empty)) {
                    *self = Self::Empty;
                }
                taken
            }
        }
    }
}

/// Every one of a table.
pub struct Iter<'a, T> {
    open: Vec<std::slice::Iter<'a, Node<T>>>,
    list: std::slice::Iter<'a, (u32, T)>,
    left: usize,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some((_, one)) = self.list.next() {
                self.left -= 1;
                return Some(one);
            }
            match self.open.last_mut()?.next() {
                None => drop(self.open.pop()),
                Some(Node::Empty) => {}
                Some(Node::List(list)) => self.list = list.iter(),
                Some(Node::Branch(ways)) => self.open.push(ways.iter()),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

impl<T: Clone + fmt::Debug> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("left", &self.left).finish_non_exhaustive()
    }
}

/// The lowest bits.
fn way(bits: u32) -> usize {
    bits as usize % WAYS
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Put(u16, u32),
        Change(u16, u32),
        Remove(u16),
        Copy,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || 0_u16..600;
        prop_oneof![
            6 => (key(), any::<u32>()).prop_map(|(key, value)| Step::Put(key, value)),
            2 => (key(), any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
            3 => key().prop_map(Step::Remove),
            1 => Just(Step::Copy),
        ]
    }

    /// Some keys share all bits, some the lowest ones; most are scattered.
    fn hash(key: u16) -> u32 {
        match key {
            0..50 => 7,
            50..100 => u32::from(key) << 24,
            _ => u32::from(key).wrapping_mul(0x9e37_79b9),
        }
    }

    /// In the order in which the keys came.
    type Plain = Vec<(u16, u32)>;

    fn check(table: &Table<(u16, u32)>, plain: &Plain) -> Result<(), TestCaseError> {
        prop_assert_eq!(table.len(), plain.len());
        let mut all: Plain = table.iter().copied().collect();
        prop_assert_eq!(table.iter().len(), all.len());
        let mut sorted = plain.clone();
        all.sort_unstable();
        sorted.sort_unstable();
        prop_assert_eq!(all, sorted);
        for key in 0..600 {
            let found = table.get(hash(key), |(own, _)| *own == key);
            prop_assert_eq!(found, plain.iter().find(|(own, _)| *own == key));
        }
        let same: Plain = plain.iter().filter(|(key, _)| hash(*key) == 7).copied().collect();
        prop_assert!(table.with(7).eq(same.iter()));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_as_a_plain_list_and_copies_stay_as_they_were(steps in vec(step(), 0..1500)) {
            let (mut table, mut plain) = (Table::default(), Plain::new());
            let mut copies = Vec::new();
            for step in steps {
                let at = |key| plain.iter().position(|(own, _): &(u16, u32)| *own == key);
                match step {
                    Step::Put(key, value) => {
                        let earlier = table.put(hash(key), |one: &(u16, u32)| one.0 == key, (key, value));
                        let expected = at(key).map(|at| std::mem::replace(&mut plain[at], (key, value)));
                        if expected.is_none() {
                            plain.push((key, value));
                        }
                        prop_assert_eq!(earlier, expected);
                    }
                    Step::Change(key, value) => {
                        let one = table.entry(hash(key), |one| one.0 == key, || (key, 0));
                        one.1 ^= value;
                        match at(key) {
                            Some(at) => plain[at].1 ^= value,
                            None => plain.push((key, value)),
                        }
                    }
                    Step::Remove(key) => {
                        let taken = table.remove(hash(key), |one| one.0 == key);
                        prop_assert_eq!(taken, at(key).map(|at| plain.remove(at)));
                    }
                    Step::Copy => copies.push((table.clone(), plain.clone())),
                }
            }
            check(&table, &plain)?;
            copies.iter().try_for_each(|(table, plain)| check(table, plain))?;
            for (key, _) in &plain {
                table.remove(hash(*key), |one| one.0 == *key);
            }
            prop_assert!(matches!(table.root, Node::Empty) && table.is_empty());
        }
    }
}
