//! Matching one of several words byte by byte.
//!
//! Owns: telling after each byte whether some word can still come out. Must never do: look back
//! at bytes it has seen; each byte costs one binary search.

/// How far a match over a sorted list of words has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix {
    /// The words that begin with what was seen lie here.
    from: usize,
    to: usize,
    len: usize,
}

impl Prefix {
    /// Nothing seen yet: every word can come. `words` is sorted, here and in every later call.
    pub(super) fn new<S: AsRef<str>>(words: &[S]) -> Self {
        Prefix { from: 0, to: words.len(), len: 0 }
    }

    /// Takes a byte; false if no word goes on with it.
    pub(super) fn step<S: AsRef<str>>(&mut self, words: &[S], byte: u8) -> bool {
        let alive = &words[self.from..self.to];
        let at = |word: &S| word.as_ref().as_bytes().get(self.len).copied();
        let low = alive.partition_point(|word| at(word) < Some(byte));
        let high = alive.partition_point(|word| at(word) <= Some(byte));
        (self.from, self.to) = (self.from + low, self.from + high);
        self.len += 1;
        self.from < self.to
    }

    /// The word that was seen whole, by its place in the list.
    pub(super) fn whole<S: AsRef<str>>(&self, words: &[S]) -> Option<usize> {
        let first = words.get(self.from).filter(|_| self.from < self.to)?;
        (first.as_ref().len() == self.len).then_some(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(words: &[String], seen: &str) -> (bool, Option<usize>) {
        let mut prefix = Prefix::new(words);
        let alive = seen.bytes().all(|byte| prefix.step(words, byte));
        (alive, prefix.whole(words).filter(|_| alive))
    }

    proptest! {
        #[test]
        fn it_agrees_with_comparing_every_word(
            words in prop::collection::btree_set("[abé]{0,4}", 0..8),
            seen in "[abé]{1,5}",
        ) {
            let words: Vec<String> = words.into_iter().collect();
            let (alive, whole) = run(&words, &seen);
            prop_assert_eq!(alive, words.iter().any(|word| word.starts_with(&seen)));
            prop_assert_eq!(whole, words.iter().position(|word| *word == seen));
        }
    }
}
