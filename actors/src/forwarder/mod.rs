//! `ForwarderActor`: takes requests to their backends and streams the answers back.
//!
//! Owns: its HTTP worker thread's backend clients. Accepts: [`Forward`] (answered at once; the
//! outcome goes to the request's own reply channel). Emits: one log record per request. One actor
//! per worker thread, found by [`ForwarderFactory::local`]; it ends with its thread, and a new one
//! is started when it is asked for again. Requests outlive it, and so does the switch that cuts
//! them (`cut`).
//! Must never do: per-request work in its own context. Each request runs in a task of its own, so
//! that a defect in one stream ends that stream only.

mod admission;
mod answers;
mod autostart;
mod body;
mod cargo;
mod chain;
pub mod channel;
mod cut;
mod deadlines;
mod entrance;
mod failure;
mod images;
mod messages;
mod ollama;
mod patience;
mod policies;
mod prepare;
mod prompts;
mod pump;
mod reply;
mod scaling;
mod task;
mod template;
mod unary;
mod upstream;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler};
use chat_proxy_core::autostart::Plan;
use chat_proxy_core::chat::policy::PolicyRules;
use chat_proxy_core::config::{Millis, Settings};
use chat_proxy_core::gpu::ClassRules;
use chat_proxy_core::ids::Generation;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::mpsc;
use tracing::Instrument;

pub use answers::AnswerSettings;
pub use images::ImageRules;
pub use messages::{
    Answer, Content, Forward, Labels, RequestBody, RequestMeta, StreamAnswer, WholeAnswer,
};
pub use scaling::{Scaler, ScalingRules};

use crate::autostart::messages::EnsureStarted;
use crate::client::{Clients, IDLE_CONNECTION};
use crate::gpu_arbiter::messages::{Abandon, Admit, WouldRefuse};
use crate::lease::LeaseShelf;
use crate::limits::Limits;
use crate::live::Live;
use crate::ollama::messages::EnsureLoaded;
use crate::permits::{Permit, PermitLedger};
use crate::port::Port;
use crate::registry::RegistryView;
use crate::templates::Templates;
use crate::vllm_supervisor::messages::Autopsy;
use cut::{Cut, Switch};

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
    /// Ollama's loads.
    pub ollama_load_timeout: Option<Duration>,
    /// Which services are started for whom.
    pub autostart: Arc<Plan>,
    /// What of remote images is fetched.
    pub images: ImageRules,
    /// Requests wait while the GPU is leased, instead of being refused.
    pub lease_wait: bool,
    /// The longest wait for a turn or a place.
    pub max_queue_wait: Option<Duration>,
    /// Models of local engines need a chat template.
    pub require_template: bool,
    /// What becomes of answers.
    pub answers: AnswerSettings,
    /// What is done to chat requests.
    pub policies: PolicyRules,
    /// What is background work without saying so.
    pub class_rules: Arc<ClassRules>,
}

impl ForwardSettings {
    /// The part of the settings that forwarders need.
    pub fn of(settings: &Settings, autostart: Arc<Plan>, class_rules: Arc<ClassRules>) -> Self {
        let limits = &settings.limits;
        ForwardSettings {
            default_model: settings.server.default_model.clone(),
            heartbeat: settings.server.heartbeat_ms,
            head_timeout: settings.timeouts.backend_timeout_ms,
            first_token_timeout: settings.timeouts.first_token_timeout_ms,
            idle_timeout: settings.timeouts.stream_idle_timeout_ms,
            unary_timeout: settings.timeouts.unary_timeout_ms,
            ollama_load_timeout: settings.ollama.ollama_load_timeout_s.limit(),
            autostart,
            images: ImageRules {
                fetch: limits.fetch_remote_images,
                private: limits.fetch_remote_images_private,
                max_bytes: limits.max_image_bytes,
            },
            lease_wait: settings.scheduler.lease_wait,
            max_queue_wait: settings.scheduler.max_queue_wait_s.limit(),
            require_template: limits.require_template,
            answers: AnswerSettings::of(settings),
            policies: policies::rules(settings),
            class_rules,
        }
    }
}

/// What every forwarder is made from: shared by all threads.
#[derive(Clone)]
pub struct ForwarderFactory {
    settings: Live<ForwardSettings>,
    registry: RegistryView,
    turns: Turns,
    started: Arc<Mutex<Started>>,
}

/// Where turns at the GPU are asked for and given back.
#[derive(Clone)]
pub struct Turns {
    /// Asks for one.
    pub admit: Port<Admit>,
    /// Asks whether it would be refused.
    pub foresee: Port<WouldRefuse>,
    /// Does not want it any more.
    pub abandon: Port<Abandon>,
    /// Has Ollama load models.
    pub ollama: Port<EnsureLoaded>,
    /// Has services started.
    pub services: Port<EnsureStarted>,
    /// Tells what an engine died of.
    pub autopsy: Port<Autopsy>,
    /// Numbers the waits.
    pub ledger: Arc<PermitLedger>,
    /// Who holds the GPU instead of us.
    pub leases: Arc<LeaseShelf>,
    /// Places at models that the arbiter does not place.
    pub limits: Arc<Limits>,
    /// Who scales images.
    pub scaler: Arc<Scaler>,
    /// Who finds chat templates.
    pub templates: Templates,
}

