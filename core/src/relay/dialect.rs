//! The endpoints that take a model's name, and how each of them speaks.
//!
//! Owns: their paths, here and at a backend, and the form of an error in each. Must never do: look
//! into a body.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::registry::Endpoint;

/// One endpoint of SPEC 2 that is answered by a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// `POST /v1/rerank`
    Rerank,
    /// `POST /rerank`
    BareRerank,
    /// `POST /v1/score`
    Score,
    /// `POST /tokenize`
    Tokenize,
    /// `POST /detokenize`
    Detokenize,
    /// `POST /v1/audio/transcriptions`
    Transcriptions,
}

impl Dialect {
    /// Those that are relayed.
    pub const RELAYED: [Dialect; 11] = [
        Dialect::Completions,
        Dialect::Embeddings,
        Dialect::Responses,
        Dialect::Messages,
        Dialect::CountTokens,
        Dialect::Rerank,
        Dialect::BareRerank,
        Dialect::Score,
        Dialect::Tokenize,
        Dialect::Detokenize,
        Dialect::Transcriptions,
    ];

    /// Its path here.
    pub fn path(self) -> &'static str {
        match self {
            Dialect::Chat => "/v1/chat/completions",
            Dialect::Completions => "/v1/completions",
            Dialect::Embeddings => "/v1/embeddings",
            Dialect::Responses => "/v1/responses",
            Dialect::Messages => "/v1/messages",
            Dialect::CountTokens => "/v1/messages/count_tokens",
            Dialect::Rerank => "/v1/rerank",
            Dialect::BareRerank => "/rerank",
            Dialect::Score => "/v1/score",
            Dialect::Tokenize => "/tokenize",
            Dialect::Detokenize => "/detokenize",
            Dialect::Transcriptions => "/v1/audio/transcriptions",
        }
    }

    /// The endpoint of a path.
    pub fn of(path: &str) -> Option<Dialect> {
        let all = Self::RELAYED.iter().chain([&Dialect::Chat]);
        all.copied().find(|dialect| dialect.path() == path)
    }

    /// Its address at a backend (SPEC 6.3): below the base, or beside its `/v1`.
    pub fn url(self, backend: &Endpoint) -> String {
        match self.path().strip_prefix("/v1") {
            Some(path) => backend.url(path),
            None => format!("{}{}", backend.origin(), self.path()),
        }
    }

    /// Its streams have `choices` and end with `[DONE]`.
    pub fn has_choices(self) -> bool {
        matches!(self, Dialect::Chat | Dialect::Completions)
    }

    /// Whether its answers can be streams at all.
    pub fn can_stream(self) -> bool {
        matches!(
            self,
            Dialect::Chat
                | Dialect::Completions
                | Dialect::Responses
                | Dialect::Messages
                | Dialect::Transcriptions
        )
    }

    /// Its whole answers are JSON, whatever their heads say: those of others may be bytes or text.
    pub fn answers_in_json(self) -> bool {
        matches!(
            self,
            Dialect::Chat | Dialect::Completions | Dialect::Responses | Dialect::Messages
        )
    }

    /// The body of an error response.
    pub fn error_body(self, error: &ApiError) -> String {
        self.in_its_form(error.body()).to_string()
    }

    /// An error in OpenAI's form, as this dialect's clients read it.
    pub fn in_its_form(self, mut body: Value) -> Value {
        if let (Dialect::Messages | Dialect::CountTokens, Some(object)) =
            (self, body.as_object_mut())
        {
            object.insert("type".to_owned(), json!("error"));
        }
        body
    }

    /// The error as the one event that ends a broken stream: what clients of this dialect read,
    /// with `status`, because the response's own status has long left (SPEC 2.2).
    pub fn error_event(self, error: &ApiError) -> String {
        let mut object = error.object();
        object.insert("status".into(), json!(error.status));
        match self {
            Dialect::Messages => {
                format!("event: error\ndata: {}\n\n", json!({"type": "error", "error": object}))
            }
            Dialect::Responses => {
                let kind = object.insert("type".into(), json!("error"));
                object.insert("error_type".into(), json!(kind));
                format!("event: error\ndata: {}\n\n", serde_json::Value::Object(object))
            }
            _ => format!("data: {}\n\n", json!({ "error": object })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn paths_outside_v1_go_beside_the_base() {
        let backend = Endpoint::loopback(9);
        let url = |dialect: Dialect| dialect.url(&backend);
        assert_eq!(url(Dialect::Messages), "http://127.0.0.1:9/v1/messages");
        assert_eq!(url(Dialect::CountTokens), "http://127.0.0.1:9/v1/messages/count_tokens");
        assert_eq!(url(Dialect::Tokenize), "http://127.0.0.1:9/tokenize");
        assert_eq!(url(Dialect::BareRerank), "http://127.0.0.1:9/rerank");
        assert_eq!(url(Dialect::Rerank), "http://127.0.0.1:9/v1/rerank");
    }

    #[test]
    fn every_path_leads_back_to_its_dialect() {
        for dialect in Dialect::RELAYED {
            assert_eq!(Dialect::of(dialect.path()), Some(dialect));
        }
        assert_eq!(Dialect::of("/v1/chat/completions"), Some(Dialect::Chat));
        assert_eq!(Dialect::of("/v1/models"), None);
    }

    #[test]
    fn errors_have_the_form_that_a_dialects_clients_read() {
        let error = ApiError::new(Code::Draining, "going");
        let body = |dialect: Dialect| -> Value {
            serde_json::from_str(&dialect.error_body(&error)).unwrap_or_default()
        };
        assert_eq!(body(Dialect::Messages)["type"], "error");
        assert_eq!(body(Dialect::Messages)["error"]["code"], "err_draining");
        assert_eq!(body(Dialect::Completions).get("type"), None);

        let event = Dialect::Messages.error_event(&error);
        let data = event.strip_prefix("event: error\ndata: ").unwrap_or_default();
        let data: Value = serde_json::from_str(data.trim()).unwrap_or_default();
        assert_eq!((&data["type"], &data["error"]["status"]), (&json!("error"), &json!(503)));
        assert_eq!(data["error"]["type"], "draining");

        let event = Dialect::Responses.error_event(&error);
        let data = event.strip_prefix("event: error\ndata: ").unwrap_or_default();
        let data: Value = serde_json::from_str(data.trim()).unwrap_or_default();
        assert_eq!((&data["type"], &data["code"]), (&json!("error"), &json!("err_draining")));
        assert_eq!((&data["message"], &data["status"]), (&json!("going"), &json!(503)));
        assert_eq!(Dialect::Chat.error_event(&error), error.event());
    }
}
