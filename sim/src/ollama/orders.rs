//! Owns the faults that are ordered while an Ollama serves, and what it was asked last.
//!
//! A request of a client that goes through a proxy cannot order its own faults, so they are
//! ordered by path, and for as many requests as are named. Must never act on a fault.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::errors::{Refusal, whole};
use crate::fault::Fault;
use crate::http::Head;
use crate::stats::headers;
use crate::wire::Reply;

/// How many requests are remembered.
const REQUESTS: usize = 32;

/// Faults for the requests to come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The path that they concern; without one, all that generate or embed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// How many requests have them; without a number, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// The faults.
    pub fault: Fault,
}

impl Order {
    fn concerns(&self, path: &str, infers: bool) -> bool {
        let named = self.on.as_ref().map_or(infers, |on| on == path);
        named && self.times != Some(0)
    }
}

/// The orders of one Ollama.
#[derive(Debug)]
pub(super) struct Orders(Mutex<Vec<Order>>);

impl Orders {
    /// Orders to begin with; `fault` concerns all that generate.
    pub(super) fn new(orders: &[Order], fault: &Fault) -> Self {
        let all = Order { fault: fault.clone(), ..Order::default() };
        Self(Mutex::new(orders.iter().cloned().chain([all]).collect()))
    }

    /// The faults of one request; those that were ordered first win, field by field.
    pub(super) fn take(&self, path: &str, infers: bool) -> Fault {
        let mut fault = Fault::default();
        for order in self.all().iter_mut().filter(|order| order.concerns(path, infers)) {
            fault = fault.or(&order.fault);
            order.times = order.times.map(|n| n - 1);
        }
        fault
    }

    /// Answers `POST /sim/fault`: these orders instead of all others.
    pub(super) fn replace(&self, body: &[u8]) -> Reply {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Body {
            Many(Vec<Value>),
            One(Value),
        }
        let orders: Result<Vec<Order>, _> = match serde_json::from_slice(body) {
            Ok(Body::Many(list)) => list.into_iter().map(serde_json::from_value).collect(),
            Ok(Body::One(one)) => serde_json::from_value(one).map(|order| vec![order]),
            Err(error) => Err(error),
        };
        match orders {
            Ok(orders) => {
                *self.all() = orders;
                whole(200, &json!({}))
            }
            Err(error) => Refusal::bad(error.to_string()).reply(),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last requests, as they came in.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<VecDeque<(Head, Bytes)>>);

impl Requests {
    /// Remembers a request.
    pub(super) fn note(&self, head: &Head, body: &Bytes) {
        let mut all = self.all();
        if all.len() == REQUESTS {
            all.pop_front();
        }
        all.push_back((head.clone(), body.clone()));
    }

    /// Forgets them all.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    /// Answers `GET /sim/requests?last=N`, the newest last.
    pub(super) fn tell(&self, query: &str) -> Reply {
        let last = query.split('&').find_map(|pair| pair.strip_prefix("last="));
        let last = last.and_then(|n| n.parse().ok()).unwrap_or(REQUESTS);
        let all = self.all();
        let requests: Vec<Value> =
            all.iter().skip(all.len().saturating_sub(last)).map(told).collect();
        whole(200, &json!(requests))
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<(Head, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body is told as JSON where it is some, as text else, and as nothing where there is none.
fn told((head, body): &(Head, Bytes)) -> Value {
    let text = || String::from_utf8_lossy(body).into_owned().into();
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).unwrap_or_else(|_| text())
    };
    json!({
        "method": head.method, "path": head.path, "query": head.query,
        "headers": headers(&head.raw), "body": body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(on: Option<&str>, times: Option<u64>, status: u16) -> Order {
        let fault = Fault { status: Some(status), ..Fault::default() };
        Order { on: on.map(str::to_owned), times, fault }
    }

    #[test]
    fn orders_concern_their_path_and_run_out() {
        let orders = [order(Some("/api/ps"), Some(1), 500), order(None, Some(2), 503)];
        let orders = Orders::new(&orders, &Fault::default());
        let status = |path, infers| orders.take(path, infers).status;
        assert_eq!((status("/api/ps", false), status("/api/ps", false)), (Some(500), None));
        assert_eq!(status("/api/tags", false), None);
        assert_eq!(
            (status("/api/chat", true), status("/api/generate", true)),
            (Some(503), Some(503))
        );
        assert_eq!(status("/api/chat", true), None);
    }

    #[test]
    fn new_orders_replace_the_old_ones() {
        let orders = Orders::new(&[order(None, None, 500)], &Fault::default());
        assert_eq!(orders.replace(br#"{"fault": {"stats": 1}}"#).status, 400);
        assert_eq!(orders.take("/api/chat", true).status, Some(500));
        assert_eq!(orders.replace(b"[]").status, 200);
        assert_eq!(orders.take("/api/chat", true).status, None);
        assert_eq!(orders.replace(br#"{"on": "/", "fault": {"status": 404}}"#).status, 200);
        assert_eq!(orders.take("/", false).status, Some(404));
    }
}
