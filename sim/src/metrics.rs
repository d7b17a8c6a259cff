//! Owns the text of `/metrics`: the engine's names, and numbers for the most asked-for of them.
//!
//! Must never count.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use crate::routes::Core;
use crate::wire::Reply;

/// Answers `/metrics`.
pub(crate) fn reply(core: &Core) -> Reply {
    let counters = &core.counters;
    let running = counters.running.load(Relaxed);
    let sleep = *core.sleep.borrow();
    let state = |level: u8| u64::from(sleep == level);
    let prompt = counters.prompt_tokens.load(Relaxed);
    let generated = counters.generation_tokens.load(Relaxed);
    let mut text = Text { out: String::with_capacity(2048), model: core.options.served[0].clone() };
    text.family("num_requests_running", "gauge", "Number of requests in model execution batches.");
    text.line("vllm:num_requests_running", "", "", running);
    text.family("num_requests_waiting", "gauge", "Number of requests waiting to be processed.");
    text.line("vllm:num_requests_waiting", "", "", 0);
    text.family("engine_sleep_state", "gauge", "Engine sleep state.");
    for (level, name) in (0..).zip(["awake", "weights_offloaded", "discard_all"]) {
        text.line("vllm:engine_sleep_state", "", &format!(",sleep_state=\"{name}\""), state(level));
    }
    text.family("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.");
    text.line("vllm:kv_cache_usage_perc", "", "", 0);
    text.family("prompt_tokens", "counter", "Number of prefill tokens processed.");
    text.line("vllm:prompt_tokens_total", "", "", prompt);
    text.family("generation_tokens", "counter", "Number of generation tokens processed.");
    text.line("vllm:generation_tokens_total", "", "", generated);
    text.family("request_success", "counter", "Count of successfully processed requests.");
    for (reason, number) in [
        ("stop", counters.stopped.load(Relaxed)),
        ("length", counters.truncated.load(Relaxed)),
        ("abort", counters.aborted()),
        ("error", 0),
    ] {
        text.line(
            "vllm:request_success_total",
            &format!("finished_reason=\"{reason}\","),
            "",
            number,
        );
    }
    Reply {
        content_type: Some("text/plain; version=1.0.0; charset=utf-8".to_owned()),
        ..Reply::json(200, text.out)
    }
}

struct Text {
    out: String,
    model: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
    }

    /// A number with labels before and behind the model's name: they stand by the alphabet.
    fn line(&mut self, name: &str, before: &str, behind: &str, number: u64) {
        let model = &self.model;
        let _ = writeln!(
            self.out,
            "{name}{{engine=\"0\",{before}model_name=\"{model}\"{behind}}} {number}.0"
        );
    }
}
