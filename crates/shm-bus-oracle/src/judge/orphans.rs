//! What killed processes had begun to publish and nobody has seen: at most one unexplained stamp each.

use std::collections::{BTreeMap, BTreeSet};

/// Publishes of dead processes, and the stamps that they explain.
#[derive(Default)]
pub struct Orphans {
    /// Publishes, and the stamp that each is taken for.
    taken: BTreeMap<u64, Option<u64>>,
    /// Unexplained stamps, and the publishes that could be there.
    stamps: BTreeMap<u64, Vec<u64>>,
}

impl Orphans {
    /// The publish was interrupted by its process's death, and nobody has seen it.
    pub fn add(&mut self, publish: u64) {
        self.taken.insert(publish, None);
    }

    /// Somebody has seen it after all, at a stamp of its own. `false` if that leaves another without an explanation.
    pub fn found(&mut self, publish: u64) -> bool {
        let taken = self.taken.remove(&publish).flatten();
        taken.is_none_or(|stamp| self.augment(stamp, &mut BTreeSet::new()))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.taken.keys().copied()
    }

    /// Takes one of `candidates` for a stamp that nobody knows, moving others to where they can be as well if that
    /// helps (an augmenting path). `false` if it cannot be explained.
    pub fn explain(&mut self, stamp: u64, candidates: Vec<u64>) -> bool {
        self.stamps.insert(stamp, candidates);
        self.augment(stamp, &mut BTreeSet::new())
    }

    fn augment(&mut self, stamp: u64, tried: &mut BTreeSet<u64>) -> bool {
        for publish in self.stamps.get(&stamp).cloned().unwrap_or_default() {
            if !tried.insert(publish) {
                continue;
            }
            let Some(former) = self.taken.get(&publish).copied() else { continue };
            if former.is_none_or(|former| self.augment(former, tried)) {
                self.taken.insert(publish, Some(stamp));
                return true;
            }
        }
        false
    }

    /// Nothing of that publish's sender follows: it was in the order or not, and is forgotten. `true` if it was.
    pub fn forget(&mut self, publish: u64) -> bool {
        let taken = self.taken.remove(&publish).flatten();
        if let Some(stamp) = taken {
            self.stamps.remove(&stamp);
        }
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_explains_one_stamp_and_makes_way_for_others() {
        let mut orphans = Orphans::default();
        (1..=2).for_each(|publish| orphans.add(publish));
        assert!(orphans.explain(10, vec![1, 2]));
        assert!(orphans.explain(11, vec![1]), "the first can be explained by the second as well");
        assert!(!orphans.explain(12, vec![1, 2]), "two explain two stamps");
        assert!(orphans.forget(1) && orphans.forget(2));
    }

    #[test]
    fn one_that_was_seen_explains_nothing() {
        let mut orphans = Orphans::default();
        orphans.add(1);
        assert!(orphans.found(1));
        assert!(!orphans.explain(10, vec![1]));
        orphans.add(2);
        assert!(orphans.explain(11, vec![2]));
        assert!(!orphans.found(2), "nothing else explains the stamp");
    }
}
