//! The supervisor of the simulated world, and the processes that it starts and ends.

use super::world::{Memory, Todo, World, bounds};
use super::*;
use crate::engine::lifecycle::{Effect as Deed, Event as Fact, Exit, Found, Lifecycle};
use crate::engine::state_file::Process;

impl World {
    pub(super) fn fact(&mut self, fact: Fact) {
        let mut facts = vec![fact];
        while let Some(fact) = facts.pop() {
            for deed in self.supervisor.on(fact, self.now) {
                facts.extend(self.deed(deed));
            }
        }
        let report = self.supervisor.report();
        if self.told.as_ref() != Some(&report) {
            self.send_report(false);
        }
    }

    pub(super) fn send_report(&mut self, fresh: bool) {
        let report = self.supervisor.report();
        self.told = Some(report.clone());
        self.later(self.setting.delay, Todo::Report(report, fresh));
    }

    pub(super) fn answer(&mut self, after: Duration, fact: Fact) {
        self.later(after, Todo::Fact(self.instance, fact));
    }

    pub(super) fn deed(&mut self, deed: Deed) -> Option<Fact> {
        match deed {
            Deed::CheckPort(of, _) => self.answer(ms(1), Fact::PortFree(of)),
            Deed::Spawn(of, _) => {
                assert_eq!(self.live, None, "start {of} beside another");
                if std::mem::take(&mut self.fail_next) {
                    return Some(Fact::NotSpawned(of, "no such file".into()));
                }
                self.live = Some(of);
                let pid = i32::try_from(of.0).unwrap();
                return Some(Fact::Spawned(of, Process { pid, start_time: of.0 }));
            }
            Deed::Watch(engine) => {
                let of = engine.generation;
                let known = self.memory.take().filter(|memory| memory.engine.generation == of);
                let was_ready = known.is_some_and(|memory| memory.was_ready);
                let at = MODELS.iter().position(|m| *m == engine.launch.model.as_str()).unwrap();
                self.memory = Some(Memory { engine, was_ready, stopping: false });
                let load = if was_ready { ms(5) } else { self.setting.loads[at] };
                if self.live == Some(of) {
                    self.answer(load, Fact::Healthy(of));
                } else {
                    self.answer(ms(1), exited(of));
                }
            }
            Deed::Settle(_) => self.memory.as_mut().unwrap().was_ready = true,
            Deed::Terminate(engine) => {
                self.memory.as_mut().unwrap().stopping = true;
                if !self.deaf {
                    self.later(self.setting.stop, Todo::Dies(engine.generation));
                }
            }
            Deed::Kill(engine) => self.later(ms(1), Todo::Dies(engine.generation)),
            Deed::Sweep(engine) => self.sweep(engine.generation),
            Deed::Forget(_) => self.memory = None,
        }
        None
    }

    pub(super) fn sweep(&mut self, of: Generation) {
        self.dies(of);
        let lives = self.live == Some(of);
        let fact = if lives { Fact::NotSwept(of, "pid 9".into()) } else { Fact::Swept(of) };
        self.answer(ms(20), fact);
    }

    pub(super) fn dies(&mut self, of: Generation) {
        if self.live != Some(of) || self.immortal {
            return;
        }
        self.live = None;
        self.answer(ms(2), exited(of));
        // Some see their connection close at once, others late.
        let late = self.jobs.len().is_multiple_of(2);
        self.end_jobs(of, if late { s(3) } else { ms(1) });
    }

    pub(super) fn crash(&mut self) {
        if let Some(of) = self.live {
            self.dies(of);
        }
    }

    /// It dies with its mailbox; the next one finds what is written down, or nothing at all.
    pub(super) fn new_supervisor(&mut self, knows: bool, wanted: bool) {
        self.todo.retain(|_, todo| !matches!(todo, Todo::Goal(_) | Todo::Pardon(_)));
        self.instance += 1;
        self.supervisor = Lifecycle::new(bounds());
        if !knows {
            // What nobody knows of any more is ended by the sweep of strangers.
            self.memory = None;
            let immortal = std::mem::take(&mut self.immortal);
            self.crash();
            self.immortal = immortal;
        }
        if let Some(Memory { engine, was_ready, stopping }) = self.memory.clone() {
            let alive = self.live == Some(engine.generation);
            let found = Found { engine, alive, wanted: wanted && !stopping, was_ready };
            for deed in self.supervisor.on(Fact::Found(found), self.now) {
                self.deed(deed);
            }
        }
        self.send_report(true);
    }
}

fn exited(of: Generation) -> Fact {
    Fact::Exited(of, Exit { status: "signal 9".into(), telling: None })
}
