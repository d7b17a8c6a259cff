//! The one mapping from an [`ApiError`] to a response.

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use chat_proxy_core::ApiError;
use chat_proxy_core::error::Retry;
use chat_proxy_core::relay::Dialect;

/// The error as a response, with the headers that steer a client's retries.
pub(super) fn respond(error: &ApiError) -> HttpResponse {
    respond_in(Dialect::Chat, error)
}

/// The same, as clients of a dialect read it.
pub(super) fn respond_in(dialect: Dialect, error: &ApiError) -> HttpResponse {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut builder = HttpResponse::build(status);
    advise(&mut builder, &error.retry);
    if status == StatusCode::UNAUTHORIZED {
        builder.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    builder.content_type("application/json").body(dialect.error_body(error))
}

/// Retry advice as headers.
pub(super) fn advise(builder: &mut actix_web::HttpResponseBuilder, retry: &Retry) {
    match retry {
        Retry::Unsaid => {}
        Retry::Never => {
            builder.insert_header(("x-should-retry", "false"));
        }
        Retry::After(seconds) => {
            builder.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        Retry::Kept(text) => {
            builder.insert_header((header::RETRY_AFTER, text.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_proxy_core::Code;

    #[test]
    fn every_code_becomes_a_response_with_its_status_and_advice() {
        for code in Code::ALL {
            let response = respond(&ApiError::new(code, "x"));
            let headers = response.headers();
            assert_eq!(response.status().as_u16(), code.status());
            match ApiError::new(code, "x").retry {
                Retry::Never => assert!(headers.contains_key("x-should-retry"), "{code:?}"),
                Retry::After(_) | Retry::Kept(_) => {
                    assert!(headers.contains_key("retry-after"), "{code:?}");
                }
                Retry::Unsaid => assert!(!headers.contains_key("retry-after"), "{code:?}"),
            }
        }
    }

    #[test]
    fn a_backends_own_status_is_kept() {
        assert_eq!(respond(&ApiError::backend(507, None)).status().as_u16(), 507);
    }
}
