//! A chat request made fit for its model.
//!
//! Switches: 0 the model sees; 1 it sees nothing; 2 it reasons; 3 it has a system prompt; 4 history is
//! cut, and system messages stay; 5 history is cut, and they go; 6 one earlier turn stays; 7 images come
//! back smaller, and its backend is `openai`.
//!
//! Owns: that the result is valid, that messages only go or are reworded as a whole, that the current
//! turn, system messages and results of tools stay where they must. Must never do: scale an image.

use std::collections::BTreeMap;

use bytes::Bytes;
use chat_proxy_core::ApiError;
use chat_proxy_core::chat::policy::{Changes, Keep, ModelFacts, PolicyRules, plan};
use chat_proxy_core::chat::request::ChatRequest;
use serde_json::{Map, Value, json};

use crate::input::Input;
use crate::json;
use crate::request::{edited, upstream};

const PROMPT: &str = "Be \"kind\".";
const SMALL: &str = "\"data:image/jpeg;base64,AAAA\"";
const KNOWN: [&str; 7] =
    ["max_tokens", "min_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "stop"];

/// `object`: the request, if it says everything once.
pub(crate) fn run(input: &Input<'_>, chat: &ChatRequest, object: Option<&Map<String, Value>>) {
    let defaults = defaults();
    let backend = if input.on(7) { "openai" } else { "vllm" };
    let vision = if input.on(0) { Some(true) } else { input.on(1).then_some(false) };
    let facts = ModelFacts {
        name: "m",
        backend,
        vision,
        reasoning: input.on(2),
        tools: Some(false),
        system_prompt: input.on(3).then_some(PROMPT),
        defaults: &defaults,
    };
    let keep = Keep { system: input.on(4), turns: usize::from(input.on(6)) };
    let keep = (input.on(4) || input.on(5)).then_some(keep);
    let rules = PolicyRules {
        vision_history: keep,
        reasoning_history: keep,
        strict_capabilities: input.on(6),
    };
    let Some((changed, changes)) = apply(chat, &facts, &rules, input.on(7)) else { return };
    header_is_fine(&changes);
    let body = upstream(&changed);
    assert!(json::is_valid(&body), "{}", String::from_utf8_lossy(&body));
    assert!(json::is_valid(&changed.changed_body()));
    let Some(object) = object else { return };
    let after = json::strict(&body).and_then(|after| after.as_object().cloned());
    assert!(after.is_some(), "it says something twice: {}", String::from_utf8_lossy(&body));
    let after = after.unwrap_or_default();
    let mut before = edited(object, chat);
    fields_are_kept(&mut before, &after, &defaults, &changes);
    let (came, left) = (messages(&before), messages(&after));
    if came.iter().all(Value::is_object) {
        History { came, left, facts: &facts, keep, changes: &changes }.check();
    }
}

fn defaults() -> Map<String, Value> {
    let all = json!({"temperature": 0.25, "top_k": 7, "max_tokens": 99, "stop_sequences": ["x"],
        "min_tokens": 1, "presence_penalty": null, "unknown": 1});
    all.as_object().cloned().unwrap_or_default()
}

fn apply(
    chat: &ChatRequest,
    facts: &ModelFacts<'_>,
    rules: &PolicyRules,
    smaller: bool,
) -> Option<(ChatRequest, Changes)> {
    let planned = match plan(chat, facts, rules) {
        Ok(planned) => planned,
        Err(error) => {
            refused_rightly(chat, facts, rules, &error);
            return None;
        }
    };
    let mut anew = BTreeMap::new();
    for place in planned.images() {
        let url: Option<String> = serde_json::from_slice(&chat.body()[place.clone()]).ok();
        let scheme = url.as_deref().and_then(|url| url.get(..5)).map(str::to_ascii_lowercase);
        // One with escapes in it that make no text is passed on as it is.
        assert!(scheme.is_none_or(|scheme| scheme == "data:"), "no inline image");
        if smaller {
            anew.insert(place.start, Bytes::from_static(SMALL.as_bytes()));
        }
    }
    let outcome = planned.finish(&anew);
    Some((chat.clone().with_edits(outcome.edits), outcome.changes))
}

fn refused_rightly(chat: &ChatRequest, facts: &ModelFacts<'_>, rules: &PolicyRules, e: &ApiError) {
    let tools = rules.strict_capabilities && chat.offers_tools();
    assert!(e.status == 409 && (tools || facts.vision == Some(false)), "{e:?}");
}

fn header_is_fine(changes: &Changes) {
    let header = changes.header().unwrap_or_default();
    assert!(header.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{header}");
    assert_eq!(changes.record().is_empty(), header.is_empty());
}

/// All other fields stay, but for parameters that were left out. `before` gets those too.
fn fields_are_kept(
    before: &mut Map<String, Value>,
    after: &Map<String, Value>,
    defaults: &Map<String, Value>,
    changes: &Changes,
) {
    for name in &changes.defaults {
        assert!(KNOWN.contains(name) && before.get(*name).is_none_or(Value::is_null), "{name}");
        let key = if *name == "stop" { "stop_sequences" } else { name };
        let value = defaults.get(key).cloned().unwrap_or_default();
        before.insert((*name).to_owned(), value);
    }
    let rest = |object: &Map<String, Value>| {
        let mut rest = object.clone();
        rest.remove("messages");
        Value::Object(rest)
    };
    let (before, after) = (rest(before), rest(after));
    assert!(json::same(&before, &after), "other fields: {before} became {after}");
}

fn messages(object: &Map<String, Value>) -> Vec<Value> {
    object.get("messages").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Messages before and after.
struct History<'a> {
    came: Vec<Value>,
    left: Vec<Value>,
    facts: &'a ModelFacts<'a>,
    keep: Option<Keep>,
    changes: &'a Changes,
}

impl History<'_> {
    fn check(mut self) {
        if self.changes.system_prompt {
            let prompt = json!({"role": "system", "content": PROMPT});
            assert_eq!(self.left.first(), Some(&prompt));
            self.left.remove(0);
            assert!(!self.left.iter().any(is_system), "one is enough");
        } else if self.facts.system_prompt.is_some() {
            assert!(self.left.iter().any(is_system), "it has one of its own");
        }
        let kept = self.turns_are_kept();
        assert_eq!(kept.len(), self.left.len());
        for (at, left) in kept.iter().zip(&self.left) {
            let came = &self.came[*at];
            assert!(self.like(came, left), "{came} became {left}");
        }
        results_follow_their_calls(&self.came, &kept);
        if self.facts.vision == Some(false) {
            assert!(!self.left.iter().any(has_image), "it sees nothing");
        }
    }

    /// Which of the messages are left: system messages, and everything from some turn on.
    fn turns_are_kept(&self) -> Vec<usize> {
        let users = |messages: &[Value]| -> Vec<usize> {
            let all = messages.iter().enumerate();
            all.filter(|(_, message)| message["role"] == "user").map(|(at, _)| at).collect()
        };
        let (turns, left) = (users(&self.came), users(&self.left).len());
        assert_eq!(turns.len() - left, self.changes.turns_dropped);
        if let Some(keep) =
            self.keep.filter(|_| self.facts.reasoning && self.facts.vision.is_none())
        {
            assert_eq!(left, turns.len().min(keep.turns + 1), "history is cut");
        }
        if self.changes.turns_dropped == 0 {
            return (0..self.came.len()).collect();
        }
        let keep = self.keep.unwrap_or(Keep { system: true, turns: 0 });
        assert_eq!(left, keep.turns + 1);
        let begins = turns[turns.len() - left];
        let before = (0..begins).filter(|at| keep.system && is_system(&self.came[*at]));
        before.chain(begins..self.came.len()).collect()
    }

    /// The same message, but for images and what became of them.
    fn like(&self, came: &Value, left: &Value) -> bool {
        let rest = |message: &Value| {
            let mut rest = message.clone();
            rest.as_object_mut().map(|rest| rest.remove("content"));
            rest
        };
        let reworded = self.facts.vision == Some(false) && has_image(came);
        let same = reworded || words(&came["content"]) == words(&left["content"]);
        same && rest(came) == rest(left)
    }
}

/// What a content says beside images.
fn words(content: &Value) -> Vec<Value> {
    let other = |part: &&Value| !is_image(part) && !(part["image_url"]).is_object();
    match content {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(parts) => parts.iter().filter(other).cloned().collect(),
        other => vec![other.clone()],
    }
}

fn is_system(message: &Value) -> bool {
    matches!(message["role"].as_str(), Some("system" | "developer"))
}

/// Whether it has an image, whatever its address is.
fn has_image(message: &Value) -> bool {
    let role = &message["role"];
    let parts = message["content"].as_array().filter(|_| role.is_string() || role.is_null());
    parts.is_some_and(|parts| parts.iter().any(is_image))
}

fn is_image(part: &Value) -> bool {
    let kind = matches!(part["type"].as_str(), Some("image_url" | "input_image" | "image"));
    let url = &part["image_url"];
    kind && (url.is_string() || !url["url"].is_null())
}

/// A result of a tool that is left has its call before it, if it had.
fn results_follow_their_calls(came: &[Value], kept: &[usize]) {
    let calls = |message: &Value, id: &Value| {
        let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        calls.iter().any(|call| call["id"] == *id)
    };
    for at in kept.iter().filter(|at| came[**at]["role"] == "tool") {
        let id = &came[*at]["tool_call_id"];
        let turn = came[..*at].iter().rposition(|message| message["role"] == "user");
        let call = came[..*at].iter().rposition(|message| calls(message, id));
        // One from an earlier turn has been torn from it by its client.
        if let Some(call) = call.filter(|call| id.is_string() && *call >= turn.unwrap_or(0)) {
            assert!(kept.contains(&call), "the call of message {at} is gone");
        }
    }
}
