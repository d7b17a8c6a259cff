//! Playing histories: one, very many, and the one that fails, ever shorter.
//!
//! Owns: what is caught of a panic, and the threads. Must never do: draw a history, or judge one;
//! the world's own checks do.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use super::super::counts::Counts;
use super::super::history::{Step, ends_well, live, nobody_waits_too_long};
use super::super::world::World;
use super::draw::History;

/// A panic, where and in its own words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    at: String,
    pub(super) told: String,
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Runs it; a panic is kept instead of told, for one history may be played a hundred times.
pub(super) fn caught(run: impl FnOnce()) -> Result<(), Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !CATCHING.get() {
                return usual(info);
            }
            let at = info.location().map(ToString::to_string).unwrap_or_default();
            CAUGHT.set(Some(Failure { at, told: info.to_string() }));
        }));
    });
    CATCHING.set(true);
    let ended = catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(false);
    ended.map_err(|_| CAUGHT.take().unwrap())
}

/// To the end, with all that is checked on the way and there.
pub(super) fn play(history: &History, world: &mut World) -> Result<(), Failure> {
    caught(|| {
        live(world, &history.steps);
        if history.calm {
            nobody_waits_too_long(world, &history.steps);
        } else {
            ends_well(world);
        }
    })
}

fn fails(history: &History, steps: &[Step]) -> Option<Failure> {
    let steps = steps.to_vec();
    let history = History { steps, ..history.clone() };
    play(&history, &mut World::new(history.setting.clone())).err()
}

/// The shortest beginning that still fails, by halves, without the steps that it does not need.
pub(super) fn shortest(steps: &[Step], fails: impl Fn(&[Step]) -> bool) -> (usize, Vec<Step>) {
    let (mut passes, mut length) = (0, steps.len());
    while passes < length {
        let middle = passes + (length - passes) / 2;
        if fails(&steps[..middle]) { length = middle } else { passes = middle + 1 }
    }
    let mut left = steps[..length].to_vec();
    let mut before = usize::MAX;
    while left.len() < before {
        before = left.len();
        for at in (0..left.len()).rev() {
            let mut fewer = left.clone();
            fewer.remove(at);
            if fails(&fewer) {
                left = fewer;
            }
        }
    }
    (length, left)
}

/// What somebody needs who wants to see it fail.
pub(super) fn describe(seed: u64, failure: &Failure) -> String {
    let history = History::of(seed);
    let same = |steps: &[Step]| fails(&history, steps).is_some_and(|f| f.at == failure.at);
    let (length, steps) = shortest(&history.steps, same);
    let shorter = History { steps, ..history.clone() };
    let mut world = World::that_tells(shorter.setting.clone());
    let told = play(&shorter, &mut world).err().map(|failure| failure.told).unwrap_or_default();
    let log = world.log.unwrap_or_default();
    let last = &log[log.len().saturating_sub(20)..];
    format!(
        "seed {seed} fails: {}\n\
         the first {length} of its {} steps do, and these {} of them:\n{shorter:#?}\n{told}\n\
         the last events of these:\n{}\n\
         again: IMAGEWORKS_SEED={seed} IMAGEWORKS_HISTORIES=1 cargo test --locked -p chat-proxy-core \
         a_million_seeded -- --ignored --nocapture",
        failure.told,
        history.steps.len(),
        shorter.steps.len(),
        last.join("\n"),
    )
}

/// What many histories came to.
#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) histories: u64,
    pub(super) calm: u64,
    pub(super) counts: Counts,
    /// The first seed of those that failed.
    pub(super) failed: Option<(u64, Failure)>,
}

impl Played {
    fn add(&mut self, other: Played) {
        self.histories += other.histories;
        self.calm += other.calm;
        self.counts.add(&other.counts);
        let both = self.failed.take().into_iter().chain(other.failed);
        self.failed = both.min_by_key(|(seed, _)| *seed);
    }
}

/// So many, from this seed on, on all cores; `tell` is told from time to time how many are through.
pub(super) fn play_all(first: u64, histories: u64, tell: &(impl Fn(u64) + Sync)) -> Played {
    let next = AtomicU64::new(0);
    let all = Mutex::new(Played::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let played = play_some(first, histories, &next, tell);
                all.lock().unwrap().add(played);
            });
        }
    });
    all.into_inner().unwrap()
}

/// One thread's: whichever is next, until there are no more or one has failed.
fn play_some(first: u64, histories: u64, next: &AtomicU64, tell: &(impl Fn(u64) + Sync)) -> Played {
    let mut played = Played::default();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= histories {
            return played;
        }
        if at > 0 && at.is_multiple_of(100_000) {
            tell(at);
        }
        let seed = first.wrapping_add(at);
        let history = History::of(seed);
        let mut world = World::new(history.setting.clone());
        let ended = play(&history, &mut world);
        played.histories += 1;
        played.calm += u64::from(history.calm);
        played.counts.add(&world.counts);
        if let Err(failure) = ended {
            // The others end what they have begun.
            next.store(histories, Ordering::Relaxed);
            played.failed = Some((seed, failure));
            return played;
        }
    }
}
