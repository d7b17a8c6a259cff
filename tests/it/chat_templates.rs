//! The chat templates that are shipped: what they make of conversations.
//!
//! They are rendered as vLLM renders them, by way of transformers:
//! <https://huggingface.co/docs/transformers/chat_templating_writing>.

mod golden;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value as Given};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Value, json};

use golden::{PROMPTS, TOOL, golden};

const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/chat_templates");

/// JSON with a blank behind commas and colons, as Python writes it.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

/// transformers' own filter: `json.dumps` without escapes for what is no ASCII, or is HTML.
fn tojson(value: Given) -> Result<String, Error> {
    let failed = |what: String| Error::new(ErrorKind::BadSerialization, what);
    let mut json = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut json, Spaced))
        .map_err(|error| failed(error.to_string()))?;
    String::from_utf8(json).map_err(|error| failed(error.to_string()))
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// As transformers sets it up; `trims` are its settings for blanks around blocks, both on.
fn environment(trims: bool) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(trims).lstrip_blocks(trims).build();
    environment.set_syntax(syntax.expect("the usual tags"));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment
}

fn try_render(trims: bool, template: &str, given: &Value) -> Result<String, Error> {
    let source = fs::read_to_string(Path::new(TEMPLATES).join(template)).expect("it can be read");
    environment(trims).render_named_str(template, &source, Serde(given))
}

fn render(template: &str, given: &Value) -> String {
    let prompt = try_render(true, template, given);
    prompt.unwrap_or_else(|error| panic!("{template} fails with {error:#}, given {given}"))
}

/// What ends a prompt that waits for an answer, behind a message of `role`.
fn waits(template: &str, role: &str) -> &'static str {
    match (template, role) {
        ("chatml.jinja", _) => "<|im_start|>assistant\n",
        ("llama3.jinja", _) => "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("mistral.jinja", "user") => "[/INST]",
        ("mistral.jinja", "tool") => "[/TOOL_RESULTS]",
        ("mistral.jinja", _) => "",
        ("gemma.jinja", _) => "<start_of_turn>model\n",
        ("vicuna.jinja" | "llava.jinja", _) => "ASSISTANT:",
        ("deepseek.jinja", "tool") => "<｜tool▁outputs▁end｜>",
        ("deepseek.jinja", _) => "<｜Assistant｜>",
        _ => panic!("{template} is not known here"),
    }
}

/// What ends an answer.
fn ends(template: &str) -> &'static str {
    match template {
        "chatml.jinja" => "<|im_end|>\n",
        "llama3.jinja" => "<|eot_id|>",
        "mistral.jinja" | "vicuna.jinja" | "llava.jinja" => "</s>",
        "gemma.jinja" => "<end_of_turn>\n",
        "deepseek.jinja" => "<｜end▁of▁sentence｜>",
        _ => panic!("{template} is not known here"),
    }
}

/// Messages from a few letters: (s)ystem, (d)eveloper, (u)ser, (a)ssistant, (t)ool, and (c) for an
/// answer that is two calls. Each has a text that no other one has.
fn messages(letters: &str) -> Vec<Value> {
    let call = |at: usize, arguments: Value| {
        let function = json!({"name": "get_weather", "arguments": arguments});
        json!({"id": format!("id-{at}"), "type": "function", "function": function})
    };
    let message = |(at, letter): (usize, char)| match letter {
        's' => json!({"role": "system", "content": format!("system-{at}")}),
        'd' => json!({"role": "developer", "content": format!("developer-{at}")}),
        'u' => json!({"role": "user", "content": format!("user-{at}")}),
        'a' => json!({"role": "assistant", "content": format!("assistant-{at}")}),
        't' => json!({
            "role": "tool", "tool_call_id": format!("id-{at}"), "content": format!("tool-{at}"),
        }),
        'c' => json!({"role": "assistant", "content": null, "tool_calls": [
            call(at + 1, json!(format!("{{\"city\": \"city-{at}\"}}"))),
            call(at + 2, json!({"town": format!("town-{at}")})),
        ]}),
        other => panic!("no message is called {other}"),
    };
    letters.chars().enumerate().map(message).collect()
}

/// The same messages with their contents as lists of parts, users' ones with a picture.
fn in_parts(mut messages: Vec<Value>) -> Vec<Value> {
    for message in &mut messages {
        let Some(text) = message["content"].as_str().map(str::to_owned) else { continue };
        let mut parts = vec![json!({"type": "text", "text": text})];
        if message["role"] == "user" {
            parts.insert(0, json!({"type": "image_url", "image_url": {"url": "data:,"}}));
            parts.push(json!({"type": "image"}));
            parts.push(json!({"type": "text", "text": format!("more of {text}").to_uppercase()}));
        }
        message["content"] = json!(parts);
    }
    messages
}

