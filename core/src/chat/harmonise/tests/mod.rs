//! The grammar as tables, and the laws of the search.

use serde_json::{Value, json};

use super::*;

mod completion;
mod laws;
mod tables;

/// Tools of these names, without schemas.
pub(in crate::chat::harmonise) fn offering(names: &[&str]) -> Offered {
    let tools: Value = names.iter().map(|name| json!({"function": {"name": name}})).collect();
    Offered::read(&ToolFields { tools: Some(&tools), ..ToolFields::default() })
}

/// The same for an answer whose format was asked for.
fn offering_with_format(names: &[&str]) -> Offered {
    let tools: Value = names.iter().map(|name| json!({"function": {"name": name}})).collect();
    let format = json!({"type": "json_object"});
    Offered::read(&ToolFields {
        tools: Some(&tools),
        response_format: Some(&format),
        ..ToolFields::default()
    })
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> Piece {
    Piece::Call { name: name.to_owned(), arguments: arguments.to_owned() }
}
