//! Changes of a body: places and what stands there instead.
//!
//! Owns: putting the pieces together. Must never do: copy what is not changed.

use std::ops::Range;

use bytes::Bytes;

/// One place and what comes there; an empty place is an insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of the body.
    pub place: Range<usize>,
    /// What stands there instead.
    pub pieces: Vec<Bytes>,
}

impl Edit {
    /// A text instead of a place.
    pub fn text(place: Range<usize>, text: impl Into<String>) -> Self {
        Edit { place, pieces: vec![Bytes::from(text.into())] }
    }

    /// A place goes.
    pub fn remove(place: Range<usize>) -> Self {
        Edit { place, pieces: Vec::new() }
    }
}

/// The body with its changes, which do not overlap, in pieces. Insertions at one place keep their
/// order.
pub fn splice(body: &Bytes, mut edits: Vec<Edit>) -> Vec<Bytes> {
    // What is put in at a place stands before what replaces it.
    edits.sort_by_key(|edit| (edit.place.start, edit.place.end > edit.place.start));
    let mut pieces = Vec::with_capacity(edits.len() * 2 + 1);
    let mut at = 0;
    for Edit { place, pieces: new } in edits {
        debug_assert!(place.start >= at, "edits overlap at {}", place.start);
        if place.start > at {
            pieces.push(body.slice(at..place.start));
        }
        pieces.extend(new);
        at = place.end.max(at);
    }
    if at < body.len() {
        pieces.push(body.slice(at..));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(edits: Vec<Edit>) -> Vec<u8> {
        splice(&Bytes::from_static(b"0123456789"), edits).concat()
    }

    #[test]
    fn edits_take_their_places_and_the_rest_stays() {
        assert_eq!(joined(vec![]), b"0123456789");
        let edits = vec![Edit::text(4..6, "XYZ"), Edit::text(0..0, "<"), Edit::remove(0..2)];
        assert_eq!(joined(edits), b"<23XYZ6789");
        assert_eq!(joined(vec![Edit::text(10..10, "a"), Edit::text(10..10, "b")]), b"0123456789ab");
    }

    #[test]
    fn what_stays_is_not_copied() {
        let body = Bytes::from_static(b"0123456789");
        let pieces = splice(&body, vec![Edit::remove(3..4)]);
        assert_eq!(pieces[0].as_ptr(), body.as_ptr());
        assert_eq!(pieces[1].as_ptr(), body[4..].as_ptr());
    }
}
