//! Calls that the engine itself tells in a stream, in the one way that clients can put together: id, type
//! and name once, with the first part; one index for each call, from 0 on; then arguments alone.
//!
//! Owns: which call a part belongs to. Must never do: change what is right, or let anything of a call
//! out before its name.
//!
//! What engines and gateways do instead, and what becomes of it:
//!
//! | shape | seen at | becomes |
//! |---|---|---|
//! | id, type, name with every part, or as `null` | LiteLLM 20480, DeepSeek, vLLM forks | they go |
//! | one index for several calls | Ollama 15457, Dynamo 4723 | another name under another id begins another call |
//! | one call under several indexes | LocalAI 9722 | the same id is the same call |
//! | another id with every part | LiteLLM 40040 | without a name it goes on |
//! | a last part that repeats the whole call | LiteLLM 20480, Mistral | it goes |
//! | a part with empty arguments behind the last | vLLM (`vercel/ai` 3953) | it goes |
//! | the name comes late, or is empty first | `vercel/ai` 14760, 16507 | the call waits for it |
//! | no arguments at all | vLLM 28806 | `{}` at the end |
//! | arguments that are an object, no id, no index | Ollama, LiteLLM 11262 | a text, made up |

use serde_json::{Map, Value, json};

use super::entries::{arguments_of, head};
use crate::chat::harmonise::CallIds;

/// Arguments are compared up to this size, in bytes; larger ones are not looked at for repetitions.
const MAX_COMPARED: usize = 1 << 20;

/// The calls of one choice.
#[derive(Debug, Default)]
pub(super) struct StreamedCalls {
    calls: Vec<Call>,
}

#[derive(Debug, Default)]
struct Call {
    /// What the engine calls it by.
    id: Option<String>,
    source: Option<u64>,
    /// Its index for the client; nothing before its name is known.
    index: Option<u32>,
    /// What has been said of its arguments, up to [`MAX_COMPARED`]; before its name: all of them.
    arguments: String,
}

impl StreamedCalls {
    /// The entries of one chunk; answers whether they changed.
    pub(super) fn take(&mut self, entries: &mut Vec<Value>, ids: &mut CallIds) -> bool {
        let mut changed = false;
        entries.retain_mut(|entry| {
            let Some(fields) = entry.as_object_mut() else { return true };
            let before = fields.clone();
            let leaves = self.part(fields, ids);
            changed |= !leaves || *fields != before;
            leaves
        });
        changed
    }

    /// The answer is complete: calls without arguments get the empty ones.
    pub(super) fn finish(&mut self) -> Vec<Value> {
        let silent = self.calls.iter_mut().filter(|call| call.arguments.is_empty());
        let ends = silent.filter_map(|call| {
            let index = call.index?;
            call.arguments.push_str("{}");
            Some(json!({"index": index, "function": {"arguments": "{}"}}))
        });
        ends.collect()
    }

    /// One part of a call; answers whether it leaves.
    fn part(&mut self, fields: &mut Map<String, Value>, ids: &mut CallIds) -> bool {
        let part = Part::of(fields);
        let place = self.find(&part).unwrap_or_else(|| {
            self.calls.push(Call::default());
            self.calls.len() - 1
        });
        let call = &mut self.calls[place];
        match call.index {
            Some(index) => call.goes_on(index, &part, fields),
            None => call.begins(part, fields, ids),
        }
    }

    /// The call that a part belongs to; `None`: a new one.
    fn find(&self, part: &Part) -> Option<usize> {
        let last = |belongs: &dyn Fn(&Call) -> bool| self.calls.iter().rposition(belongs);
        let same_id = part.id.as_ref().and_then(|id| last(&|call| call.id.as_ref() == Some(id)));
        if same_id.is_some() {
            return same_id;
        }
        let place = match part.source {
            Some(source) => last(&|call| call.source == Some(source))?,
            None => self.calls.len().checked_sub(1)?,
        };
        let call = &self.calls[place];
        let named = part.name.is_some() && call.index.is_some();
        let another = match (&part.id, part.source) {
            _ if !named => false,
            (Some(_), _) => call.id.is_some() || call.is_complete(),
            // A name and nothing else to go by: it begins, unless it repeats what is there.
            (None, _) => !call.repeats(part) && (part.source.is_none() || call.is_complete()),
        };
        (!another).then_some(place)
    }
}

/// What a part says.
struct Part {
    id: Option<String>,
    source: Option<u64>,
    name: Option<String>,
    arguments: Option<String>,
}

impl Part {
    fn of(fields: &Map<String, Value>) -> Part {
        let text = |value: Option<&Value>| {
            value.and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let function = fields.get("function").and_then(Value::as_object);
        Part {
            id: text(fields.get("id")),
            source: fields.get("index").and_then(Value::as_u64),
            name: text(function.and_then(|function| function.get("name"))),
            arguments: function.and_then(arguments_of).filter(|text| !text.is_empty()),
        }
    }
}

impl Call {
    /// The first part with a name leaves with all that came before it.
    fn begins(&mut self, part: Part, fields: &mut Map<String, Value>, ids: &mut CallIds) -> bool {
        self.arguments.push_str(part.arguments.as_deref().unwrap_or_default());
        self.id = self.id.take().or(part.id);
        self.source = self.source.or(part.source);
        if part.name.is_none() {
            return false;
        }
        let call = ids.next_call();
        self.index = Some(call.index);
        fields.insert("index".to_owned(), call.index.into());
        if let Some(id) = &self.id {
            fields.insert("id".to_owned(), id.as_str().into());
        }
        head(fields, &call.id);
        let function = fields.get_mut("function").and_then(Value::as_object_mut);
        if let Some(function) = function.filter(|_| !self.arguments.is_empty()) {
            function.insert("arguments".to_owned(), self.arguments.as_str().into());
        }
        self.arguments.truncate_to(MAX_COMPARED);
        true
    }

    /// A further part: arguments and nothing else.
    fn goes_on(&mut self, index: u32, part: &Part, fields: &mut Map<String, Value>) -> bool {
        let Some(arguments) = &part.arguments else { return false };
        let says_again = part.id.is_some() || part.name.is_some();
        if says_again && self.is_complete() {
            return false;
        }
        if self.arguments.len() < MAX_COMPARED {
            self.arguments.push_str(arguments);
        }
        fields.insert("index".to_owned(), index.into());
        fields.shift_remove("id");
        fields.shift_remove("type");
        if let Some(function) = fields.get_mut("function").and_then(Value::as_object_mut) {
            function.shift_remove("name");
            function.insert("arguments".to_owned(), arguments.as_str().into());
        }
        true
    }

    /// Whether the arguments are whole, so that nothing can follow.
    fn is_complete(&self) -> bool {
        self.arguments.trim_end().ends_with('}')
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_ok()
    }

    /// Whether a part says what has been said.
    fn repeats(&self, part: &Part) -> bool {
        part.arguments.as_ref().is_none_or(|arguments| *arguments == self.arguments)
    }
}

/// Cutting a text between characters.
trait TruncateTo {
    fn truncate_to(&mut self, most: usize);
}

impl TruncateTo for String {
    fn truncate_to(&mut self, most: usize) {
        let mut end = most.min(self.len());
        while !self.is_char_boundary(end) {
            end -= 1;
        }
        self.truncate(end);
    }
}
