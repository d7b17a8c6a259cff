//! Each clause of SPEC 5.2, 5.4 and 5.5 by example, and what holds for all requests.
#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::chat::edits::splice;

static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

fn model() -> ModelFacts<'static> {
    ModelFacts {
        name: "m",
        backend: "vllm",
        vision: None,
        reasoning: false,
        tools: None,
        system_prompt: None,
        defaults: &NOTHING,
    }
}

const ALL_GO: Keep = Keep { system: true, turns: 0 };

fn vision_rules(keep: Keep) -> PolicyRules {
    PolicyRules { vision_history: Some(keep), ..PolicyRules::default() }
}

/// Without a look at the images.
fn apply(
    chat: &ChatRequest,
    model: &ModelFacts<'_>,
    rules: &PolicyRules,
) -> Result<Outcome, ApiError> {
    Ok(plan(chat, model, rules)?.finish(&BTreeMap::new()))
}

fn chat(body: &Value) -> ChatRequest {
    ChatRequest::parse(Bytes::from(body.to_string())).unwrap()
}

/// The body as it leaves, and what is said of it.
fn applied(
    body: &Value,
    model: &ModelFacts<'_>,
    rules: &PolicyRules,
) -> Result<(Value, Changes), ApiError> {
    let chat = chat(body);
    let outcome = apply(&chat, model, rules)?;
    let bytes = splice(chat.body(), outcome.edits).concat();
    Ok((serde_json::from_slice(&bytes).unwrap(), outcome.changes))
}

fn image(name: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{name}")}})
}

