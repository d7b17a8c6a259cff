//! The fewest changes of hands that any policy could do with, also one that knows the future.
//!
//! Owns: a bound from below. Must never do: claim that it can be reached: here answers and loads take
//! no time, and of three models the one that matters least is left out.
//!
//! Of two models, each change is put off until somebody who waits for the other one must be
//! served; then all who wait for it are. No policy that serves everybody in time changes less often:
//! whatever it has done by then, it must have been at the other model in that window, and leaving
//! later only serves more people before it leaves.

use chat_proxy_core::gpu::Class;

use crate::traces::{Request, Trace};

/// The fewest for a trace, where nobody waits for longer than the limit of its class.
pub fn fewest(trace: &Trace, limits: [u64; 2]) -> usize {
    let models = trace.loads.len();
    let pairs = (0..models).flat_map(|a| (a + 1..models).map(move |b| (a, b)));
    pairs.map(|pair| of_pair(trace, pair, limits)).max().unwrap_or(0)
}

/// Leaving out the others takes no change away from these two.
fn of_pair(trace: &Trace, (one, other): (usize, usize), limits: [u64; 2]) -> usize {
    let of = |model: usize| -> Vec<(u64, u64)> {
        let requests = trace.requests.iter().filter(|request| request.model == model);
        requests.map(|request| (request.at, request.at + limit(request, limits))).collect()
    };
    let waits = [of(one), of(other)];
    [0, 1].map(|first| changes(&waits, first)).into_iter().min().unwrap_or(0)
}

fn limit(request: &Request, [interactive, background]: [u64; 2]) -> u64 {
    match request.class {
        Class::Interactive => interactive,
        Class::Background => background,
    }
}

/// `waits`: when each comes, and until when it must be served. `at`: whose model is there at first.
fn changes(waits: &[Vec<(u64, u64)>; 2], mut at: usize) -> usize {
    let mut left = [0, 0];
    let mut changes = 0;
    loop {
        let other = 1 - at;
        // Who came while its model was there has been served.
        let pending = waits[other].iter().filter(|(came, _)| *came >= left[other]);
        let Some(due) = pending.map(|(_, until)| *until).min() else { return changes };
        // Who comes at this very moment is served by the one that leaves.
        left[at] = due + 1;
        left[other] = u64::MAX;
        at = other;
        changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(requests: &[(u64, usize, Class)]) -> Trace {
        let request = |(at, model, class): &(u64, usize, Class)| Request {
            at: *at,
            model: *model,
            class: *class,
            service: 1,
        };
        let requests = requests.iter().map(request).collect();
        Trace { name: "t", about: "", loads: vec![0; 3], stop: 0, spare: true, requests }
    }

    #[test]
    fn a_change_serves_all_who_come_before_the_next() {
        use Class::{Background, Interactive};
        let all =
            |class| [(0, 0, class), (1, 1, class), (5, 0, class), (30, 0, class), (60, 1, class)];
        // Model 1 first; at 10 to model 0, which serves 0, 5 and 30; at 70 to model 1.
        assert_eq!(fewest(&trace(&all(Interactive)), [10, 100]), 2);
        // Model 0 first; at 101 to model 1: whoever wants model 0 came before.
        assert_eq!(fewest(&trace(&all(Background)), [10, 100]), 1);
        assert_eq!(fewest(&trace(&[(0, 0, Interactive), (9, 0, Interactive)]), [10, 100]), 0);
    }

    #[test]
    fn without_patience_each_other_request_is_a_change() {
        let alternating: Vec<_> =
            (0..10_u64).map(|n| (n * 10, usize::from(n % 2 == 1), Class::Interactive)).collect();
        assert_eq!(fewest(&trace(&alternating), [0, 0]), 9);
    }

    #[test]
    fn a_third_model_that_nobody_wants_much_changes_nothing() {
        use Class::{Background, Interactive};
        let wants = |third| {
            [
                (0, 0, Interactive),
                (1, 2, third),
                (2, 1, Interactive),
                (40, 0, Interactive),
                (70, 1, Interactive),
            ]
        };
        assert_eq!(fewest(&trace(&wants(Background)), [10, 1000]), 2);
        assert_eq!(fewest(&trace(&wants(Interactive)), [10, 1000]), 2);
    }
}
