//! What is looked for in a relayed body, and what is changed in it.
//!
//! Owns: the few fields that matter, with their places, and the edits that follow. Must never do:
//! hold more of a body than those fields.

use std::ops::Range;

use serde_json::{Map, Value};

use super::{Dialect, JsonScan, MultipartScan};
use crate::error::ApiError;

/// Looks at a body as it comes in.
#[derive(Debug)]
pub enum Scan {
    /// JSON.
    Json(JsonScan),
    /// `multipart/form-data`.
    Multipart(MultipartScan),
}

impl Scan {
    /// For a body of this content type; an absent one is taken for JSON.
    pub fn of(dialect: Dialect, content_type: Option<&str>) -> Result<Scan, ApiError> {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("multipart/form-data") {
            return MultipartScan::new(content_type.unwrap_or_default()).map(Scan::Multipart);
        }
        if dialect == Dialect::Transcriptions {
            let message = format!("{} takes multipart/form-data", dialect.path());
            return Err(ApiError::invalid("", message)
                .hint("send the audio as the part `file` and the model as the part `model`"));
        }
        Ok(Scan::Json(JsonScan::default()))
    }

    /// Takes the next piece; pieces must come in order.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        match self {
            Scan::Json(scan) => scan.push(piece),
            Scan::Multipart(scan) => scan.push(piece),
        }
    }

    /// The body has ended.
    pub fn finish(self) -> Result<Found, ApiError> {
        match self {
            Scan::Json(scan) => scan.finish(),
            Scan::Multipart(scan) => scan.finish(),
        }
    }
}

/// What was found in a body.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The model that was asked for, and where its value stands.
    pub model: Option<(String, Range<u64>)>,
    /// The client wants a stream.
    pub stream: bool,
    /// `stream_options` and where it stands; only of JSON.
    pub stream_options: Option<(Map<String, Value>, Range<u64>)>,
    /// `metadata`, if it is a small object of JSON.
    pub metadata: Option<Map<String, Value>>,
    /// Where a field can be put in.
    pub insert_at: u64,
    /// It is an object without a field.
    pub is_empty: bool,
    /// The boundary, if it is a form.
    pub boundary: Option<String>,
}

/// Bytes to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Which.
    pub place: Range<u64>,
    /// By what.
    pub text: String,
}

impl Found {
    /// The model that was asked for; `None` if the field is missing or empty.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|(name, _)| name.as_str()).filter(|name| !name.is_empty())
    }

    /// Whether the client itself asked for the usage chunk.
    pub fn wants_usage(&self) -> bool {
        let asked =
            self.stream_options.as_ref().and_then(|(options, _)| options.get("include_usage"));
        asked == Some(&Value::Bool(true))
    }

    /// What is changed on the way to the backend: the model becomes the served id, and streamed
    /// completions are asked for their usage. In the order of their places, not overlapping.
    pub fn edits(&self, dialect: Dialect, served_id: &str) -> Vec<Edit> {
        let mut edits = vec![self.model_edit(served_id)];
        if dialect == Dialect::Completions && self.stream && !self.wants_usage() {
            edits.extend(self.usage_edit());
        }
        edits.sort_by_key(|edit| edit.place.start);
        edits
    }

    fn model_edit(&self, served_id: &str) -> Edit {
        let insert = self.insert_at..self.insert_at;
        match (&self.boundary, &self.model) {
            (None, Some((_, place))) => {
                Edit { place: place.clone(), text: Value::from(served_id).to_string() }
            }
            (None, None) => {
                let comma = if self.is_empty { "" } else { "," };
                let model = Value::from(served_id);
                Edit { place: insert, text: format!("\"model\":{model}{comma}") }
            }
            (Some(_), Some((_, place))) => {
                Edit { place: place.clone(), text: served_id.to_owned() }
            }
            (Some(boundary), None) => Edit {
                place: insert,
                text: format!(
                    "--{boundary}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{served_id}\r\n"
                ),
            },
        }
    }

    fn usage_edit(&self) -> Option<Edit> {
        if self.boundary.is_some() {
            return None;
        }
        Some(match &self.stream_options {
            None => Edit {
                place: self.insert_at..self.insert_at,
                text: "\"stream_options\":{\"include_usage\":true},".to_owned(),
            },
            Some((options, place)) => {
                let mut options = options.clone();
                options.insert("include_usage".into(), Value::Bool(true));
                Edit { place: place.clone(), text: Value::Object(options).to_string() }
            }
        })
    }
}
