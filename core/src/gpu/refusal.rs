//! How somebody who gets no turn is told (SPEC 2.1, 6.6).

use std::time::Duration;

use super::scheduler::Refusal;
use crate::error::{ApiError, Code, Retry};

impl Refusal {
    /// The error for a request that asked for `model`.
    pub fn error(&self, model: &str) -> ApiError {
        match self {
            Refusal::QueueFull { waiting, retry_after } => {
                let message = format!("{waiting} requests wait already");
                retry(ApiError::new(Code::QueueFull, message), *retry_after)
                    .hint("try again later, or raise max_queue_depth")
            }
            Refusal::QueueTimeout { waited, retry_after } => {
                let seconds = waited.as_secs_f64();
                let message = format!("{model} had no turn within {seconds:.1} s");
                retry(ApiError::new(Code::QueueTimeout, message), *retry_after)
                    .hint("other models were in use; raise max_queue_wait_s to wait longer")
            }
            Refusal::Failed(cause) => cause.error(model),
            Refusal::AutostartOff => {
                let message = format!("{model} is not loaded, and requests start nothing here");
                ApiError::new(Code::BackendUnavailable, message).hint(
                    "set autostart_enabled = true, or load it by hand: POST /v1/backends/vllm/activate",
                )
            }
            Refusal::Stopped => {
                let message = format!("{model} was stopped by hand while this request waited");
                ApiError::new(Code::BackendUnavailable, message)
            }
            Refusal::Leased { owner, retry_after } => {
                let message = format!("the GPU is leased to {owner}");
                retry(ApiError::new(Code::GpuLeaseActive, message), *retry_after)
                    .hint("wait until it is released; its holder sends x-gpu-lease-token")
            }
            Refusal::LeaseBusy { owner } => {
                let message = format!("the GPU is leased to {owner} already");
                ApiError::new(Code::GpuLeaseBusy, message)
                    .hint("wait until it is released, or end it: POST /v1/gpu/force_release")
            }
            Refusal::NoResident => ApiError::new(Code::NoResident, "no model is loaded")
                .hint("name a model, or load one: POST /v1/backends/vllm/activate"),
            Refusal::Draining => ApiError::new(Code::Draining, "the proxy is shutting down"),
        }
    }
}

/// Whole seconds, at least one.
fn retry(mut error: ApiError, after: Duration) -> ApiError {
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    error.retry = Retry::After(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_row_of_the_error_table() {
        let after = Duration::from_millis(2500);
        let cases = [
            (Refusal::QueueFull { waiting: 512, retry_after: after }, 429, Retry::After(3)),
            (Refusal::QueueTimeout { waited: after, retry_after: after }, 503, Retry::After(3)),
            (Refusal::AutostartOff, 502, Retry::After(2)),
            (Refusal::Stopped, 502, Retry::After(2)),
            (Refusal::Draining, 503, Retry::After(5)),
        ];
        for (refusal, status, retry) in cases {
            let error = refusal.error("m");
            assert_eq!((error.status, error.retry), (status, retry), "{refusal:?}");
        }
    }
}
