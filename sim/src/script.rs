//! Owns what the model says: the canned answers, cut into tokens, and what it repeats.
//!
//! Must never know how an answer is sent, nor which parsers look at it.

use serde_json::{Map, Value, json};

use crate::ask::{Ask, Form, ToolChoice};

/// What a token is to a parser, if one looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Text,
    ThinkOpen,
    ThinkClose,
    /// A tool call's brackets and keys.
    CallMark,
    /// A piece of the called tool's name.
    CallName,
    /// The name is complete with this token, which is not part of it.
    CallNameEnd,
    /// A piece of the arguments.
    CallArgs,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) part: Part,
    /// It goes out together with the token that follows.
    pub(crate) held: bool,
}

/// What the model says if nothing stops it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) tokens: Vec<Token>,
    /// Behind the tokens it goes on singing, without an end.
    pub(crate) endless: bool,
    /// It is an answer, whatever a parser of reasoning would make of it.
    pub(crate) content_only: bool,
}

impl Script {
    fn of(tokens: Vec<Token>) -> Self {
        Self { tokens, ..Self::default() }
    }
}

/// The model's answer to `ask`.
pub(crate) fn answer(ask: &Ask) -> Script {
    if let Some(count) = ask.fault.tokens {
        return counted(count, ask.fault.token_bytes);
    }
    if ask.raw_prompt {
        return Script { endless: true, ..Script::default() };
    }
    if ask.images > 0 {
        return Script::of(text("A~ small~ red|| square~.|~| It| is| tiny|."));
    }
    if let Some(tool) = called_tool(ask) {
        return Script::of(call(&tool));
    }
    match &ask.form {
        Form::Schema(schema) => return Script::of(pieces(&instance(schema).to_string())),
        Form::Json if ask.user != "json" => {
            return Script::of(pieces(&json!({"answer": ask.said}).to_string()));
        }
        Form::Json | Form::Text => {}
    }
    canned(ask)
}

fn canned(ask: &Ask) -> Script {
    if ask.last_role == "tool" {
        return Script::of(pieces(&format!("The tool said: {}.", ask.said)));
    }
    let name = format!(" {}", ask.name);
    Script::of(match ask.user.as_str() {
        "hello" => {
            join([text("Hello|!| I| am"), pieces(&name), text(",| a| tiny| t|es|t| model|.")])
        }
        "who are you?" => join([text("I| am"), pieces(&name), text(".")]),
        "count" => pieces("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20."),
        "unicode" => text("Grüße|,| señor|!| 你好|,|世界|。| 😀🎉"),
        "json" => {
            join([text("{\"|name|\":| \""), pieces(&ask.name), text("\",| \"|ok|\":| |t|r|ue|}")])
        }
        "think" if ask.thinking => think(),
        "think" => text("The| |an|s|w|er| is| 4|."),
        "weather" => call("get_weather"),
        "sing" => {
            return Script { endless: true, ..Script::default() };
        }
        _ => pieces(&format!("{} heard: {}", ask.name, ask.said)),
    })
}

fn think() -> Vec<Token> {
    let mut tokens = vec![mark("<think>", Part::ThinkOpen)];
    tokens.extend(text(
        "\n|L|et| m|e~ t~h|in|k| a|b|ou|t| |it|.| |T|w|o~ and~ t|w|o| m|a|ke| f|ou|r|.|\n",
    ));
    tokens.push(mark("</think>", Part::ThinkClose));
    tokens.extend(text("\n|\n|The| |an|s|w|er| is| 4|."));
    tokens
}

/// The tool that is called, if one is.
fn called_tool(ask: &Ask) -> Option<String> {
    match &ask.tool_choice {
        ToolChoice::None => None,
        ToolChoice::Auto if ask.user != "weather" || ask.last_role == "tool" => None,
        ToolChoice::Auto | ToolChoice::Required => ask.tools.first().cloned(),
        ToolChoice::Named(name) => Some(name.clone()),
    }
}

fn call(tool: &str) -> Vec<Token> {
    let mut tokens = vec![mark("<tool_call>", Part::CallMark)];
    tokens.extend(marks("\n|{\"|name|\":| \"", Part::CallMark));
    tokens.extend(pieces(tool).into_iter().map(|t| Token { part: Part::CallName, ..t }));
    tokens.push(mark("\",", Part::CallNameEnd));
    tokens.extend(marks(" \"|arguments|\": ", Part::CallMark));
    tokens.extend(marks("{\"|city|\":| \"|Paris|\"}", Part::CallArgs));
    tokens.extend(marks("}|\n|</tool_call>", Part::CallMark));
    tokens
}

