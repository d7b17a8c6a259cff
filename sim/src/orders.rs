//! Owns what can be ordered while an engine serves: how its health is told, and lines of log.
//!
//! Must never touch how a chat is answered.

use serde::Deserialize;
use serde_json::json;

use crate::errors::ApiError;
use crate::process::Flood;
use crate::routes::Core;
use crate::wire::Reply;

/// How `/health` is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// With this status.
    Status(u16),
    /// Never.
    Hangs,
}

/// The body of `POST /sim/health`: exactly one of these.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Status(u16),
    Hang(bool),
    Ok(bool),
}

impl Health {
    /// Reads an order, or says what is wrong with it.
    fn read(body: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice(body).map_err(|e| e.to_string())? {
            // What is below is no answer yet, and what is above no status.
            Order::Status(status @ 200..=999) => Ok(Self::Status(status)),
            Order::Status(status) => Err(format!("{status} is not the status of an answer")),
            Order::Hang(true) => Ok(Self::Hangs),
            Order::Ok(true) => Ok(Self::Status(200)),
            Order::Hang(false) | Order::Ok(false) => Err("only true can be ordered".to_owned()),
        }
    }
}

/// Answers `POST /sim/health`. Who waits already for an answer that never comes waits on.
pub(crate) fn health(core: &Core, body: &[u8]) -> Reply {
    match Health::read(body) {
        Ok(health) => {
            core.health.send_replace(health);
            Reply::json(200, "{}")
        }
        Err(problem) => ApiError::bad_request(problem).reply(),
    }
}

/// Answers `POST /sim/log`, when the lines are written.
pub(crate) async fn log(body: &[u8]) -> Reply {
    let order = match Flood::read(body) {
        Ok(order) => order,
        Err(problem) => return ApiError::bad_request(problem).reply(),
    };
    match order.pour().await {
        Ok(()) => Reply::json(200, json!({"written": order.lines}).to_string()),
        Err(error) => ApiError::not_done(&error).reply(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn health_is_ordered_by_exactly_one_word() {
        for (order, health) in [
            (r#"{"status": 503}"#, Health::Status(503)),
            (r#"{"status": 299}"#, Health::Status(299)),
            (r#"{"hang": true}"#, Health::Hangs),
            (r#"{"ok": true}"#, Health::Status(200)),
        ] {
            assert_eq!(Health::read(order.as_bytes()).unwrap(), health);
        }
        for (order, told) in [
            (r#"{"status": 100}"#, "100"),
            (r#"{"status": 1000}"#, "1000"),
            (r#"{"status": "503"}"#, "u16"),
            (r#"{"ok": false}"#, "only true"),
            (r#"{"hung": true}"#, "`hung`"),
            (r#"{"status": 503, "hang": true}"#, "expected"),
            ("{}", "expected"),
        ] {
            let problem = Health::read(order.as_bytes()).unwrap_err();
            assert!(problem.contains(told), "{order}: {problem}");
        }
    }
}
