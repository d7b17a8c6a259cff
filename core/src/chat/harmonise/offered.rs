//! The tools that a request offered: the only names that a written call may have.
//!
//! Owns: reading names, the declared types of parameters, and the switches that turn the search
//! or parts of it off. Must never do: judge a request; what is not as OpenAI's schema has it is
//! skipped here, for refusing it is the backend's business.

use std::collections::BTreeMap;

use serde_json::Value;

/// The fields of a request that decide. All are optional, as in the request.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToolFields<'a> {
    /// `tools`.
    pub tools: Option<&'a Value>,
    /// The legacy `functions`.
    pub functions: Option<&'a Value>,
    /// `tool_choice`.
    pub tool_choice: Option<&'a Value>,
    /// The legacy `function_call`, which is to `functions` what `tool_choice` is to `tools`.
    pub function_call: Option<&'a Value>,
    /// `response_format`.
    pub response_format: Option<&'a Value>,
}

/// What the schema says about a parameter whose value was written as bare text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    /// A string: the text is the value.
    Text,
    /// A string or null.
    TextOrNull,
    /// A boolean, and nothing else.
    Boolean,
    /// Some other type, or none that we know: JSON where it is JSON, else the text.
    Other,
}

/// The names that a request offered, and what else decides whether text is a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offered {
    /// Sorted, without doubles.
    names: Vec<String>,
    /// For each name what is declared of its parameters, but for those that are
    /// [`Declared::Other`].
    declared: Vec<BTreeMap<String, Declared>>,
    unmarked: bool,
}

impl Offered {
    /// Nothing was offered: all text is text.
    pub fn nothing() -> Self {
        Offered::default()
    }

    /// Reads the request's fields.
    pub fn read(fields: &ToolFields<'_>) -> Self {
        let mut tools = BTreeMap::new();
        if !is_none(fields.tool_choice) {
            for tool in list(fields.tools) {
                take(&mut tools, tool.get("function").unwrap_or(tool));
            }
            if !is_none(fields.function_call) {
                for function in list(fields.functions) {
                    take(&mut tools, function);
                }
            }
        }
        let (names, declared) = tools.into_iter().unzip();
        Offered { names, declared, unmarked: !is_set(fields.response_format) }
    }

    /// Whether text need not be searched at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a call may also stand without a mark of its own: grammar (c) and (d).
    pub fn unmarked(&self) -> bool {
        self.unmarked
    }

    /// What is declared for a parameter of the tool at this place of [`Offered::names`].
    pub(super) fn declared(&self, tool: usize, parameter: &str) -> Declared {
        let known = self.declared.get(tool).and_then(|declared| declared.get(parameter));
        known.copied().unwrap_or(Declared::Other)
    }
}

fn list(field: Option<&Value>) -> &[Value] {
    field.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `"none"`, the only form in which a request forbids calls.
fn is_none(choice: Option<&Value>) -> bool {
    choice.and_then(Value::as_str) == Some("none")
}

/// `null` and `{"type":"text"}` ask for nothing that would not be so without them.
fn is_set(format: Option<&Value>) -> bool {
    match format {
        None | Some(Value::Null) => false,
        Some(format) => format.get("type").and_then(Value::as_str) != Some("text"),
    }
}

fn take(tools: &mut BTreeMap<String, BTreeMap<String, Declared>>, function: &Value) {
    let Some(name) = function.get("name").and_then(Value::as_str).filter(|n| !n.is_empty()) else {
        return;
    };
    let properties = function.get("parameters").and_then(|schema| schema.get("properties"));
    let mut declared = BTreeMap::new();
    for (parameter, schema) in properties.and_then(Value::as_object).into_iter().flatten() {
        match declared_by(schema) {
            Declared::Other => {}
            known => drop(declared.insert(parameter.clone(), known)),
        }
    }
    tools.insert(name.to_owned(), declared);
}

/// The types that a schema names, itself or as alternatives.
fn types<'a>(schema: &'a Value, into: &mut Vec<&'a str>) {
    match schema.get("type") {
        Some(Value::String(one)) => into.push(one),
        Some(Value::Array(several)) => into.extend(several.iter().filter_map(Value::as_str)),
        _ => {}
    }
    for alternatives in ["anyOf", "oneOf"] {
        for schema in list(schema.get(alternatives)) {
            types(schema, into);
        }
    }
    let choices = list(schema.get("enum"));
    if into.is_empty() && !choices.is_empty() && choices.iter().all(Value::is_string) {
        into.push("string");
    }
}

