//! What ranks have published, as the node knows it that keeps it.

use std::collections::BTreeMap;

/// Published values by their names.
#[derive(Debug)]
pub(crate) struct Names<V> {
    values: BTreeMap<Vec<u8>, V>,
}

impl<V: Clone> Names<V> {
    /// Nothing is published.
    pub(crate) fn new() -> Names<V> {
        Names { values: BTreeMap::new() }
    }

    /// Takes these, all or none: a name that is taken stays as it is.
    pub(crate) fn publish(&mut self, values: Vec<(Vec<u8>, V)>) -> bool {
        let is_free = |(name, _): &(Vec<u8>, V)| !self.values.contains_key(name);
        let are_taken = self.values.len() + values.len() <= MAX_NAMES && values.iter().all(is_free);
        if are_taken {
            self.values.extend(values);
        }
        are_taken
    }

    /// Forgets these, and says whether all were there.
    pub(crate) fn unpublish(&mut self, names: &[Vec<u8>]) -> bool {
        let found = names.iter().filter_map(|name| self.values.remove(name)).count();
        found == names.len()
    }

    /// Forgets whatever is so.
    pub(crate) fn forget(&mut self, is_so: impl Fn(&V) -> bool) {
        self.values.retain(|_, value| !is_so(value));
    }

    /// Those of these that are published.
    pub(crate) fn find(&self, names: &[Vec<u8>]) -> Vec<V> {
        names.iter().filter_map(|name| self.values.get(name)).cloned().collect()
    }
}

/// Published names that are kept.
pub(crate) const MAX_NAMES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_are_published_together_or_not_at_all() {
        let mut names = Names::new();
        let key = |name: &str| name.as_bytes().to_vec();
        assert!(names.publish(vec![(key("a"), 1), (key("b"), 2)]));
        assert!(!names.publish(vec![(key("c"), 3), (key("a"), 4)]));
        assert_eq!(names.find(&[key("c"), key("b"), key("a")]), [2, 1]);
        assert!(!names.unpublish(&[key("c"), key("a")]), "one was not there");
        assert_eq!(names.find(&[key("a"), key("b")]), [2]);
        names.forget(|value| *value == 2);
        assert_eq!(names.find(&[key("b")]), [0; 0]);
    }
}
