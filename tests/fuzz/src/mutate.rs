//! Inputs out of inputs, for machines without a coverage-guided fuzzer.
//!
//! Owns: how one is changed. Must never do: draw from anything but its seed.

/// Longer ones are cut.
const MAX_LEN: usize = 1 << 14;

/// Makes inputs: the same from the same seed.
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    /// `words`: put in whole, such as those of [`dictionary`].
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>, words: Vec<Vec<u8>>) -> Self {
        Mutator { state: seed ^ 0x9e37_79b9_7f4a_7c15, corpus, words }
    }

    /// The next input.
    pub fn make(&mut self) -> Vec<u8> {
        let mut input = self.pick_seed();
        for _ in 0..=self.below(6) {
            match self.below(8) {
                0 => self.flip(&mut input),
                1 => self.overwrite(&mut input),
                2 => self.remove(&mut input),
                3 => self.double(&mut input),
                4 => self.splice(&mut input),
                5 => self.cut(&mut input),
                _ => self.put_word(&mut input),
            }
            input.truncate(MAX_LEN);
        }
        input
    }

    /// A number below `bound`, 0 if that is 0 (`SplitMix64`).
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or(0);
        high.checked_rem(bound).unwrap_or(0)
    }

    fn pick_seed(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        self.corpus.get(at).cloned().unwrap_or_default()
    }

    /// A range of at most so many bytes.
    fn range(&mut self, len: usize, most: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let size = self.below(most.min(len - start) + 1);
        start..start + size
    }

    fn flip(&mut self, input: &mut [u8]) {
        let (at, bit) = (self.below(input.len()), self.below(8));
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    fn overwrite(&mut self, input: &mut [u8]) {
        const BYTES: &[u8] = b"\0\n\r \t\"\\{}[]:,<>`'-.0129eEu/#=\x7f\x80\xc3\xef\xff";
        let (at, byte) = (self.below(input.len()), self.below(BYTES.len()));
        if let Some(place) = input.get_mut(at) {
            *place = BYTES[byte];
        }
    }

    fn remove(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len(), 64);
        input.drain(range);
    }

    fn double(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len(), 64);
        let part = input[range.clone()].repeat(1 + self.below(3));
        input.splice(range.end..range.end, part);
    }

    fn splice(&mut self, input: &mut Vec<u8>) {
        let other = self.pick_seed();
        let (from, to) = (self.range(other.len(), 256), self.range(input.len(), 64));
        input.splice(to, other[from].to_vec());
    }

    fn cut(&mut self, input: &mut Vec<u8>) {
        let len = self.below(input.len() + 1);
        input.truncate(len);
    }

    fn put_word(&mut self, input: &mut Vec<u8>) {
        let (word, at) = (self.below(self.words.len()), self.range(input.len(), 8));
        if let Some(word) = self.words.get(word) {
            input.splice(at, word.iter().copied());
        }
    }
}

/// The words of a dictionary as libFuzzer reads it: one in quotes a line, with `\\`, `\"` and `\xAB`.
pub fn dictionary(text: &str) -> Vec<Vec<u8>> {
    let quoted = |line: &str| {
        let inner = line.trim().strip_prefix('"')?.strip_suffix('"')?;
        let mut word = Vec::new();
        let mut rest = inner.as_bytes();
        while let Some((byte, behind)) = rest.split_first() {
            let hex =
                |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
            let (byte, behind) = match (byte, behind) {
                (b'\\', [b'x', a, b, behind @ ..]) => (hex(&[*a, *b])?, behind),
                (b'\\', [escaped, behind @ ..]) => (*escaped, behind),
                (byte, behind) => (*byte, behind),
            };
            word.push(byte);
            rest = behind;
        }
        Some(word)
    };
    text.lines().filter_map(quoted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let words = dictionary("# a comment\n\"\\\"a\\\\\\x0a\"\n\nnone\n");
        assert_eq!(words, [b"\"a\\\n".to_vec()]);
        let inputs = |seed| -> Vec<Vec<u8>> {
            let mut mutator = Mutator::new(seed, vec![b"abc".to_vec(), Vec::new()], words.clone());
            (0..500).map(|_| mutator.make()).collect()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        let has_word = |input: &Vec<u8>| input.windows(4).any(|part| part == words[0]);
        assert!(inputs(3).iter().any(has_word));
    }
}