/// Conversations of all kinds, also of those that no client should send.
fn conversations() -> Vec<Vec<Value>> {
    let shapes = "s u su dsu sudu uau suauau auau uu suuauu usa ua sua saa uct uctt suctta ucttau \
        sucttuctt uca cc ctt tau t";
    let shapes = std::iter::once("").chain(shapes.split(' ')).map(messages);
    let mut all: Vec<Vec<Value>> =
        shapes.flat_map(|shape| [in_parts(shape.clone()), shape]).collect();
    let with = |message: Value| [messages("su"), vec![message]].concat();
    let bare = json!({"type": "function", "function": {"name": "get_weather"}});
    let empty = json!({"type": "function", "function": {"name": "get_weather", "arguments": ""}});
    all.extend([
        with(json!({"role": "assistant", "tool_calls": [bare, empty]})),
        with(json!({"role": "assistant", "content": "I look.", "tool_calls": [bare, empty]})),
        with(json!({"role": "assistant", "content": "", "tool_calls": []})),
        with(json!({"role": "assistant", "content": null, "tool_calls": null})),
        with(json!({"role": "tool", "content": "no id"})),
        with(json!({"role": "user", "content": ""})),
        with(json!({"role": "user", "content": []})),
        with(json!({"role": "user", "content": [{"type": "image"}]})),
        with(json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]})),
    ]);
    all
}

/// Each template with each conversation, with and without a function to call.
fn crossed() -> Vec<(&'static str, Value)> {
    let tool: Value = serde_json::from_str(TOOL).expect("the function is JSON");
    let mut all = Vec::new();
    for shown in PROMPTS {
        for messages in conversations() {
            let bare = json!({"messages": messages, "add_generation_prompt": true});
            let mut offering = bare.clone();
            offering["tools"] = json!([tool, tool]);
            let mut without = bare.clone();
            without["tools"] = Value::Null;
            all.extend([bare, offering, without].map(|given| (shown.template, given)));
        }
    }
    all
}

/// The texts of the messages of these roles.
fn texts(given: &Value, roles: &[&str]) -> Vec<String> {
    let messages = given["messages"].as_array().into_iter().flatten();
    let wanted = messages.filter(|message| roles.iter().any(|role| message["role"] == *role));
    let contents = wanted.flat_map(|message| match &message["content"] {
        Value::Array(parts) => parts.iter().map(|part| part["text"].clone()).collect(),
        content => vec![content.clone()],
    });
    let texts = contents.filter_map(|text| text.as_str().map(str::to_owned));
    texts.filter(|text| !text.is_empty()).collect()
}

#[test]
fn each_prompt_is_the_one_that_the_format_s_documents_have() {
    for golden in golden() {
        let prompt = render(golden.template, &golden.given);
        assert_eq!(prompt, golden.prompt, "{}: {}", golden.template, golden.about);
    }
}

#[test]
fn each_template_that_is_shipped_is_in_the_table_and_says_what_it_is() {
    let files = fs::read_dir(TEMPLATES).expect("the templates can be listed");
    let paths = files.map(|file| file.expect("a file").path());
    let templates = paths.filter(|path| path.extension().is_some_and(|end| end == "jinja"));
    let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let shipped: BTreeSet<String> = templates.map(name).collect();
    assert_eq!(shipped, PROMPTS.iter().map(|shown| shown.template.to_owned()).collect());
    for name in shipped {
        let source = fs::read_to_string(Path::new(TEMPLATES).join(&name)).expect("it can be read");
        let (comment, _) = source.split_once("-#}").expect("a comment");
        for part in ["{#-\n", "For: ", "Format: https://", "Written for this project."] {
            assert!(comment.contains(part), "{name} opens without {part:?}");
        }
    }
}

#[test]
fn every_message_is_told_once_and_in_order_whatever_the_conversation() {
    for (template, given) in crossed() {
        let prompt = render(template, &given);
        let mut behind = 0;
        for text in texts(&given, &["user"]) {
            let at = prompt[behind..].find(&text);
            let at = at.unwrap_or_else(|| panic!("{template} loses {text:?} of {given}: {prompt}"));
            behind += at + text.len();
        }
        for text in texts(&given, &["system", "developer", "user", "assistant", "tool"]) {
            assert_eq!(prompt.matches(&text).count(), 1, "{template}, {text:?}: {prompt}");
        }
        let offered = given["tools"].as_array().map_or(0, Vec::len);
        assert_eq!(prompt.matches("Tells the weather").count(), offered, "{template}: {prompt}");
        for name in ["city", "town"] {
            let sent = given.to_string().matches(&format!("{name}-")).count();
            assert_eq!(prompt.matches(&format!("{name}-")).count(), sent, "{template}: {prompt}");
        }
    }
}

