//! A client that puts chunks together as `OpenAI`'s own clients do, and refuses what they would choke on.

use serde_json::Value;

/// A message put together as `OpenAI`'s own clients do it, and its finish reason; refuses what they
/// would choke on.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Accumulated {
    pub(super) content: String,
    pub(super) reasoning: String,
    pub(super) calls: Vec<(String, String, String)>,
    pub(super) finish: Option<String>,
}

impl Accumulated {
    pub(super) fn of(chunks: &[Value]) -> Self {
        let mut all = Accumulated::default();
        for chunk in chunks {
            for choice in chunk["choices"].as_array().unwrap() {
                all.take(choice);
            }
        }
        all
    }

    fn take(&mut self, choice: &Value) {
        let delta = &choice["delta"];
        if let Some(text) = delta["content"].as_str() {
            assert!(self.finish.is_none() || text.is_empty(), "text behind the end");
            self.content.push_str(text);
        }
        if let Some(text) = delta["reasoning"].as_str() {
            assert!(self.finish.is_none(), "a thought behind the end");
            self.reasoning.push_str(text);
        }
        for entry in delta["tool_calls"].as_array().into_iter().flatten() {
            assert!(self.finish.is_none(), "a call behind the end");
            let index = usize::try_from(entry["index"].as_u64().expect("an index")).unwrap();
            let function = &entry["function"];
            if index == self.calls.len() {
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                assert_eq!(entry["type"], "function");
                self.calls.push((text(&entry["id"]), text(&function["name"]), String::new()));
            } else {
                assert!(index < self.calls.len(), "call {index} before those before it");
                // Not even as null: some clients refuse that.
                let said = [entry.get("id"), entry.get("type"), function.get("name")];
                assert_eq!(said, [None; 3], "begun twice");
            }
            if let Some(arguments) = function.get("arguments").filter(|a| !a.is_null()) {
                self.calls[index].2.push_str(arguments.as_str().expect("arguments are a text"));
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            assert!(self.finish.is_none(), "it ends twice");
            self.finish = Some(reason.to_owned());
        }
    }

    /// The same of an answer in one piece.
    pub(super) fn of_whole(answer: &Value) -> Self {
        let (choice, text) =
            (&answer["choices"][0], |value: &Value| value.as_str().unwrap().to_owned());
        let entries = choice["message"]["tool_calls"].as_array().into_iter().flatten();
        let calls = entries.map(|entry| {
            assert_eq!(entry["type"], "function");
            let function = &entry["function"];
            (text(&entry["id"]), text(&function["name"]), text(&function["arguments"]))
        });
        Accumulated {
            content: choice["message"]["content"].as_str().unwrap_or_default().to_owned(),
            reasoning: choice["message"]["reasoning"].as_str().unwrap_or_default().to_owned(),
            calls: calls.collect(),
            finish: choice["finish_reason"].as_str().map(str::to_owned),
        }
    }
}
