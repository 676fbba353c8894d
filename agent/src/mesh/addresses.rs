//! The addresses of a workload: nearly always one, which takes no room of its own.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

/// Canonical addresses, in the control plane's order.
#[derive(Clone, PartialEq, Eq)]
pub struct Addresses(Few);

#[derive(Clone, PartialEq, Eq)]
enum Few {
    One(IpAddr),
    Several(Box<[IpAddr]>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self(Few::Several(Box::default()))
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Few::One(address) => std::slice::from_ref(address),
            Few::Several(all) => all,
        }
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(all: Vec<IpAddr>) -> Self {
        Self(match &all[..] {
            [one] => Few::One(*one),
            _ => Few::Several(all.into()),
        })
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (None, _) => Self::default(),
            (Some(one), None) => Self(Few::One(one)),
            (Some(one), Some(other)) => {
                Self(Few::Several([one, other].into_iter().chain(all).collect()))
            }
        }
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_list_that_they_are_made_of() {
        for length in 0..4 {
            let all: Vec<IpAddr> = (0..length).map(|last| [10, 0, 0, last].into()).collect();
            let collected: Addresses = all.iter().copied().collect();
            assert_eq!(*collected, *all);
            assert_eq!(Addresses::from(all), collected);
        }
    }
}
