//! Models of local engines need a chat template (SPEC 5.1).
//!
//! Owns: the refusal. Must never do: look at the disk for a model whose template has been found before.

use std::time::Duration;

use chat_proxy_core::registry::{Template, TemplatePlaces};
use chat_proxy_core::{ApiError, Code};
use tokio::time::timeout;

use super::Shared;
use super::patience;
use super::prepare::Prepared;
use super::reply::{Interrupt, Reply};
use crate::templates::{Found, Templates};
use crate::transcript::Transcript;

/// A disk is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Refuses a chat with a model that has no template.
pub(super) async fn require(
    shared: &Shared,
    prepared: &Prepared,
    reply: &mut Reply,
    transcript: &mut Transcript,
) -> Result<Result<(), ApiError>, Interrupt> {
    if !shared.settings.require_template {
        return Ok(Ok(()));
    }
    let found = &prepared.found;
    let places = match found.template() {
        Template::Elsewhere | Template::Given => return Ok(Ok(())),
        Template::Nowhere => {
            let why = "its entry says `chat_template.source`: none";
            return Ok(Err(refusal(&found.model, why)));
        }
        Template::Places(places) if shared.turns.templates.has_seen(places) => return Ok(Ok(())),
        Template::Places(places) => places.clone(),
    };
    let why = lacks(&places);
    let looking = look(shared.turns.templates.clone(), places);
    let state = "the chat template is looked for";
    let seen = patience::wait(shared, prepared.stream, state, looking, reply, transcript).await?;
    Ok(if seen { Ok(()) } else { Err(refusal(&found.model, &why)) })
}

async fn look(templates: Templates, places: TemplatePlaces) -> bool {
    let looking = tokio::task::spawn_blocking(move || templates.find(&places));
    // A search that takes too long has found nothing.
    matches!(timeout(PATIENCE, looking).await, Ok(Ok(found)) if found != Found::Missing)
}

/// Where there is none.
fn lacks(places: &TemplatePlaces) -> String {
    let named = places.named.as_ref().map(|path| format!("{} is not there", path.display()));
    let files = places.files.as_ref().map(|files| format!("none lies with {}", files.source));
    let by_name = places.by_name.as_ref().map(|path| format!("{} is not there", path.display()));
    [named, files, by_name].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn refusal(model: &str, why: &str) -> ApiError {
    ApiError::new(Code::TemplateRequired, format!("{model} has no chat template: {why}"))
        .param("model")
        .hint(format!(
            "put one into the template directory as {model}.jinja, or name one in the entry's \
             chat_template.path; say \"chat_template\": {{\"source\": \"embedded\"}} if its server brings \
             one along; or set require_template = false"
        ))
}
