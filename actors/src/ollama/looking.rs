//! Asking an Ollama what it has, what that can do, and what it has loaded.
//!
//! Owns: what models were said to be able to do: newer versions say it in their list, others only
//! when they are asked for one model, which is done once for each. Must never do: ask for a model
//! that the registry does not name; there may be hundreds.

use std::cell::RefCell;
use std::collections::HashMap;

use chat_proxy_core::chat::ollama::{Tag, same_model};
use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::registry::listing::{OllamaActivity, OllamaTag};

use super::api::{self, Trouble};
use crate::client::Clients;

/// As many answers are remembered; a model that is pulled anew has another digest.
const MAX_REMEMBERED: usize = 1024;

/// Server, model and digest.
type Key = (String, String, String);

/// What was said of each; `None`: nothing.
#[derive(Debug, Default)]
pub(super) struct Abilities(RefCell<HashMap<Key, Option<Vec<String>>>>);

pub(super) async fn look_at(
    clients: &Clients,
    server: &Endpoint,
    wanted: &[String],
    abilities: &Abilities,
) -> Result<OllamaActivity, Trouble> {
    let loaded = api::ps(clients, server).await?;
    let mut tags = Vec::new();
    for mut tag in api::tags(clients, server).await? {
        if tag.capabilities.is_none() && wanted.iter().any(|name| same_model(name, &tag.name)) {
            tag.capabilities = ask(clients, server, &tag, abilities).await?;
        }
        tags.push(OllamaTag { name: tag.name, capabilities: tag.capabilities, size: tag.size });
    }
    Ok(OllamaActivity {
        reachable: true,
        tags,
        loaded: loaded.into_iter().map(|model| model.name).collect(),
    })
}

async fn ask(
    clients: &Clients,
    server: &Endpoint,
    tag: &Tag,
    abilities: &Abilities,
) -> Result<Option<Vec<String>>, Trouble> {
    let digest = tag.digest.clone().unwrap_or_default();
    let key = (server.base().to_owned(), tag.name.clone(), digest);
    let known = abilities.0.borrow().get(&key).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let said = match api::abilities(clients, server, &tag.name).await {
        Ok(said) => said,
        // Gone since the list was made, or broken: others are not to suffer.
        Err(Trouble::Status { .. } | Trouble::Nonsense { .. }) => None,
        Err(trouble) => return Err(trouble),
    };
    let mut remembered = abilities.0.borrow_mut();
    if remembered.len() >= MAX_REMEMBERED {
        remembered.clear();
    }
    remembered.insert(key, said.clone());
    Ok(said)
}