fn described(name: &str, alt: &str) -> Value {
    let mut part = image(name);
    part["alt_text"] = json!(alt);
    part
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn user(content: &Value) -> Value {
    json!({"role": "user", "content": content})
}

fn says(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn with(messages: &[Value]) -> Value {
    json!({"model": "m", "messages": messages, "foreign": {"b": 1, "a": [2]}})
}

const OMITTED: &str = "[Image omitted: model does not support vision content]";

#[test]
fn what_no_policy_touches_stays_byte_for_byte() {
    let body =
        with(&[says("system", "s"), user(&json!([image("A"), text("t")])), says("user", "u")]);
    for model in [
        model(),
        ModelFacts { vision: Some(true), ..model() },
        ModelFacts { reasoning: true, ..model() },
    ] {
        assert_eq!(
            apply(&chat(&body), &model, &PolicyRules::default()).unwrap(),
            Outcome::default()
        );
    }
}

// 5.2

#[test]
fn images_become_words_for_a_model_that_sees_none() {
    let blind = ModelFacts { vision: Some(false), ..model() };
    let body = with(&[
        user(&json!([text("first"), image("A"), described("B", "a cat")])),
        says("assistant", "yes"),
        user(&json!([text("now"), described("C", "a dog")])),
    ]);
    let (body, changes) = applied(&body, &blind, &PolicyRules::default()).unwrap();
    let words = format!("first\n{OMITTED}\n{OMITTED} (alt: a cat)");
    assert_eq!(body["messages"][0]["content"], words);
    assert_eq!(body["messages"][2]["content"], format!("now\n{OMITTED} (alt: a dog)"));
    assert_eq!(body["foreign"], json!({"b": 1, "a": [2]}));
    assert_eq!(changes.header().as_deref(), Some("images_stripped=3"));
}

#[test]
fn an_undescribed_image_of_the_current_turn_is_refused() {
    let blind = ModelFacts { vision: Some(false), ..model() };
    let body = with(&[says("user", "a"), user(&json!([text("now"), image("C")]))]);
    let error = applied(&body, &blind, &PolicyRules::default()).unwrap_err();
    assert_eq!((error.code, error.status), (Code::CapabilityMismatch, 409));
    assert_eq!(error.param.as_deref(), Some("messages[1].content"));
    // Where nobody knows, its backend shall say.
    assert!(applied(&body, &model(), &PolicyRules::default()).is_ok());
}

#[test]
fn other_parts_of_a_stripped_message_stay() {
    let blind = ModelFacts { vision: Some(false), ..model() };
    let audio = json!({"type": "input_audio", "input_audio": {"data": "x"}});
    let body = with(&[user(&json!([audio, image("A")])), says("user", "now")]);
    let (body, _) = applied(&body, &blind, &PolicyRules::default()).unwrap();
    assert_eq!(body["messages"][0]["content"], json!([audio, text(OMITTED)]));
}

#[test]
fn tools_are_refused_for_a_model_without_where_that_is_wanted() {
    let mut body = with(&[says("user", "u")]);
    body["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    let strict = PolicyRules { strict_capabilities: true, ..PolicyRules::default() };
    let without = ModelFacts { tools: Some(false), ..model() };
    assert_eq!(applied(&body, &without, &strict).unwrap_err().code, Code::CapabilityMismatch);
    assert!(applied(&body, &without, &PolicyRules::default()).is_ok());
    assert!(applied(&body, &model(), &strict).is_ok());
    body["tools"] = json!([]);
    assert!(applied(&body, &without, &strict).is_ok());
}

// 5.4

fn talk() -> Vec<Value> {
    vec![
        says("assistant", "before anybody asked"),
        says("system", "s"),
        user(&json!([text("one"), image("A"), image("B")])),
        says("assistant", "1"),
        says("user", "two"),
        json!({"role": "assistant", "tool_calls": [{"id": "c"}]}),
        json!({"role": "tool", "tool_call_id": "c", "content": "r"}),
        says("developer", "d"),
        says("user", "three"),
        says("assistant", "so far"),
    ]
}

#[test]
fn earlier_turns_of_requests_with_images_go_and_the_newest_images_are_carried_over() {
    let sees = ModelFacts { vision: Some(true), ..model() };
    let (body, changes) = applied(&with(&talk()), &sees, &vision_rules(ALL_GO)).unwrap();
    let carried = json!([text("three"), image("A"), image("B")]);
    let left =
        [says("system", "s"), says("developer", "d"), user(&carried), says("assistant", "so far")];
    assert_eq!(body["messages"], json!(left));
    assert_eq!(changes.header().as_deref(), Some("images_carried=2; turns_dropped=2"));
    assert_eq!(Value::Object(changes.record()), json!({"images_carried": 2, "turns_dropped": 2}));
}

#[test]
fn images_are_not_carried_over_where_there_are_some_or_nobody_to_carry_them_to() {
    let sees = ModelFacts { vision: Some(true), ..model() };
    let mut own = talk();
    own[8] = user(&json!([image("C")]));
    let (body, changes) = applied(&with(&own), &sees, &vision_rules(ALL_GO)).unwrap();
    assert_eq!((changes.images_carried, changes.turns_dropped), (0, 2));
    assert_eq!(body["messages"][2]["content"], json!([image("C")]));
    let mut empty = talk();
    empty[8] = user(&json!([]));
    let (body, _) = applied(&with(&empty), &sees, &vision_rules(ALL_GO)).unwrap();
    assert_eq!(body["messages"][2]["content"], json!([image("A"), image("B")]));
    let mut without = talk();
    without[8] = json!({"role": "user", "content": null});
    let (_, changes) = applied(&with(&without), &sees, &vision_rules(ALL_GO)).unwrap();
    assert_eq!(changes.images_carried, 0);
}

#[test]
fn so_many_turns_stay_as_are_wanted_and_systems_go_if_they_are_not() {
    let sees = ModelFacts { vision: Some(true), ..model() };
    let one = Keep { system: false, turns: 1 };
    let (body, changes) = applied(&with(&talk()), &sees, &vision_rules(one)).unwrap();
    let roles: Vec<&str> =
        body["messages"].as_array().unwrap().iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "developer", "user", "assistant"]);
    assert_eq!(changes.turns_dropped, 1);
    let all = Keep { system: false, turns: 2 };
    let outcome = apply(&chat(&with(&talk())), &sees, &vision_rules(all)).unwrap();
    assert_eq!(outcome, Outcome::default(), "nothing goes, also nothing before the first turn");
}

#[test]
fn reasoning_models_have_settings_of_their_own() {
    let thinks = ModelFacts { reasoning: true, ..model() };
    let rules = PolicyRules {
        reasoning_history: Some(Keep { system: true, turns: 1 }),
        ..vision_rules(ALL_GO)
    };
    let talk = [says("user", "1"), says("assistant", "a"), says("user", "2"), says("user", "3")];
    let (body, changes) = applied(&with(&talk), &thinks, &rules).unwrap();
    assert_eq!(body["messages"], json!([says("user", "2"), says("user", "3")]));
    assert_eq!(changes.turns_dropped, 1);
    // One that sees gets what holds for images, if there are any.
    let both = ModelFacts { vision: Some(true), ..thinks };
    let mut talk = talk.to_vec();
    talk[0] = user(&json!([image("A")]));
    let (body, _) = applied(&with(&talk), &both, &rules).unwrap();
    assert_eq!(body["messages"], json!([user(&json!([text("3"), image("A")]))]));
}

// 5.3

/// Each image that is sent gets another address: its own in small letters.
fn anew(body: &Value, model: &ModelFacts<'_>, rules: &PolicyRules) -> (Value, Changes) {
    let chat = chat(body);
    let planned = plan(&chat, model, rules).unwrap();
    let new = |place: Range<usize>| (place.start, Bytes::from(chat.text()[place].to_lowercase()));
    let scaled = planned.images().into_iter().map(new).collect();
    let outcome = planned.finish(&scaled);
    let bytes = splice(chat.body(), outcome.edits).concat();
    (serde_json::from_slice(&bytes).unwrap(), outcome.changes)
}

#[test]
fn images_that_are_sent_get_other_addresses_wherever_they_come_to_stand() {
    let sees = ModelFacts { vision: Some(true), ..model() };
    let small = |name: &str| {
        let mut part = image(name);
        part["image_url"]["url"] = json!(format!("data:image/png;base64,{name}").to_lowercase());
        part
    };
    let (body, changes) = anew(&with(&talk()), &sees, &vision_rules(ALL_GO));
    assert_eq!(body["messages"][2]["content"], json!([text("three"), small("A"), small("B")]));
    assert_eq!(
        changes.header().as_deref(),
        Some("images_downscaled=2; images_carried=2; turns_dropped=2")
    );
    let (body, changes) = anew(&with(&talk()), &sees, &PolicyRules::default());
    assert_eq!(body["messages"][2]["content"], json!([text("one"), small("A"), small("B")]));
    assert_eq!(changes.images_downscaled, 2);
    let remote = json!({"type": "image_url", "image_url": {"url": "https://X/Y.png"}});
    let body = with(&[user(&json!([remote]))]);
    assert_eq!(anew(&body, &sees, &PolicyRules::default()).0, body);
    // What goes, or becomes words, is not looked at.
    let blind = ModelFacts { vision: Some(false), ..model() };
    let own = [user(&json!([described("A", "a cat")]))];
    let planned = plan(&chat(&with(&own)), &blind, &PolicyRules::default()).unwrap();
    assert!(planned.images().is_empty());
}

// 5.5

#[test]
fn the_default_system_prompt_stands_first_where_there_is_none() {
    let prompted = ModelFacts { system_prompt: Some("be \"kind\""), ..model() };
    let none = PolicyRules::default();
    let (body, changes) = applied(&with(&[says("user", "u")]), &prompted, &none).unwrap();
    assert_eq!(body["messages"], json!([says("system", "be \"kind\""), says("user", "u")]));
    assert_eq!(changes.header().as_deref(), Some("system_prompt=default"));
    for role in ["system", "developer"] {
        let body = with(&[says(role, "mine"), says("user", "u")]);
        assert_eq!(applied(&body, &prompted, &none).unwrap().0, body);
    }
    let (body, _) = applied(&with(&[]), &prompted, &none).unwrap();
    assert_eq!(body["messages"], json!([says("system", "be \"kind\"")]));
}

#[test]
fn parameters_are_filled_in_where_the_client_left_them_out() {
    let defaults = json!({"max_tokens": 512, "min_tokens": 1, "temperature": 0.2, "top_p": null,
        "top_k": 40, "stop_sequences": ["END"], "context_window": 8192, "unknown": 1});
    let defaults = defaults.as_object().unwrap();
    let filled = |mut more: Value, backend| {
        more["messages"] = json!([says("user", "u")]);
        let model = ModelFacts { backend, defaults, ..model() };
        let (mut body, changes) = applied(&more, &model, &PolicyRules::default()).unwrap();
        body.as_object_mut().unwrap().remove("messages");
        (body, changes)
    };
    let (body, changes) = filled(json!({"temperature": 0, "stop": null}), "vllm");
    let wanted =
        json!({"max_tokens": 512, "min_tokens": 1, "temperature": 0, "top_k": 40, "stop": ["END"]});
    assert_eq!(body, wanted);
    assert_eq!(changes.defaults, ["max_tokens", "min_tokens", "top_k", "stop"]);
    let (body, _) =
        filled(json!({"max_completion_tokens": 9, "temperature": 1, "stop": "X"}), "openai");
    assert_eq!(body, json!({"max_completion_tokens": 9, "temperature": 1, "stop": "X"}));
    let (body, _) = filled(json!({"max_completion_tokens": null}), "ollama");
    assert_eq!((&body["max_tokens"], body.get("min_tokens")), (&json!(512), None));
}

// All requests.

fn message() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        "[a-zé\"\\\\]{0,6}".prop_map(|t| text(&t)),
        "[A-Z]{1,3}".prop_map(|name| image(&name)),
        ("[A-Z]{1,3}", "[a-z]{0,3}").prop_map(|(name, alt)| described(&name, &alt)),
        Just(json!({"type": "input_audio", "n": 1})),
    ];
    let content = prop_oneof![
        "[a-zé\"\\\\]{0,6}".prop_map(Value::from),
        prop::collection::vec(part, 0..4).prop_map(Value::from),
        Just(Value::Null),
    ];
    let role = prop_oneof![
        3 => Just("user"), 3 => Just("assistant"), 2 => Just("tool"), 1 => Just("system"),
        1 => Just("developer"),
    ];
    (role, content).prop_map(|(role, content)| json!({"role": role, "content": content}))
}

