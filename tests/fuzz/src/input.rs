//! What a file of a corpus says: a first line on how, then what the body is tried on.
//!
//! The first line is optional and short. Its first character holds the switches (`0` is none of them,
//! `1` the first, `2` the second, `3` both, and so on through the ASCII table), each further one is the
//! size of a piece (`0` is empty, `1` one byte, …); they are used in turn. So a seed is readable:
//! `07=` and a line end stand for no switch and pieces of 7 and 13 bytes.
//!
//! Owns: switches and cuts. Must never do: know a protocol.

use std::fmt::Debug;

/// No first line is longer; what has none is content altogether.
const MAX_HEAD: usize = 17;
/// Content up to this size is also tried byte by byte.
const MAX_SINGLE: usize = 1024;

/// See the module.
pub(crate) struct Input<'a> {
    switches: u8,
    sizes: Vec<usize>,
    /// What the body is tried on.
    pub(crate) content: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let end = bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n');
        let (head, content) = end.map_or((&[][..], bytes), |at| (&bytes[..at], &bytes[at + 1..]));
        let value = |byte: &u8| byte.wrapping_sub(b'0');
        let mut sizes: Vec<usize> = head.iter().skip(1).map(|b| usize::from(value(b))).collect();
        if sizes.iter().all(|size| *size == 0) {
            sizes.push(5);
        }
        Input { switches: head.first().map_or(0, value), sizes, content }
    }

    /// The same for another content.
    pub(crate) fn with<'b>(&self, content: &'b [u8]) -> Input<'b> {
        Input { switches: self.switches, sizes: self.sizes.clone(), content }
    }

    /// Whether a switch is on.
    pub(crate) fn on(&self, switch: u32) -> bool {
        self.switches >> switch & 1 == 1
    }

    /// The content as text; what is no UTF-8 becomes a sign for that.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.content).into_owned()
    }

    /// The content uncut, in pieces of the sizes, and byte by byte.
    pub(crate) fn cuttings(&self) -> Cuttings<&'a [u8]> {
        let content = self.content;
        let mut others = vec![self.pieces(content.len(), |at| at.min(content.len()))];
        if content.len() <= MAX_SINGLE {
            others.push((0..content.len()).map(|at| at..at + 1).collect());
        }
        Cuttings::of(&others, content, |range| &content[range])
    }

    /// The same of a text, cut between characters.
    pub(crate) fn texts<'t>(&self, text: &'t str) -> Cuttings<&'t str> {
        let whole = |at: usize| (at..text.len()).find(|at| text.is_char_boundary(*at));
        let mut others = vec![self.pieces(text.len(), |at| whole(at).unwrap_or(text.len()))];
        if text.len() <= MAX_SINGLE {
            others.push(text.char_indices().map(|(at, c)| at..at + c.len_utf8()).collect());
        }
        Cuttings::of(&others, text, |range| &text[range])
    }

    /// Pieces of the sizes; `place`: the next place from here on where a cut may be.
    fn pieces(&self, len: usize, place: impl Fn(usize) -> usize) -> Vec<std::ops::Range<usize>> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for size in self.sizes.iter().cycle() {
            if at == len {
                break;
            }
            let end = place(at + size);
            pieces.push(at..end);
            at = end;
        }
        pieces
    }
}

/// One content in several ways to cut it.
pub(crate) struct Cuttings<T> {
    whole: [T; 1],
    others: Vec<Vec<T>>,
}

impl<T> Cuttings<T> {
    fn of(
        others: &[Vec<std::ops::Range<usize>>],
        whole: T,
        piece: impl Fn(std::ops::Range<usize>) -> T,
    ) -> Self {
        let others = others.iter().map(|way| way.iter().cloned().map(&piece).collect());
        Cuttings { whole: [whole], others: others.collect() }
    }

    /// What comes of the whole; panics where the same work on pieces comes to something else.
    #[track_caller]
    pub(crate) fn same<R: PartialEq + Debug>(&self, mut work: impl FnMut(&[T]) -> R) -> R {
        let whole = work(&self.whole);
        for (way, pieces) in self.others.iter().enumerate() {
            assert_eq!(work(pieces), whole, "in pieces (way {way}), and whole");
        }
        whole
    }

    /// Every way to cut it.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[T]> {
        std::iter::once(&self.whole[..]).chain(self.others.iter().map(Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_says_how_and_the_rest_is_cut_so() {
        let input = Input::of(b"3120\nabcdef");
        assert!(input.on(0) && input.on(1) && !input.on(2));
        let cut: [&[u8]; 5] = [b"a", b"bc", b"", b"d", b"ef"];
        assert_eq!(input.cuttings().others[0], cut);
        assert_eq!(input.texts("aéb").others, [["a", "é", "", "b"].to_vec(), vec!["a", "é", "b"]]);
        let bare = Input::of(b"a long first line is content\n");
        assert_eq!(bare.content.len(), 29);
    }
}
