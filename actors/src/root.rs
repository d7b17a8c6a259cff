//! `Root`: starts the actors and rebuilds the one that died.
//!
//! Owns: a factory for each, and the directory's book. Accepts: news of deaths from the
//! guards that the actors hold. Emits: the news that an actor keeps dying, upon which the daemon ends.
//! Stops with the daemon. Must never do: keep state of an actor; each rebuilds itself from what is
//! on disk or in the others. It has nothing that could fail, so nobody watches over it.
//!
//! actix's `Supervisor` does not survive a panic: the actor is dropped and its mailbox closes for
//! good. Here the actor's drop tells its guard, and the guard tells us.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use prometheus::IntCounterVec;
use tokio::sync::mpsc;

use crate::directory::{Book, Directory};
use crate::guard::{Died, Ending, Guard, Role};
use crate::port::Port;

/// An actor may die this often within [`WINDOW`].
const BUDGET: usize = 5;
/// See [`BUDGET`].
const WINDOW: Duration = Duration::from_secs(60);
/// Pause before the second rebuild within the window; it doubles. The first comes at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts an actor and enters its address into the book.
pub struct Factory(Box<dyn Fn(Guard, bool)>);

/// Are you there? Whoever answers takes messages.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Alive;

/// Stop for good, and leave everything as it is.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
struct Rest;

/// Ends the actors that have something which is a successor's from now on: engine, services, Ollama's models,
/// the queue and the lease, the settings. The figures and the log's writer stay to the end. `ending` has begun:
/// nobody is rebuilt.
pub fn rest(directory: &Directory, ending: &Ending) {
    ending.begin();
    let book = directory.book();
    macro_rules! rest {
        ($($place:ident),*) => {$(
            if let Some(addr) = &book.$place {
                addr.do_send(Rest);
            }
        )*};
    }
    rest!(config, arbiter, vllm, ollama, autostart);
}

/// A way to each actor without which nothing works: all that run but the log's writer, which may wait for its
/// disk for as long as it likes.
pub fn vital(directory: &Directory) -> Vec<(Role, Port<Alive>)> {
    macro_rules! ports {
        ($($role:ident => $place:ident),*) => {
            [$((directory.book().$place.is_some(), Role::$role, directory.port(|book| book.$place.clone()))),*]
        };
    }
    let all = ports![
        Registry => registry, Metrics => metrics, Arbiter => arbiter, Vllm => vllm, Ollama => ollama,
        Autostart => autostart, Config => config
    ];
    all.into_iter().filter(|(runs, ..)| *runs).map(|(_, role, port)| (role, port)).collect()
}

/// An actor that has a place in the book.
pub trait Listed: Actor {
    /// Writes its address in.
    fn enter(book: &mut Book, addr: Addr<Self>);
}

macro_rules! listed {
    ($($actor:ty => $place:ident),*) => {$(
        impl Listed for $actor {
            fn enter(book: &mut Book, addr: Addr<Self>) {
                book.$place = Some(addr);
            }
        }

        impl Handler<Alive> for $actor {
            type Result = ();

            fn handle(&mut self, _: Alive, _: &mut Self::Context) {}
        }

        impl Handler<Rest> for $actor {
            type Result = ();

            fn handle(&mut self, _: Rest, ctx: &mut Self::Context) {
                ctx.terminate();
            }
        }
    )*};
}

listed!(
    crate::registry::RegistryActor => registry,
    crate::metrics::MetricsActor => metrics,
    crate::logger::LoggerActor => logger,
    crate::gpu_arbiter::GpuArbiter => arbiter,
    crate::vllm_supervisor::VllmSupervisor => vllm,
    crate::ollama::OllamaActor => ollama,
    crate::autostart::AutostartActor => autostart,
    crate::config::ConfigActor => config
);

impl Factory {
    /// `start` is given the guard that the actor must hold, and whether it takes the place of one
    /// that died.
    pub fn new<A: Listed>(
        directory: &Directory,
        start: impl Fn(Guard, bool) -> Addr<A> + 'static,
    ) -> Factory {
        let directory = directory.clone();
        Factory(Box::new(move |guard, again| {
            let addr = start(guard, again);
            directory.write(move |book| A::enter(book, addr.clone()));
        }))
    }
}

