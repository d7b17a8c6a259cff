//! `ForwarderActor`: takes chat requests to their backends and streams the answers back.
//!
//! Owns: its HTTP worker thread's backend clients and the switch that cuts that thread's requests.
//! Accepts: [`Forward`] (answered at once; the outcome goes to the request's own reply channel),
//! [`Cut`]. Emits: one log record per request. One actor per worker thread, found by
//! [`ForwarderFactory::local`];
//! it ends with its thread, and a new one is started when it is asked for again.
//! Must never do: per-request work in its own context. Each request runs in a task of its own, so
//! that a defect in one stream ends that stream only.

mod admission;
mod body;
pub mod channel;
mod client;
mod cut;
mod deadlines;
mod failure;
mod framing;
mod messages;
mod prepare;
mod pump;
mod reply;
mod task;
mod unary;
mod upstream;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Recipient};
use chat_proxy_core::config::{Millis, Settings};
use chat_proxy_core::ids::Generation;
use tracing::Instrument;

pub use messages::{Answer, Cut, Forward, RequestMeta, StreamAnswer, WholeAnswer};

use crate::directory::Directory;
use crate::permits::PermitLedger;
use crate::registry::RegistryView;

/// What forwarders need to know.
#[derive(Debug, Clone)]
pub struct ForwardSettings {
    /// For requests that name no model.
    pub default_model: Option<String>,
    /// See SPEC 2.2.
    pub heartbeat: Millis,
    /// Streamed: until the head.
    pub head_timeout: Millis,
    /// Streamed: until the first content.
    pub first_token_timeout: Millis,
    /// Streamed: between two pieces.
    pub idle_timeout: Millis,
    /// Not streamed: until the whole answer.
    pub unary_timeout: Millis,
}

impl ForwardSettings {
    /// The part of the settings that forwarders need.
    pub fn of(settings: &Settings) -> Self {
        ForwardSettings {
            default_model: settings.server.default_model.clone(),
            heartbeat: settings.server.heartbeat_ms,
            head_timeout: settings.timeouts.backend_timeout_ms,
            first_token_timeout: settings.timeouts.first_token_timeout_ms,
            idle_timeout: settings.timeouts.stream_idle_timeout_ms,
            unary_timeout: settings.timeouts.unary_timeout_ms,
        }
    }
}

/// What every forwarder is made from: shared by all threads.
#[derive(Clone)]
pub struct ForwarderFactory {
    settings: Arc<ForwardSettings>,
    registry: RegistryView,
    directory: Directory,
    ledger: Arc<PermitLedger>,
    started: Arc<Mutex<Started>>,
}

/// Every forwarder that was started, to be told when requests are cut.
#[derive(Default)]
struct Started {
    forwarders: Vec<Recipient<Cut>>,
    /// Requests have been cut: forwarders that are started later cut theirs at once.
    cut: bool,
}

impl ForwarderFactory {
    /// A factory over the published registry; turns at the GPU are asked for where the directory
    /// says.
    pub fn new(
        settings: ForwardSettings,
        registry: RegistryView,
        directory: Directory,
        ledger: Arc<PermitLedger>,
    ) -> Self {
        let (settings, started) = (Arc::new(settings), Arc::default());
        ForwarderFactory { settings, registry, directory, ledger, started }
    }

    /// The living forwarder of this thread, or a new one.
    pub fn local(&self) -> Addr<ForwarderActor> {
        thread_local! {
            static LOCAL: RefCell<Option<Addr<ForwarderActor>>> = const { RefCell::new(None) };
        }
        LOCAL.with_borrow_mut(|local| match local {
            Some(addr) if addr.connected() => addr.clone(),
            slot => slot.insert(self.start()).clone(),
        })
    }

    fn start(&self) -> Addr<ForwarderActor> {
        let addr = ForwarderActor { shared: Rc::new(Shared::new(self)) }.start();
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.forwarders.retain(Recipient::connected);
        started.forwarders.push(addr.clone().recipient());
        if started.cut {
            addr.do_send(Cut::All);
        }
        addr
    }

    /// Ends every request of every thread with an error of its own.
    pub fn cut_all(&self) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.cut = true;
        for forwarder in &started.forwarders {
            forwarder.do_send(Cut::All);
        }
    }

    /// Ends the requests that use one start of an engine, on every thread.
    pub fn cut_generation(&self, generation: Generation) {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        for forwarder in &started.forwarders {
            forwarder.do_send(Cut::Generation(generation));
        }
    }
}

/// What the thread's tasks share.
struct Shared {
    settings: Arc<ForwardSettings>,
    registry: RegistryView,
    directory: Directory,
    ledger: Arc<PermitLedger>,
    clients: client::Clients,
    switch: Rc<cut::Switch>,
}

impl Shared {
    fn new(factory: &ForwarderFactory) -> Self {
        Shared {
            settings: factory.settings.clone(),
            registry: factory.registry.clone(),
            directory: factory.directory.clone(),
            ledger: factory.ledger.clone(),
            clients: client::Clients::default(),
            switch: Rc::default(),
        }
    }
}

/// See the module.
pub struct ForwarderActor {
    shared: Rc<Shared>,
}

impl Actor for ForwarderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(client::IDLE_CONNECTION, |actor, _| actor.shared.clients.drop_idle());
    }
}

impl Handler<Forward> for ForwarderActor {
    type Result = ();

    fn handle(&mut self, request: Forward, _: &mut Self::Context) {
        let span = request.span.clone();
        actix_rt::spawn(task::run(self.shared.clone(), request).instrument(span));
    }
}

impl Handler<Cut> for ForwarderActor {
    type Result = ();

    fn handle(&mut self, cut: Cut, _: &mut Self::Context) {
        match cut {
            Cut::All => self.shared.switch.cut_all(),
            Cut::Generation(generation) => self.shared.switch.cut_generation(generation),
        }
    }
}
