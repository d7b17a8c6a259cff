//! Who asks for a turn, as far as that decides when it comes.
//!
//! Owns: the shapes. Must never do: know how a request says so.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde::Serialize;

/// What a request is (SPEC 6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It can wait: it takes the GPU from nobody who works with it, before its own bound.
    Background,
}

impl Class {
    /// The word for it, in headers, lists and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Interactive => "interactive",
            Class::Background => "background",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Class> {
        [Class::Interactive, Class::Background]
            .into_iter()
            .find(|class| class.as_str().eq_ignore_ascii_case(word.trim()))
    }
}

/// Whose request it is: a key, or an address where none is needed. Within a class and a model they
/// take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u64);

impl ClientId {
    /// The client of that name: a key's, or an address. Two names that fall together take one turn
    /// between them, which does no harm.
    pub fn named(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        ClientId(hasher.finish())
    }
}

/// What lets its holder pass a lease (SPEC 6.5).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LeaseToken(Arc<str>);

impl LeaseToken {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is the same, in a time that does not depend on where they differ.
    pub fn is(&self, other: &LeaseToken) -> bool {
        let (one, two) = (self.0.as_bytes(), other.0.as_bytes());
        let differs = one.iter().zip(two).fold(0, |all, (a, b)| all | (a ^ b));
        one.len() == two.len() && differs == 0
    }
}

impl From<&str> for LeaseToken {
    fn from(text: &str) -> Self {
        LeaseToken(text.into())
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(***)")
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asker {
    /// Of which class.
    pub class: Class,
    /// For whom.
    pub client: ClientId,
    /// It is served by this model only while it is there or comes anyway: it causes no change of
    /// hands. Who asked for `resident` was sent here because of that.
    pub only_there: bool,
    /// What it shows to pass a lease.
    pub pass: Option<LeaseToken>,
}
