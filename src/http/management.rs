//! What endpoints that show or change the inside have in common (SPEC 10).

use actix_web::http::header;
use actix_web::{HttpMessage, HttpRequest, web};
use chat_proxy_core::{ApiError, Code};
use serde::de::DeserializeOwned;

use super::body::{self, NoBody};
use super::front::Identity;
use super::state::AppState;

/// Orders are short.
const MAX_BODY: u64 = 64 << 10;

/// Lets admins through.
pub(super) fn admin(request: &HttpRequest) -> Result<(), ApiError> {
    if request.extensions().get::<Identity>().is_some_and(|who| who.admin) {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, "this needs a key with the admin right")
        .hint("give the key rights = [\"chat\", \"admin\"]"))
}

/// Whether a configured key stands behind the right, and not only that nobody needs one.
pub(super) fn has_admin_key(request: &HttpRequest) -> bool {
    request.extensions().get::<Identity>().is_some_and(|who| who.admin && who.keyed)
}

/// The order in a request's body; an empty body is an empty order.
pub(super) async fn order<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<T, ApiError> {
    let stall = state.settings().server.client_header_timeout_s.limit();
    let read = body::read(payload, request.headers(), MAX_BODY, stall, &state.budget).await;
    let (bytes, _share) = match read {
        Ok(read) => read,
        Err(NoBody::Refused(error)) => return Err(error),
        Err(NoBody::Gone) => return Err(ApiError::invalid("", "the client has gone")),
    };
    if bytes.is_empty() {
        return parse(b"{}");
    }
    // A page of another site can send forms and plain text without asking first, but not this.
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(ApiError::invalid("", "the body must be application/json")
            .hint("send the header content-type: application/json"));
    }
    parse(&bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| ApiError::invalid("", format!("the body: {e}")))
}