/// See the module.
pub struct Root {
    factories: HashMap<Role, Factory>,
    deaths: HashMap<Role, Vec<Instant>>,
    restarts: IntCounterVec,
    ending: Ending,
    hopeless: mpsc::Sender<Role>,
}

impl Root {
    /// Starts all actors on this thread; `hopeless` hears of an actor that keeps dying.
    pub fn start_all(
        factories: HashMap<Role, Factory>,
        restarts: IntCounterVec,
        ending: Ending,
        hopeless: mpsc::Sender<Role>,
    ) {
        let root = Root { factories, deaths: HashMap::new(), restarts, ending, hopeless };
        // The guards that the actors hold keep it alive.
        Root::create(|ctx| {
            for role in Role::ALL {
                root.build(role, ctx, false);
            }
            root
        });
    }

    fn build(&self, role: Role, ctx: &Context<Self>, again: bool) {
        // The end may have begun while a rebuild paused.
        if self.ending.has_begun() {
            return;
        }
        if let Some(factory) = self.factories.get(&role) {
            let guard = Guard::new(role, ctx.address().recipient(), self.ending.clone());
            (factory.0)(guard, again);
            if again {
                self.restarts.with_label_values(&[role.as_str()]).inc();
            }
        }
    }

    /// The pause before the next rebuild; `None` when the budget is used up.
    fn pause(&mut self, role: Role) -> Option<Duration> {
        let deaths = self.deaths.entry(role).or_default();
        deaths.retain(|at| at.elapsed() < WINDOW);
        deaths.push(Instant::now());
        match deaths.len() {
            1 => Some(Duration::ZERO),
            n if n <= BUDGET => Some(PAUSE * 2u32.pow(u32::try_from(n - 2).unwrap_or(0))),
            _ => None,
        }
    }
}

impl Actor for Root {
    type Context = Context<Self>;
}

impl Handler<Died> for Root {
    type Result = ();

    fn handle(&mut self, Died(role): Died, ctx: &mut Self::Context) {
        if self.ending.has_begun() {
            return;
        }
        let actor = role.as_str();
        let Some(pause) = self.pause(role) else {
            tracing::error!(actor, "an actor keeps dying; the daemon ends");
            // A full channel holds such news already.
            let _ = self.hopeless.try_send(role);
            return;
        };
        tracing::error!(actor, ?pause, "an actor died by a defect and is rebuilt");
        if pause.is_zero() {
            return self.build(role, ctx, true);
        }
        ctx.run_later(pause, move |root, ctx| root.build(role, ctx, true));
    }
}

/// Defects to order, for tests of what the death of an actor costs; not in release builds.
#[cfg(debug_assertions)]
pub mod fault {
    /// The actor dies of it.
    #[derive(actix::Message, Clone, Copy)]
    #[rtype(result = "()")]
    pub struct Explode;

    /// The actor lives, and takes no message for a minute.
    #[derive(actix::Message, Clone, Copy)]
    #[rtype(result = "()")]
    pub struct Freeze;

    impl actix::Handler<Freeze> for crate::gpu_arbiter::GpuArbiter {
        type Result = ();

        fn handle(&mut self, _: Freeze, ctx: &mut Self::Context) {
            use actix::{AsyncContext, WrapFuture};
            let minute = std::time::Duration::from_secs(60);
            ctx.wait(tokio::time::sleep(minute).into_actor(self));
        }
    }

    macro_rules! explodes {
        ($($actor:ty),*) => {$(
            impl actix::Handler<Explode> for $actor {
                type Result = ();

                #[allow(clippy::panic)] // this is what it is for
                fn handle(&mut self, _: Explode, _: &mut Self::Context) {
                    panic!("ordered by a test");
                }
            }
        )*};
    }

