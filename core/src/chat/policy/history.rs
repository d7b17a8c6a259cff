//! Earlier turns that go (SPEC 5.4).
//!
//! Owns: where the cut is, and which images are carried over it. Must never do: cut within a turn, so
//! that a result of a tool would stand without its call; or take the current turn.

use super::plan::{Fate, Plan};
use super::view::{Content, Message, Role};

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// System and developer messages, wherever they stand.
    pub system: bool,
    /// So many turns before the current one.
    pub turns: usize,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cut {
    pub(super) turns: usize,
    pub(super) images: usize,
}

/// Drops earlier turns. `carry`: images of the newest of them come to the current turn, where that
/// and what stays have none.
pub(super) fn truncate(plan: &mut Plan, keep: Keep, carry: bool) -> Cut {
    let turns = plan.messages.turns();
    let Some(earlier) = turns.len().checked_sub(1) else { return Cut::default() };
    let dropped = earlier.saturating_sub(keep.turns);
    if dropped == 0 {
        return Cut::default();
    }
    for (at, message) in plan.messages.all.iter().enumerate().take(turns[dropped]) {
        let stays = keep.system && matches!(message.role, Role::System { .. });
        if !stays {
            plan.fates[at] = Fate::Goes;
        }
    }
    let images = if carry { carry_over(plan, &turns[..=dropped]) } else { 0 };
    Cut { turns: dropped, images }
}

/// `begins`: where the dropped turns begin, and the first one that stays.
fn carry_over(plan: &mut Plan, begins: &[usize]) -> usize {
    let all = &plan.messages.all;
    let takes = plan.messages.current().is_some_and(|at| all[at].content != Content::None);
    if !takes || plan.kept().any(|(_, message)| message.has_image()) {
        return 0;
    }
    let turn = begins.windows(2).rev().map(|pair| &all[pair[0]..pair[1]]);
    let newest = { turn }.find(|turn| turn.iter().any(Message::has_image));
    let images = newest.into_iter().flatten().flat_map(Message::images);
    plan.carried = images.map(|part| part.place.clone()).collect();
    plan.carried.len()
}