/// `count` tokens that can be told apart, each of `bytes` bytes if that is given.
fn counted(count: u64, bytes: Option<u64>) -> Script {
    let size = bytes.and_then(|b| usize::try_from(b).ok());
    let token = |i: u64| {
        let mut text = if i == 0 { "tok0".to_owned() } else { format!(" tok{i}") };
        if let Some(size) = size {
            text.truncate(size);
            text.extend(std::iter::repeat_n('x', size - text.len()));
        }
        mark(&text, Part::Text)
    };
    Script { tokens: (0..count).map(token).collect(), endless: false, content_only: true }
}

/// The token of the endless song at this place.
pub(crate) fn song(place: u64) -> Token {
    let text = match place {
        0 => "l",
        n if n % 2 == 0 => " l",
        _ => "a",
    };
    mark(text, Part::Text)
}

/// Cuts any text into pieces that look like tokens.
pub(crate) fn pieces(text: &str) -> Vec<Token> {
    const LONGEST: usize = 12;
    let mut tokens: Vec<Token> = Vec::new();
    let mut word = String::new();
    let mut flush = |word: &mut String| {
        if !word.is_empty() {
            tokens.push(mark(&std::mem::take(word), Part::Text));
        }
    };
    for c in text.chars() {
        let joins = c.is_alphanumeric() && word.chars().count() < LONGEST;
        if !joins || word.ends_with(|l: char| !l.is_alphanumeric() && !matches!(l, ' ' | '_')) {
            flush(&mut word);
        }
        word.push(c);
    }
    flush(&mut word);
    tokens
}

/// Reads tokens written with `|` between them, and `~` where one is held for the next.
fn text(pattern: &str) -> Vec<Token> {
    marks(pattern, Part::Text)
}

fn marks(pattern: &str, part: Part) -> Vec<Token> {
    let mut tokens = Vec::new();
    for delta in pattern.split('|') {
        let together: Vec<&str> = delta.split('~').collect();
        for (i, text) in together.iter().enumerate() {
            tokens.push(Token { held: i + 1 < together.len(), ..mark(text, part) });
        }
    }
    tokens
}

fn mark(text: &str, part: Part) -> Token {
    Token { text: text.to_owned(), part, held: false }
}

fn join<const N: usize>(parts: [Vec<Token>; N]) -> Vec<Token> {
    parts.into_iter().flatten().collect()
}

/// The least value that a JSON schema allows, as far as the usual words go.
fn instance(schema: &Value) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema.pointer("/enum/0")) {
        return value.clone();
    }
    if let Some(one) = schema.pointer("/anyOf/0").or_else(|| schema.pointer("/oneOf/0")) {
        return instance(one);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => json!("text"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(0)),
        Some("boolean") => json!(true),
        Some("array") => schema.get("items").map_or(json!([]), |item| json!([instance(item)])),
        Some("null") => Value::Null,
        _ => Value::Object(properties(schema)),
    }
}

fn properties(schema: &Value) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let named = properties.into_iter().flatten();
    named.map(|(name, schema)| (name.clone(), instance(schema))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokens: &[Token]) -> Vec<&str> {
        tokens.iter().map(|t| t.text.as_str()).collect()
    }

    #[test]
    fn pieces_look_like_tokens_and_make_up_the_text() {
        assert_eq!(words(&pieces(" tiny-a")), [" tiny", "-", "a"]);
        assert_eq!(words(&pieces("1 2, ä.")), ["1", " 2", ",", " ä", "."]);
        let long = "a".repeat(30) + "  —\n\"x\": 😀";
        assert_eq!(words(&pieces(&long)).concat(), long);
    }

    #[test]
    fn counted_tokens_have_the_bytes_that_were_asked_for() {
        let script = counted(3, Some(6));
        assert_eq!(words(&script.tokens), ["tok0xx", " tok1x", " tok2x"]);
        assert_eq!(words(&counted(2, None).tokens), ["tok0", " tok1"]);
    }

    #[test]
    fn a_schema_is_met() {
        let schema = json!({"type": "object", "properties": {
            "ok": {"type": "boolean"}, "list": {"type": "array", "items": {"enum": ["x"]}}}});
        assert_eq!(instance(&schema), json!({"ok": true, "list": ["x"]}));
    }
}