#[test]
fn a_system_message_adds_itself_to_the_functions_and_no_more() {
    let tool: Value = serde_json::from_str(TOOL).expect("the function is JSON");
    for shown in PROMPTS {
        let told = messages("su");
        let alone = json!({"messages": told[1..], "tools": [tool]});
        let told = render(shown.template, &json!({"messages": told, "tools": [tool]}));
        let (before, behind) = told.split_once("system-0\n\n").expect("the system message");
        assert_eq!(render(shown.template, &alone), format!("{before}{behind}"));
    }
}

#[test]
fn nothing_of_jinja_or_python_is_left_in_a_prompt() {
    for (template, given) in crossed() {
        let prompt = render(template, &given);
        for left in ["{{", "{%", "{#", "#}", "%}", "None", "none", "True", "ndefined", "{'", "['"] {
            assert!(!prompt.contains(left), "{template} leaves {left:?}: {prompt}");
        }
        assert!(!prompt.starts_with(char::is_whitespace), "{template}: {prompt}");
    }
}

#[test]
fn a_prompt_ends_where_the_model_has_to_go_on_and_without_being_asked_to_it_does_not() {
    for (template, mut given) in crossed() {
        let asks = render(template, &given);
        let last = given["messages"].as_array().and_then(|all| all.last()?["role"].as_str());
        let end = waits(template, last.unwrap_or_default());
        assert!(asks.ends_with(end), "{template} does not end with {end:?}: {asks}");
        given["add_generation_prompt"] = json!(false);
        let rests = render(template, &given);
        let added = asks.strip_prefix(&rests).expect("the same, and more");
        assert!(end.ends_with(added.trim_start_matches(' ')), "{template} adds {added:?}");
        given.as_object_mut().expect("an object").remove("add_generation_prompt");
        assert_eq!(render(template, &given), rests, "{template}");
    }
}

/// With `continue_final_message`, transformers cuts the prompt behind the last message's text.
#[test]
fn an_answer_that_is_begun_can_be_gone_on_with() {
    let begun = ["The answer is", "<think>\nHm", "<think>\nHm.\n</think>\n\nIt is"];
    for (shown, text) in PROMPTS.iter().flat_map(|shown| begun.map(|text| (shown, text))) {
        let said = json!({"role": "assistant", "content": text});
        let given = json!({"messages": ([messages("suau"), vec![said]].concat())});
        let prompt = render(shown.template, &given);
        let (_, behind) = prompt.rsplit_once(text).expect("the text as it is");
        assert_eq!(behind, ends(shown.template), "{}: {prompt}", shown.template);
    }
}

#[test]
fn the_renderer_s_settings_for_blanks_change_nothing() {
    for (template, given) in crossed() {
        let plain = try_render(false, template, &given).expect("it renders");
        assert_eq!(plain, render(template, &given), "{template}");
    }
}

#[test]
fn the_tokenizer_s_own_tokens_are_taken_and_missing_ones_made_up_for() {
    for shown in PROMPTS {
        let mut given = json!({"messages": messages("ua"), "bos_token": null, "eos_token": null});
        let prompt = render(shown.template, &given);
        let bare = json!({"messages": given["messages"]});
        assert_eq!(render(shown.template, &bare), prompt);
        given["bos_token"] = json!("<first>");
        given["eos_token"] = json!("<last>");
        let others = render(shown.template, &given);
        let begins = !matches!(shown.template, "chatml.jinja");
        let ends = !matches!(shown.template, "chatml.jinja" | "llama3.jinja" | "gemma.jinja");
        assert_eq!(others.starts_with("<first>"), begins, "{others}");
        assert_eq!(others.ends_with("<last>"), ends, "{others}");
        assert_eq!(others == prompt, !begins && !ends, "{others}");
    }
}

#[test]
fn a_role_that_is_unknown_is_named_in_an_error() {
    for shown in PROMPTS {
        let stranger = json!({"role": "critic", "content": "Bad."});
        let given = json!({"messages": ([messages("su"), vec![stranger]].concat())});
        let error = try_render(true, shown.template, &given).expect_err("no such role");
        let expected = format!("{} knows no role \"critic\"", shown.template);
        assert!(error.to_string().contains(&expected), "{error:#}");
    }
}