proptest! {
    /// No result of a tool without what it belongs to, never without the current turn; systems stay
    /// where they are to; what stays is what it was, but for images.
    #[test]
    fn histories_are_cut_between_turns(
        messages in prop::collection::vec(message(), 0..12),
        turns in 0_usize..3,
        system: bool,
        sees in prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)],
        reasoning: bool,
    ) {
        let keep = Keep { system, turns };
        let rules = PolicyRules {
            vision_history: Some(keep), reasoning_history: Some(keep), strict_capabilities: false,
        };
        let model = ModelFacts { vision: sees, reasoning, ..model() };
        let before = with(&messages);
        let Ok((after, changes)) = applied(&before, &model, &rules) else {
            prop_assert_eq!(sees, Some(false));
            return Ok(());
        };
        prop_assert_eq!(&after["foreign"], &before["foreign"]);
        let left = after["messages"].as_array().unwrap();
        let is_system = |m: &&Value| matches!(m["role"].as_str(), Some("system" | "developer"));
        let is_user = |m: &&Value| m["role"] == "user";
        let users = messages.iter().filter(is_user).count();
        prop_assert_eq!(left.iter().filter(is_user).count(), users - changes.turns_dropped);
        if changes.turns_dropped > 0 {
            prop_assert_eq!(users - changes.turns_dropped, turns + 1);
            if system {
                let systems = messages.iter().filter(is_system).count();
                prop_assert_eq!(left.iter().filter(is_system).count(), systems);
            }
            // What stays is a tail, but for systems before it: nothing is cut out of a turn.
            let tail: Vec<&Value> = left.iter().rev().take_while(|m| !is_system(m)).collect();
            let roles = tail.iter().map(|m| &m["role"]);
            prop_assert!(roles.eq(messages.iter().rev().take(tail.len()).map(|m| &m["role"])));
        } else {
            prop_assert_eq!(left.len(), messages.len());
        }
        if changes == Changes::default() {
            prop_assert_eq!(&after, &before);
        }
    }
}