    explodes!(
        crate::registry::RegistryActor,
        crate::metrics::MetricsActor,
        crate::logger::LoggerActor,
        crate::gpu_arbiter::GpuArbiter,
        crate::vllm_supervisor::VllmSupervisor,
        crate::ollama::OllamaActor,
        crate::autostart::AutostartActor,
        crate::config::ConfigActor,
        crate::forwarder::ForwarderActor
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::fault::Explode;
    use super::*;
    use crate::metrics::{Metrics, MetricsActor, Samples};
    use std::cell::RefCell;
    use std::rc::Rc;

    struct House {
        directory: Directory,
        metrics: Metrics,
        ending: Ending,
        hopeless: mpsc::Receiver<Role>,
        /// For each build: when, and whether it was a rebuild.
        builds: Rc<RefCell<Vec<(tokio::time::Instant, bool)>>>,
    }

    /// A house with one actor. The clock stands still, but for the pauses that Root makes.
    fn house() -> House {
        tokio::time::pause();
        let directory = Directory::default();
        let builds: Rc<RefCell<Vec<_>>> = Rc::default();
        let seen = builds.clone();
        let factory = Factory::new(&directory, move |guard, again| {
            seen.borrow_mut().push((tokio::time::Instant::now(), again));
            MetricsActor::new(Samples::default(), guard).start()
        });
        let (metrics, ending) = (Metrics::new().unwrap(), Ending::default());
        let (hopeless_in, hopeless) = mpsc::channel(1);
        let factories = HashMap::from([(Role::Metrics, factory)]);
        Root::start_all(factories, metrics.actor_restarts.clone(), ending.clone(), hopeless_in);
        House { directory, metrics, ending, hopeless, builds }
    }

    impl House {
        async fn kill(&self) {
            let addr = self.directory.book().metrics.clone().unwrap();
            assert!(addr.send(Explode).await.is_err());
        }

        /// Waits for so many builds; answers how long, by the clock that Root pauses on.
        async fn built(&self, builds: usize) -> Duration {
            let begin = tokio::time::Instant::now();
            while self.builds.borrow().len() < builds {
                assert!(begin.elapsed() < WINDOW, "not rebuilt");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.builds.borrow()[builds - 1].0 - begin
        }

        fn restarts(&self) -> u64 {
            self.metrics.actor_restarts.with_label_values(&["metrics"]).get()
        }
    }

    #[actix_rt::test]
    async fn an_actor_that_dies_is_rebuilt_at_once_and_the_book_has_its_successor() {
        let house = house();
        let first = house.directory.book().metrics.clone().unwrap();
        house.kill().await;
        house.built(2).await;
        let second = house.directory.book().metrics.clone().unwrap();
        assert!(second != first && second.connected() && !first.connected());
        let again: Vec<bool> = house.builds.borrow().iter().map(|(_, again)| *again).collect();
        assert_eq!((again, house.restarts()), (vec![false, true], 1));
    }

    #[actix_rt::test]
    async fn each_further_death_costs_a_longer_pause_and_too_many_are_told() {
        let mut house = house();
        let mut pauses = Vec::new();
        for builds in 2..=BUDGET + 1 {
            house.kill().await;
            pauses.push(house.built(builds).await);
        }
        let rounded = pauses.iter().map(|pause| pause.as_millis() / 10 * 10);
        assert_eq!(rounded.collect::<Vec<_>>(), [0, 100, 200, 400, 800]);
        assert!(house.hopeless.try_recv().is_err());
        house.kill().await;
        assert_eq!(house.hopeless.recv().await, Some(Role::Metrics));
        tokio::time::sleep(WINDOW).await;
        assert_eq!(house.builds.borrow().len(), BUDGET + 1);
    }

    #[actix_rt::test]
    async fn nothing_is_rebuilt_while_the_daemon_ends() {
        let mut house = house();
        house.ending.begin();
        house.kill().await;
        tokio::time::sleep(WINDOW).await;
        assert_eq!((house.builds.borrow().len(), house.restarts()), (1, 0));
        assert!(house.hopeless.try_recv().is_err());
    }

    #[actix_rt::test]
    async fn a_rebuild_that_was_to_come_does_not_when_the_daemon_ends_meanwhile() {
        let house = house();
        house.kill().await;
        house.built(2).await;
        house.kill().await;
        // Root has heard of it, and its pause runs.
        tokio::time::sleep(PAUSE / 2).await;
        house.ending.begin();
        tokio::time::sleep(WINDOW).await;
        assert_eq!(house.builds.borrow().len(), 2);
    }
}
