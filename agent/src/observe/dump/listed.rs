//! Lists of the dump that are as long as the mesh is large: each entry is made when it is written, and then forgotten.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::mesh::Mesh;

/// The entries of a list, one after the other.
pub type Entries<'a, T> = Box<dyn Iterator<Item = T> + 'a>;

/// What a snapshot of the mesh has of one kind.
#[derive(Clone)]
pub struct Listed<T> {
    mesh: Arc<Mesh>,
    of: fn(&Mesh) -> Entries<'_, T>,
}

impl<T> Listed<T> {
    /// What `of` finds in a snapshot.
    pub fn new(mesh: Arc<Mesh>, of: fn(&Mesh) -> Entries<'_, T>) -> Self {
        Self { mesh, of }
    }
}

impl<T: 'static> Default for Listed<T> {
    fn default() -> Self {
        Self { mesh: Arc::default(), of: |_| Box::new(std::iter::empty()) }
    }
}

impl<T: Serialize> Serialize for Listed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.of)(&self.mesh))
    }
}

impl<T> fmt::Debug for Listed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").finish_non_exhaustive()
    }
}
