//! Owns the engine's refusals: their words and their JSON.
//!
//! Must never decide whether something is refused.

use serde_json::{Value, json};

use crate::options::Options;
use crate::wire::Reply;

/// A refusal, before it is put into the form of one of the surfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: u16,
    kind: &'static str,
    message: String,
    param: Option<String>,
    /// An error that nobody caught: its answer passes by the layer that adds `vary`.
    unhandled: bool,
}

impl ApiError {
    /// 400 for something that was understood and is not accepted.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "BadRequestError",
            message: message.into(),
            param: None,
            unhandled: false,
        }
    }

    /// 400 for a parameter, named with its value behind the message.
    pub(crate) fn bad_parameter(message: &str, name: &str, value: &str) -> Self {
        Self {
            param: Some(name.to_owned()),
            ..Self::bad_request(format!("{message} (parameter={name}, value={value})"))
        }
    }

    /// 400 for a body that does not have the right form. `detail` is one line.
    pub(crate) fn validation(detail: &str, param: Option<&str>) -> Self {
        Self {
            kind: "Bad Request",
            param: param.map(str::to_owned),
            ..Self::bad_request(format!("1 validation error:\n  {detail}"))
        }
    }

    /// 400 for a field that is absent.
    pub(crate) fn missing(field: &str, body: &Value) -> Self {
        let input = describe(Some(body));
        let detail = format!(
            "{{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required', 'input': '{input}'}}"
        );
        Self::validation(&detail, Some(&format!("body.{field}")))
    }

    /// 400 for a field with a value of the wrong type.
    pub(crate) fn wrong_type(field: &str, kind: &str, wanted: &str, value: &Value) -> Self {
        let input = describe(Some(value));
        let detail = format!(
            "{{'type': '{kind}', 'loc': 'body.{field}', 'msg': 'Input should be a valid {wanted}', 'input': '{input}'}}"
        );
        Self::validation(&detail, Some(&format!("body.{field}")))
    }

    /// 400 for a body that is JSON and no object.
    pub(crate) fn not_an_object(body: &Value) -> Self {
        let input = describe(Some(body));
        let detail = format!(
            "{{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object to extract fields from', 'input': '{input}'}}"
        );
        Self::validation(&detail, Some("body"))
    }

    /// 400 for a body that is empty.
    pub(crate) fn empty_body() -> Self {
        Self::validation(
            "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}",
            Some("body"),
        )
    }

    /// 400 for a body that is no JSON, from this place on.
    pub(crate) fn bad_json(place: usize) -> Self {
        let detail = format!(
            "{{'type': 'json_invalid', 'loc': 'body.{place}', 'msg': 'JSON decode error', \
             'input': '<dict of 0 items>', 'ctx': {{'error': 'Expecting value'}}}}"
        );
        Self::validation(&detail, Some(&format!("body.{place}")))
    }

    /// 400 for a body that is not declared as JSON.
    pub(crate) fn media_type() -> Self {
        Self::validation("Unsupported Media Type: Only 'application/json' is allowed", None)
    }

    /// 400 for an order of faults that was not understood.
    pub(crate) fn bad_order(problem: &str) -> Self {
        let detail = format!("{{'type': 'sim', 'loc': 'body.sim', 'msg': '{problem}'}}");
        Self::validation(&detail, Some("body.sim"))
    }

    /// 400 for more images than a prompt may have.
    pub(crate) fn too_many_images(limit: u32) -> Self {
        Self {
            param: Some("image".to_owned()),
            ..Self::bad_request(format!(
                "At most {limit} image(s) may be provided in one prompt. (parameter=image)"
            ))
        }
    }

    /// 404 for a model that is not served here.
    pub(crate) fn unknown_model(name: &str, served: &[String]) -> Self {
        let aliases = served.join(", ");
        Self {
            status: 404,
            kind: "NotFoundError",
            param: Some("model".to_owned()),
            ..Self::bad_request(format!(
                "The model `{name}` does not exist. Valid aliases: {aliases}."
            ))
        }
    }

    /// 500 for an address that the engine cannot fetch an image from.
    pub(crate) fn unreachable(host: &str, port: u16) -> Self {
        Self {
            status: 500,
            kind: "InternalServerError",
            unhandled: true,
            ..Self::bad_request(format!(
                "Cannot connect to host {host}:{port} ssl:default [Connect call failed ('{host}', {port})]"
            ))
        }
    }

    /// 500 for an order that could not be carried out to its end.
    pub(crate) fn not_done(error: &std::io::Error) -> Self {
        Self { status: 500, kind: "InternalServerError", ..Self::bad_request(error.to_string()) }
    }

    /// 500 for a request whose engine died.
    pub(crate) fn engine_died() -> Self {
        Self { status: 500, kind: "InternalServerError", ..Self::bad_request(DIED) }
    }

    /// 500 for a request that comes when the engine takes no more.
    pub(crate) fn not_scheduled() -> Self {
        Self {
            status: 500,
            kind: "InternalServerError",
            unhandled: true,
            ..Self::bad_request("cannot schedule new futures after shutdown")
        }
    }

    /// The answer in the form of `/v1/chat/completions`.
    pub(crate) fn reply(&self) -> Reply {
        let body = json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.status,
        }});
        Reply { vary: !self.unhandled, ..Reply::json(self.status, body.to_string()) }
    }

    /// The answer of the face that these options are of, on its OpenAI routes.
    pub(crate) fn reply_of(&self, options: &Options) -> Reply {
        if options.ollama.is_none() {
            return self.reply();
        }
        openai_error(self.status, &self.message)
    }

    /// The answer in the form of `/v1/messages`.
    pub(crate) fn messages_reply(&self) -> Reply {
        let kind = if self.kind == "BadRequestError" { "invalid_request_error" } else { self.kind };
        let body = json!({"type": "error", "error": {"type": kind, "message": self.message}});
        Reply { vary: !self.unhandled, ..Reply::json(self.status, body.to_string()) }
    }
}

/// What is said of an engine that died.
const DIED: &str = "EngineCore encountered an issue. See stack trace (above) for the root cause.";

/// The data of the event with which a stream breaks off when the engine dies under it.
pub(crate) const DIED_IN_STREAM: &str = "{\"error\": {\"message\": \"EngineCore encountered an \
    issue. See stack trace (above) for the root cause.\", \"type\": \"InternalServerError\", \
    \"param\": null, \"code\": 500}}";

/// An error as an Ollama tells it on its OpenAI routes.
pub(crate) fn openai_error(status: u16, message: &str) -> Reply {
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    };
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": null}});
    Reply::json(status, body.to_string())
}

/// 404 for a path that is not served.
pub(crate) fn not_found() -> Reply {
    Reply::json(404, r#"{"detail":"Not Found"}"#)
}

/// 405 for a path that is served with another method.
pub(crate) fn method_not_allowed(allowed: &str) -> Reply {
    Reply {
        extra: vec![("allow", allowed.to_owned())],
        ..Reply::json(405, r#"{"detail":"Method Not Allowed"}"#)
    }
}

/// How the engine speaks of a value in an error.
fn describe(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "None".to_owned(),
        Some(Value::Object(map)) => format!("<dict of {} items>", map.len()),
        Some(Value::Array(list)) => format!("<list of {} items>", list.len()),
        Some(other) => other.to_string().trim_matches('"').to_owned(),
    }
}
