//! Owns the course of `/api/chat` and `/api/generate`, from the body to the last line.
//!
//! Must never build a line's JSON.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::Daemon;
use super::errors::{LOAD_FAILED, Refusal, whole};
use super::keep::Keep;
use super::lines::{Answer, Kind, Lines};
use super::models::Model;
use super::read::Request;
use super::routes::{begin, json_body};
use super::runner::{Plan, Setup};
use super::store::{Lease, Wish};
use crate::ask::{Ask, Form};
use crate::fault::Fault;
use crate::generate::{Delta, Generation, generate};
use crate::http::Head;
use crate::routes::{Core, count, streamed};
use crate::stream::pause;
use crate::wire::{Stop, Wire};

/// Answers one request.
pub(super) async fn answer(
    core: &Core,
    daemon: &Daemon,
    kind: Kind,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    let began = Instant::now();
    let (body, fault) = match json_body(daemon, head, body) {
        Ok(read) => read,
        Err(refusal) => return wire.reply(&refusal.reply()).await,
    };
    if let Some(result) = begin(&fault, wire).await {
        return result;
    }
    let prepared = prepare(daemon, kind, body, fault).await;
    match prepared {
        Ok(Prepared::Empty(line)) => wire.reply(&whole(200, &line)).await,
        Ok(Prepared::Ask(ask, _lease)) => {
            let generation = generation(&ask);
            let loaded = Instant::now();
            let answer = Answer { kind, ask: &ask, generation: &generation, began, loaded };
            tell(core, &answer, wire).await
        }
        Err(refusal) => wire.reply(&refusal.reply()).await,
    }
}

/// What a request comes to.
enum Prepared {
    /// An answer to an order to load or unload.
    Empty(Value),
    /// Something to be generated, by a model that is loaded.
    Ask(Box<Ask>, Lease),
}

/// Checks a request and has its model loaded or unloaded.
async fn prepare(
    daemon: &Daemon,
    kind: Kind,
    body: Value,
    fault: Fault,
) -> Result<Prepared, Refusal> {
    let request = Request::read(kind, body)?;
    request.check()?;
    let model = daemon.find(&request.model)?;
    if request.is_empty() && request.keep == Some(Keep::For(Duration::ZERO)) {
        if fault.unload_never != Some(true) {
            daemon.store.dismiss(model, fault.unload_hangs == Some(true));
        }
        return Ok(Prepared::Empty(kind.empty(&request.model, "unload")));
    }
    request.check_for(model)?;
    let setup = Setup::read(request.options());
    let context = setup.context;
    let lease = claim(daemon, model, setup, request.keep, &fault).await?;
    if request.is_empty() {
        return Ok(Prepared::Empty(kind.empty(&request.model, "load")));
    }
    Ok(Prepared::Ask(Box::new(request.ask(model, context, fault)), lease))
}

/// Has a model loaded.
pub(super) async fn claim(
    daemon: &Daemon,
    model: &Model,
    setup: Setup,
    keep: Option<Keep>,
    fault: &Fault,
) -> Result<Lease, Refusal> {
    let fails = fault
        .load_error
        .as_ref()
        .map(|text| if text.is_empty() { LOAD_FAILED.to_owned() } else { text.clone() });
    let plan = Plan {
        time: Duration::from_millis(fault.load_ms.unwrap_or(daemon.load_ms)),
        fails,
        hangs: fault.load_hangs == Some(true),
    };
    let wish = Wish { model: model.clone(), setup, keep, plan };
    daemon.store.claim(&wish).await.map_err(Refusal::inside)
}

/// Works out the answer. Where it must have a form the model thinks first, freely.
fn generation(ask: &Ask) -> Generation {
    if ask.form == Form::Text || !ask.thinking || ask.user != "think" {
        return generate(ask);
    }
    let thought = generate(&Ask { form: Form::Text, ..ask.clone() });
    let mut steps = thought.steps;
    let is_thought = |delta: &Delta| matches!(delta, Delta::Reasoning(_));
    steps.truncate(steps.iter().rposition(|s| is_thought(&s.delta)).map_or(0, |at| at + 1));
    let before = steps.last().map_or(0, |step| step.total);
    let formed = generate(&Ask { thinking: false, ..ask.clone() });
    steps.extend(formed.steps.into_iter().map(|mut step| {
        step.total += before;
        step
    }));
    let completion_tokens = before + formed.completion_tokens;
    Generation { steps, completion_tokens, reasoning_tokens: thought.reasoning_tokens }
}

/// Sends the answer, as a stream or in one piece.
async fn tell(core: &Core, answer: &Answer<'_>, wire: &mut Wire) -> Result<(), Stop> {
    let (ask, answers) = (answer.ask, std::slice::from_ref(answer.generation));
    let fails = ask.fault.error_after_events;
    // Before the first line there is a status to tell it with; a whole answer has no lines.
    if fails.is_some_and(|after| after == 0 || !ask.stream) {
        return wire.reply(&Refusal::inside(ask.fault.error_text()).reply()).await;
    }
    if ask.stream {
        // The head goes out with the first line.
        let mut rest = ask.clone();
        pause(rest.fault.delay_first_ms.take()).await;
        return streamed(core, wire, &rest, &mut Lines::new(answer), answers).await;
    }
    if ask.fault.hang_after_events.is_some() {
        std::future::pending::<()>().await;
    }
    let turns = answer.generation.steps.len().saturating_sub(1) as u64;
    let tokens = ask.fault.delay_token_ms.unwrap_or(0).saturating_mul(turns);
    pause(Some(tokens)).await;
    pause(ask.fault.delay_first_ms).await;
    pause(ask.fault.delay_unary_ms).await;
    core.life.generated(answer.generation.completion_tokens);
    wire.reply(&whole(200, &answer.whole())).await?;
    count(core, ask, answers);
    Ok(())
}