/// The switch of every thread that has had a forwarder, to be told when requests are cut.
#[derive(Default)]
struct Started {
    switches: Vec<mpsc::UnboundedSender<Cut>>,
    /// Requests have been cut: those of threads that come later are cut at once.
    cut: bool,
    /// The same of those that wait.
    waiting_cut: bool,
}

/// What a thread has of its forwarder.
struct Local {
    forwarder: Addr<ForwarderActor>,
    switch: Rc<Switch>,
    /// Whose it is.
    started: Arc<Mutex<Started>>,
}

impl ForwarderFactory {
    /// A factory over the published registry.
    pub fn new(settings: Live<ForwardSettings>, registry: RegistryView, turns: Turns) -> Self {
        ForwarderFactory { settings, registry, turns, started: Arc::default() }
    }

    /// The living forwarder of this thread, or a new one.
    pub fn local(&self) -> Addr<ForwarderActor> {
        thread_local! {
            static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
        }
        LOCAL.with_borrow_mut(|local| match local {
            Some(local) if local.forwarder.connected() => local.forwarder.clone(),
            slot => {
                let dead = slot.take();
                slot.insert(self.start(dead)).forwarder.clone()
            }
        })
    }

    fn start(&self, dead: Option<Local>) -> Local {
        let switch = match dead {
            Some(dead) if Arc::ptr_eq(&dead.started, &self.started) => dead.switch,
            _ => self.new_switch(),
        };
        let shared = Rc::new(Shared::new(self, switch.clone()));
        let forwarder = ForwarderActor { settings: self.settings.clone(), shared }.start();
        Local { forwarder, switch, started: self.started.clone() }
    }

    /// A switch for this thread. It hears orders in a task of its own: what ends requests must not
    /// die of a defect elsewhere.
    fn new_switch(&self) -> Rc<Switch> {
        let (told, mut orders) = mpsc::unbounded_channel();
        let switch = Rc::new(Switch::default());
        let mut started = self.started();
        started.switches.retain(|thread| !thread.is_closed());
        started.switches.push(told);
        if started.cut {
            switch.cut_all();
        }
        if started.waiting_cut {
            switch.cut_waiting();
        }
        let cutting = switch.clone();
        actix_rt::spawn(async move {
            while let Some(order) = orders.recv().await {
                cutting.cut(order);
            }
        });
        switch
    }

    /// Ends every request of every thread with an error of its own.
    pub fn cut_all(&self) {
        let mut started = self.started();
        started.cut = true;
        started.tell(Cut::All);
    }

    /// Refuses the requests of every thread that wait for a load or a service.
    pub fn cut_waiting(&self) {
        let mut started = self.started();
        started.waiting_cut = true;
        started.tell(Cut::Waiting);
    }

    /// Ends the requests that use one start of an engine, on every thread.
    pub fn cut_generation(&self, generation: Generation) {
        self.started().tell(Cut::Generation(generation));
    }

    fn started(&self) -> MutexGuard<'_, Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Started {
    fn tell(&self, order: Cut) {
        for thread in &self.switches {
            // A thread that has ended has no requests.
            let _ = thread.send(order);
        }
    }
}

/// What the thread's tasks share; those of one edition of the settings.
struct Shared {
    settings: Arc<ForwardSettings>,
    registry: RegistryView,
    turns: Turns,
    clients: Rc<Clients>,
    switch: Rc<Switch>,
}

impl Shared {
    fn new(factory: &ForwarderFactory, switch: Rc<Switch>) -> Self {
        Shared {
            settings: factory.settings.load(),
            registry: factory.registry.clone(),
            turns: factory.turns.clone(),
            clients: Rc::default(),
            switch,
        }
    }

    /// The same with other settings.
    fn with(&self, settings: Arc<ForwardSettings>) -> Self {
        Shared {
            settings,
            registry: self.registry.clone(),
            turns: self.turns.clone(),
            clients: self.clients.clone(),
            switch: self.switch.clone(),
        }
    }

    /// What the engine died of, where that is why a request failed there: to be told so is worth
    /// more than that a connection broke.
    async fn explain(&self, permit: Option<&Permit>, error: ApiError) -> ApiError {
        let Some(permit) = permit.filter(|_| error.code == Code::BackendUnavailable) else {
            return error;
        };
        let Some(launch) = permit.tenant.launch() else { return error };
        match self.turns.autopsy.ask(Autopsy(permit.generation), AUTOPSY).await {
            Ok(Some(cause)) => cause.error(launch.model.as_str()),
            Ok(None) | Err(_) => error,
        }
    }
}

/// An engine's death is known within milliseconds of its connections' end, or there was none.
const AUTOPSY: Duration = Duration::from_millis(50);

/// See the module.
pub struct ForwarderActor {
    settings: Live<ForwardSettings>,
    shared: Rc<Shared>,
}

impl Actor for ForwarderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(IDLE_CONNECTION, |actor, _| actor.shared.clients.drop_idle());
    }
}

impl Handler<Forward> for ForwarderActor {
    type Result = ();

    fn handle(&mut self, request: Forward, _: &mut Self::Context) {
        let settings = self.settings.load();
        if !Arc::ptr_eq(&settings, &self.shared.settings) {
            // Requests that run finish with what they began with.
            self.shared = Rc::new(self.shared.with(settings));
        }
        let span = request.span.clone();
        // Boxed: what is spawned is copied whole several times on its way into the runtime and out.
        let story = Box::pin(task::run(self.shared.clone(), request));
        actix_rt::spawn(story.instrument(span));
    }
}
