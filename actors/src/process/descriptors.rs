//! How many descriptors this process may have.
//!
//! Owns: raising the soft limit. Must never do: ask for more than the hard one, which is the operator's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to the hard one, and gives it; `None`: there is none. Most machines begin with 1,024, which
/// a few hundred clients use up: each has a connection, and its request one to a backend.
pub fn raise() -> std::io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_soft_limit_is_the_hard_one() {
        let raised = raise().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (raised, raised));
    }
}