fn declared_by(schema: &Value) -> Declared {
    let mut named = Vec::new();
    types(schema, &mut named);
    match named.as_slice() {
        ["boolean"] => Declared::Boolean,
        named if !named.contains(&"string") => Declared::Other,
        named if named.contains(&"null") => Declared::TextOrNull,
        // Whatever else it may be: text that was meant as text must not become something else.
        _ => Declared::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_come_from_tools_and_from_legacy_functions() {
        let tools = json!([
            {"type": "function", "function": {"name": "b"}},
            {"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}},
            {"type": "function", "name": "flat"},
            {"type": "function", "function": {"name": ""}},
            {"type": "function", "function": {"name": 5}},
            "nonsense",
        ]);
        let functions = json!([{"name": "old"}, {"name": "a"}]);
        let fields = ToolFields {
            tools: Some(&tools),
            functions: Some(&functions),
            ..ToolFields::default()
        };
        let offered = Offered::read(&fields);
        assert_eq!(offered.names(), ["a", "b", "flat", "old"]);
        assert!(offered.unmarked() && !offered.is_empty());
        let none = json!("none");
        let off = Offered::read(&ToolFields { tool_choice: Some(&none), ..fields });
        assert!(off.is_empty());
        let legacy = Offered::read(&ToolFields { function_call: Some(&none), ..fields });
        assert_eq!(legacy.names(), ["a", "b", "flat"]);
    }

    #[test]
    fn any_choice_but_none_leaves_the_search_on() {
        let tools = json!([{"type": "function", "function": {"name": "a"}}]);
        for choice in [
            json!("auto"),
            json!("required"),
            json!(null),
            json!({"type": "function", "function": {"name": "a"}}),
        ] {
            let fields = ToolFields {
                tools: Some(&tools),
                tool_choice: Some(&choice),
                ..ToolFields::default()
            };
            assert!(!Offered::read(&fields).is_empty(), "{choice}");
        }
        for nothing in [json!(null), json!([]), json!({}), json!("x")] {
            let fields = ToolFields { tools: Some(&nothing), ..ToolFields::default() };
            assert!(Offered::read(&fields).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn a_response_format_that_says_something_turns_unmarked_calls_off() {
        for (format, unmarked) in [
            (json!(null), true),
            (json!({"type": "text"}), true),
            (json!({"type": "json_object"}), false),
            (json!({"type": "json_schema", "json_schema": {}}), false),
            (json!({}), false),
        ] {
            let fields = ToolFields { response_format: Some(&format), ..ToolFields::default() };
            assert_eq!(Offered::read(&fields).unmarked(), unmarked, "{format}");
        }
    }

    #[test]
    fn declared_types_are_known_where_the_schema_says_them() {
        for (schema, declared) in [
            (json!({"type": "string"}), Declared::Text),
            (json!({"type": ["string", "null"]}), Declared::TextOrNull),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), Declared::TextOrNull),
            (json!({"oneOf": [{"type": "integer"}, {"type": "string"}]}), Declared::Text),
            (json!({"enum": ["a", "b"]}), Declared::Text),
            (json!({"type": "boolean"}), Declared::Boolean),
            (json!({"type": "integer"}), Declared::Other),
            (json!({"enum": [1, "b"]}), Declared::Other),
            (json!(true), Declared::Other),
        ] {
            let tools =
                json!([{"function": {"name": "f", "parameters": {"properties": {"p": schema}}}}]);
            let offered =
                Offered::read(&ToolFields { tools: Some(&tools), ..ToolFields::default() });
            assert_eq!(offered.declared(0, "p"), declared, "{schema}");
            assert_eq!(offered.declared(0, "q"), Declared::Other);
        }
    }
}
