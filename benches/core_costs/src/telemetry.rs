//! What telemetry adds to a stream: its story, its figures, its line in the request log.
//!
//! Owns: the same streams as in [`stages`], told to a log and to figures as the daemon
//! does by default with metrics on. Must never do: write to a disk; the kernel's work is not counted.

use std::hint::black_box;

use chat_proxy_actors::directory::Directory;
use chat_proxy_actors::live::Live;
use chat_proxy_actors::logger::{LogHandle, LogSettings};
use chat_proxy_actors::metrics::{Metrics, MetricsHandle, Samples};
use chat_proxy_actors::transcript::{Audience, Transcript};
use chat_proxy_core::registry::entry::Pricing;
use chat_proxy_core::telemetry::record::Record;

use super::stages;

fn audience() -> Result<Audience, String> {
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let directory = Directory::default();
    let settings = LogSettings {
        path: "/dev/null".into(),
        max_bytes: 1 << 30,
        max_files: 1,
        log_prompts: false,
    };
    let log = LogHandle::new(
        Live::new(settings),
        metrics.log.clone(),
        directory.port(|book| book.logger.clone()),
        directory.port(|book| book.logger.clone()),
    );
    let log = log.map_err(|error| error.to_string())?;
    Ok(Audience { log, metrics: MetricsHandle::new(metrics, Some(Samples::default())) })
}

fn story(audience: &Audience) -> Transcript {
    let id = "req-0123456789abcdef0123456789abcdef".to_owned();
    let mut story =
        Transcript::begin(audience.clone(), id, "127.0.0.1".to_owned(), "/v1/chat/completions");
    let record = story.record();
    record.stream = true;
    record.model_requested = Some("tiny-a".to_owned());
    record.model_logical = Some("tiny-a".to_owned());
    record.backend = Some("vllm".to_owned());
    record.model_backend_id = Some("served/tiny-a".to_owned());
    story.asked(
        b"{\"model\":\"tiny-a\",\"messages\":[{\"role\":\"user\",\"content\":\"And now?\"}]}",
    );
    story.priced(Some(Pricing { input_per_mtok: 1.0, output_per_mtok: 2.0 }));
    story
}

/// A stream of so many words, watched as the daemon watches it.
pub(crate) fn watched(words: usize, times: u32) -> Result<(), String> {
    let (wire, audience, mut out) = (stages::words(words), audience()?, Vec::new());
    for _ in 0..times {
        let mut story = story(&audience);
        let at_backend = story.at_backend();
        let mut stream = stages::usual();
        for piece in &wire {
            stream.push(piece, &mut out).map_err(|error| error.to_string())?;
            if stream.has_content() {
                story.first_content();
            }
            black_box(&out);
            out.clear();
        }
        stream.finish(&mut out).map_err(|error| error.to_string())?;
        let summary = stream.summary();
        story.tokens(summary.usage, summary.content_events);
        story.record().finish_reason.clone_from(&summary.finish_reason);
        drop(at_backend);
        story.whole(200);
    }
    Ok(())
}

/// What the log's thread does for each request.
pub(crate) fn line(times: u32) -> Result<(), String> {
    let record = Record {
        ts: "2026-11-25T10:00:00.000Z".to_owned(),
        request_id: "req-0123456789abcdef0123456789abcdef".to_owned(),
        client: "127.0.0.1".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        model_requested: Some("tiny-a".to_owned()),
        model_logical: Some("tiny-a".to_owned()),
        backend: Some("vllm".to_owned()),
        model_backend_id: Some("served/tiny-a".to_owned()),
        stream: true,
        status: 200,
        ttft_ms: Some(40),
        duration_ms: 1040,
        prompt_tokens: Some(13),
        completion_tokens: Some(64),
        tokens_per_second: Some(63.0),
        finish_reason: Some("stop".to_owned()),
        ..Record::default()
    };
    for _ in 0..times {
        let mut line = Vec::new();
        record.write_line(&mut line).map_err(|error| error.to_string())?;
        black_box(line);
    }
    Ok(())
}
