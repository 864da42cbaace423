//! Groups of hosts, as sets of their numbers in the index: what rules allow, and what they prefer.

use super::index::HostId;

/// A set of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSet {
    words: Vec<u64>,
}

impl HostSet {
    /// Adds a host.
    pub fn insert(&mut self, host: HostId) {
        let at = (host.0 / 64) as usize;
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (host.0 % 64);
    }

    /// Takes a host out.
    pub fn remove(&mut self, host: HostId) {
        if let Some(word) = self.words.get_mut((host.0 / 64) as usize) {
            *word &= !(1 << (host.0 % 64));
        }
    }

    /// Adds those of `all` that are not in `present`.
    pub(super) fn add_missing(&mut self, all: &Self, present: &Self) {
        for (at, word) in all.words.iter().enumerate() {
            let missing = word & !present.words.get(at).copied().unwrap_or_default();
            if missing != 0 {
                self.words.resize(self.words.len().max(at + 1), 0);
                self.words[at] |= missing;
            }
        }
    }

    /// Whether a host is in it.
    pub fn contains(&self, host: HostId) -> bool {
        self.words.get((host.0 / 64) as usize).is_some_and(|word| word >> (host.0 % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The hosts, by number.
    pub fn iter(&self) -> impl Iterator<Item = HostId> + '_ {
        (0u32..).zip(&self.words).flat_map(|(at, word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 == 1);
            bits.map(move |bit| HostId(at * 64 + bit))
        })
    }

    /// Those that are in the other set, too; and those that are not.
    pub fn split(&self, other: &Self) -> (Self, Self) {
        let at = |at: usize| other.words.get(at).copied().unwrap_or_default();
        let within = self.words.iter().enumerate().map(|(i, word)| word & at(i)).collect();
        let without = self.words.iter().enumerate().map(|(i, word)| word & !at(i)).collect();
        (Self { words: within }, Self { words: without })
    }
}

impl FromIterator<HostId> for HostSet {
    fn from_iter<I: IntoIterator<Item = HostId>>(hosts: I) -> Self {
        let mut set = Self::default();
        for host in hosts {
            set.insert(host);
        }
        set
    }
}
