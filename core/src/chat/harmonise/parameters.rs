//! The arguments of a found call, as one JSON object.
//!
//! Owns: unwrapping arguments that were written as a JSON string, and making an object of
//! `<parameter=K>V</parameter>`. Must never do: rewrite JSON; what is JSON already stays byte for
//! byte as it stood.

use std::collections::HashMap;

use serde_json::Value;

use super::json::value_in;
use super::offered::{Declared, Offered};

/// Arguments as they stood, an object or a JSON string that holds one. `None`: neither.
///
/// An empty string stands for no arguments: OpenAI's own API writes them so.
pub(super) fn of_json(written: &str) -> Option<String> {
    if written.starts_with('{') {
        return Some(written.to_owned());
    }
    let text: String = serde_json::from_str(written).ok()?;
    match text.trim() {
        "" => Some("{}".to_owned()),
        object => (value_in(object) == Some(b'{')).then(|| object.to_owned()),
    }
}

/// The object of a tool's parameters, in their order; of two alike the last one counts.
pub(super) fn of_parameters<'a>(
    offered: &Offered,
    tool: usize,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut places = HashMap::new();
    let mut members: Vec<(&str, String)> = Vec::new();
    for (name, text) in pairs {
        let value = value_of(offered.declared(tool, name), text);
        if let Some(&place) = places.get(name) {
            members[place] = (name, value);
        } else {
            places.insert(name, members.len());
            members.push((name, value));
        }
    }
    let mut object = String::from("{");
    for (place, (name, value)) in members.iter().enumerate() {
        if place > 0 {
            object.push(',');
        }
        object.push_str(&quoted(name));
        object.push(':');
        object.push_str(value);
    }
    object.push('}');
    object
}

/// One value. Templates put it on lines of its own: one line end at each side is theirs.
///
/// A parameter that is declared a string is one, whatever it looks like. Any other is JSON if it
/// is JSON, and else the text as it stands. Booleans may be spelt as Python has them, because the
/// templates render them so in the history from which the model learns.
fn value_of(declared: Declared, text: &str) -> String {
    let text = text.strip_prefix("\r\n").or(text.strip_prefix('\n')).unwrap_or(text);
    let text = text.strip_suffix("\r\n").or(text.strip_suffix('\n')).unwrap_or(text);
    let bare = text.trim();
    match declared {
        Declared::Text => quoted(text),
        Declared::TextOrNull if bare != "null" => quoted(text),
        Declared::Boolean if bare.eq_ignore_ascii_case("true") => "true".to_owned(),
        Declared::Boolean if bare.eq_ignore_ascii_case("false") => "false".to_owned(),
        _ if value_in(bare).is_some() => bare.to_owned(),
        _ => quoted(text),
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::harmonise::offered::ToolFields;
    use serde_json::json;

    #[test]
    fn json_strings_are_unwrapped_and_objects_left_alone() {
        for (written, arguments) in [
            (r#"{ "a":1.0,"b":"\u00e9" }"#, Some(r#"{ "a":1.0,"b":"\u00e9" }"#)),
            (r#""{\"a\": \"é\"}""#, Some(r#"{"a": "é"}"#)),
            (r#"" {}\n""#, Some("{}")),
            (r#""""#, Some("{}")),
            (r#""[1]""#, None),
            (r#""null""#, None),
            (r#""Paris""#, None),
            (r#""{\"a\":}""#, None),
            (r#""\ud800""#, None),
        ] {
            assert_eq!(of_json(written).as_deref(), arguments, "{written}");
        }
    }

    #[test]
    fn parameters_become_what_the_schema_and_the_text_say() {
        let tools = json!([{"function": {"name": "f", "parameters": {"properties": {
            "text": {"type": "string"}, "maybe": {"type": ["string", "null"]},
            "flag": {"type": "boolean"}, "count": {"type": "integer"},
        }}}}]);
        let offered = Offered::read(&ToolFields { tools: Some(&tools), ..ToolFields::default() });
        for (name, text, value) in [
            ("text", "\n12\n", r#""12""#),
            ("text", "\n\n  a\n\n", r#""\n  a\n""#),
            ("text", "\r\na\r\n", r#""a""#),
            ("text", "", r#""""#),
            ("text", "null", r#""null""#),
            ("maybe", " null ", "null"),
            ("maybe", "nothing", r#""nothing""#),
            ("flag", "\nTrue\n", "true"),
            ("flag", "FALSE", "false"),
            ("flag", "perhaps", r#""perhaps""#),
            ("count", "\n12345678901234567890123\n", "12345678901234567890123"),
            ("count", "1.50", "1.50"),
            ("count", "a dozen", r#""a dozen""#),
            ("other", r#"{"a": [1, 2]}"#, r#"{"a": [1, 2]}"#),
            ("other", "true", "true"),
            ("other", "True", r#""True""#),
            ("other", r#""quoted""#, r#""quoted""#),
            ("other", "say \"hi\"\t", r#""say \"hi\"\t""#),
        ] {
            let object = of_parameters(&offered, 0, [(name, text)].into_iter());
            assert_eq!(object, format!(r#"{{"{name}":{value}}}"#), "{name}: {text:?}");
        }
        let pairs = [("b", "1"), ("a\"", "2"), ("b", "3")];
        assert_eq!(of_parameters(&offered, 0, pairs.into_iter()), r#"{"b":3,"a\"":2}"#);
        assert_eq!(of_parameters(&offered, 0, std::iter::empty()), "{}");
    }
}
