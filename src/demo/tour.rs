//! The tour: real requests to the daemon, what came back, and what it means.
//!
//! Owns: the steps and their words. Must never do: show what it has not seen, or go on after a step
//! that did not show what it should.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use awc::{Client, ClientResponse};
use chat_proxy_core::chat::sse::{Found, Payload, Splitter};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Files, TourError, failed};
use crate::serve::Ready;
use crate::terminal::say;

/// No step of the tour takes longer on any machine.
const STEP: Duration = Duration::from_secs(30);

struct Tour<'a> {
    client: Client,
    addr: SocketAddr,
    files: &'a Files,
    out: io::Stdout,
}

/// Shows everything, or says at which step it failed.
pub(super) async fn tour(ready: &Ready, files: &Files, once: bool) -> Result<(), TourError> {
    let addr = *ready.addrs.first().ok_or_else(|| failed("start", "no address"))?;
    let client = Client::builder().timeout(STEP).finish();
    let mut tour = Tour { client, addr, files, out: io::stdout() };
    tour.say(
        "\nThe chat proxy runs. Two models need an engine of their own on the GPU's one port; the",
    );
    tour.say(
        "proxy starts and stops it (here a simulation of vLLM, with vLLM's tree of processes). One",
    );
    tour.say("is at Ollama, which shares that GPU. One is served by a program that runs already.");
    tour.step(1, "Which models are there?  GET /v1/models");
    tour.models().await?;
    tour.step(2, "A streamed chat with Tiny A. No engine runs yet, so the proxy starts one");
    tour.streamed("Tiny A", "Hello! I am tiny-a, a tiny test model.").await?;
    let first = tour.engine("tiny-a").await?;
    tour.step(3, "Tiny A once more, in one piece: its engine is there, so this is quick");
    tour.unary("first", "Hello! I am tiny-a, a tiny test model.").await?;
    tour.step(4, "A swap: Tiny B needs the port, so Tiny A's engine is stopped first");
    tour.streamed("second", "Hello! I am tiny-b, a tiny test model.").await?;
    let second = tour.engine("tiny-b").await?;
    tour.old_engine_is_gone(first, second)?;
    tour.step(5, "Tiny C is served elsewhere: nothing is swapped for it");
    tour.unary("Tiny C", "Hello! I am tiny-c, a tiny test model.").await?;
    tour.same_engine(second).await?;
    tour.step(
        6,
        "Tiny O is at Ollama: the engine goes first, then Ollama loads. Same API, other wire",
    );
    tour.streamed("Tiny O", "Hello! I am tiny-o, a tiny test model.").await?;
    tour.ollama(Some("tiny-o:latest")).await?;
    tour.step(7, "And back: Ollama gives the GPU back, and says so, before Tiny A's engine starts");
    tour.streamed("Tiny A", "Hello! I am tiny-a, a tiny test model.").await?;
    tour.ollama(None).await?;
    tour.engine("tiny-a").await?;
    tour.step(8, "A model that does not exist: the error says what to do");
    tour.unknown().await?;
    tour.step(9, "What the request log says about it all");
    tour.log_lines(7).await?;
    tour.step(10, "And the figures.  GET /v1/metrics, GET /metrics");
    tour.metrics().await?;
    if !once {
        tour.try_next();
    }
    tour.say("\nThe tour went well.");
    Ok(())
}

impl Tour<'_> {
    fn say(&mut self, line: &str) {
        say(&mut self.out, line);
    }

    fn step(&mut self, number: u32, what: &str) {
        self.say(&format!("\n{number}. {what}"));
    }

    async fn get(&self, path: &'static str) -> Result<Value, TourError> {
        let url = format!("http://{}{path}", self.addr);
        let mut response = self.client.get(url).send().await.map_err(|e| failed(path, e))?;
        response.json().await.map_err(|e| failed(path, e))
    }

    async fn models(&mut self) -> Result<(), TourError> {
        let list = self.get("/v1/models").await?;
        let ids: Vec<&str> = list["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| m["id"].as_str())
            .collect();
        self.say(&format!("   {}", ids.join(", ")));
        if ids == ["Tiny A", "Tiny B", "Tiny C", "Tiny O"] {
            Ok(())
        } else {
            Err(failed("GET /v1/models", format!("got {ids:?}")))
        }
    }

    async fn chat(&self, what: &'static str, body: &Value) -> Result<ClientResponse, TourError> {
        let url = format!("http://{}/v1/chat/completions", self.addr);
        self.client.post(url).send_json(body).await.map_err(|e| failed(what, e))
    }

    /// Shows heartbeats and tokens as they come.
    async fn streamed(&mut self, model: &str, want: &str) -> Result<(), TourError> {
        let what = "streamed chat";
        let body = json!({
            "model": model, "stream": true, "messages": [{"role": "user", "content": "hello"}],
            "sim": {"delay_token_ms": super::TOKEN_MS}
        });
        let began = Instant::now();
        let mut response = self.chat(what, &body).await?;
        let mut seen = Seen::default();
        while let Some(chunk) = response.next().await {
            let chunk = chunk.map_err(|e| failed(what, e))?;
            seen.take(&chunk, began, &mut self.out).map_err(|e| failed(what, e))?;
        }
        let (first, all) = (seen.first.unwrap_or_default(), began.elapsed());
        self.say(&format!(
            "\n   (first token after {} ms, all of it after {} ms)",
            first.as_millis(),
            all.as_millis()
        ));
        if seen.done && seen.text == want {
            return Ok(());
        }
        Err(failed(what, format!("got {:?}, done: {}", seen.text, seen.done)))
    }

    async fn unary(&mut self, model: &str, want: &str) -> Result<(), TourError> {
        let what = "chat in one piece";
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
        let began = Instant::now();
        let mut response = self.chat(what, &body).await?;
        let answer: Value = response.json().await.map_err(|e| failed(what, e))?;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        self.say(&format!("   {text}"));
        let took = began.elapsed().as_millis();
        self.say(&format!("   (after {took} ms; usage: {})", answer["usage"]));
        if text == want { Ok(()) } else { Err(failed(what, answer)) }
    }

    /// The running engine's pid, as `GET /v1/backends` tells it.
    async fn engine(&mut self, model: &str) -> Result<i64, TourError> {
        let what = "GET /v1/backends";
        let shown = self.get("/v1/backends").await?;
        let engine = &shown["backends"][0];
        self.say(&format!(
            "   engine: {} is {}, pid {}, port {}",
            engine["model"], engine["state"], engine["pid"], engine["port"]
        ));
        let right = engine["model"] == model && engine["state"] == "ready";
        engine["pid"].as_i64().filter(|_| right).ok_or_else(|| failed(what, shown))
    }

    /// What Ollama has loaded, as `GET /v1/backends` tells it.
    async fn ollama(&mut self, loaded: Option<&str>) -> Result<(), TourError> {
        let what = "GET /v1/backends";
        let shown = self.get("/v1/backends").await?;
        let mut backends = shown["backends"].as_array().into_iter().flatten();
        let line = backends.find(|line| line["kind"] == "ollama");
        let line = line.ok_or_else(|| failed(what, &shown))?.clone();
        self.say(&format!(
            "   ollama: has loaded {}; resident: {}",
            line["models"], shown["resident"]
        ));
        let vllm = shown["backends"][0]["state"].clone();
        let alone = loaded.is_none() || vllm == "stopped";
        if alone && line["model"] == json!(loaded) { Ok(()) } else { Err(failed(what, shown)) }
    }

    fn old_engine_is_gone(&mut self, first: i64, second: i64) -> Result<(), TourError> {
        let gone = !Path::new(&format!("/proc/{first}")).exists();
        if gone && first != second {
            self.say(&format!("   pid {first} is gone: one engine at a time"));
            return Ok(());
        }
        Err(failed("swap", format!("pid {first} still lives beside pid {second}")))
    }

    async fn same_engine(&mut self, pid: i64) -> Result<(), TourError> {
        let now = self.engine("tiny-b").await?;
        if now == pid { Ok(()) } else { Err(failed("relay", "the engine was changed")) }
    }

    async fn unknown(&mut self) -> Result<(), TourError> {
        let what = "unknown model";
        let body = json!({"model": "tiny-d", "messages": [{"role": "user", "content": "hello"}]});
        let mut response = self.chat(what, &body).await?;
        let status = response.status().as_u16();
        let answer: Value = response.json().await.map_err(|e| failed(what, e))?;
        let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
        self.say(&format!(
            "   HTTP {status} {}: {} ({})",
            text("code"),
            text("message"),
            text("hint")
        ));
        let expected = status == 404
            && text("code") == "err_model_not_found"
            && text("hint").contains("Tiny A");
        if expected { Ok(()) } else { Err(failed(what, answer)) }
    }

    /// The log writer runs beside the requests: its lines are waited for.
    async fn log_lines(&mut self, count: usize) -> Result<(), TourError> {
        let what = "request log";
        let deadline = Instant::now() + STEP;
        let text = loop {
            let text = std::fs::read_to_string(&self.files.log).unwrap_or_default();
            if text.lines().count() >= count {
                break text;
            }
            if Instant::now() > deadline {
                let found = text.lines().count();
                return Err(failed(what, format!("{found} lines instead of {count}")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).map_err(|e| failed(what, e))?;
            let fields = [
                "model_logical",
                "stream",
                "status",
                "activate_ms",
                "ttft_ms",
                "duration_ms",
                "completion_tokens",
            ];
            let shown: Vec<String> = fields.iter().map(|f| format!("{f}={}", record[*f])).collect();
            self.say(&format!("   {}", shown.join(" ")));
        }
        Ok(())
    }

    async fn metrics(&mut self) -> Result<(), TourError> {
        let what = "GET /v1/metrics";
        let summary = self.get("/v1/metrics").await?;
        let rolling = &summary["rolling"];
        self.say(&format!(
            "   {} requests, half of them with their first token within {} ms; {} swaps; active: {}",
            rolling["count"],
            rolling["p50_ttft_ms"],
            summary["swaps"]["total"],
            summary["active_model"]
        ));
        if summary["swaps"]["total"] != 4 || summary["active_model"] != "tiny-a" {
            return Err(failed(what, summary));
        }
        self.prometheus().await
    }

    async fn prometheus(&mut self) -> Result<(), TourError> {
        let what = "GET /metrics";
        let url = format!("http://{}/metrics", self.addr);
        let mut response = self.client.get(url).send().await.map_err(|e| failed(what, e))?;
        let body = response.body().await.map_err(|e| failed(what, e))?;
        let text = String::from_utf8_lossy(&body);
        let mut shown = 0;
        for name in ["imageworks_proxy_swaps_total{", "imageworks_proxy_requests_total{"] {
            for line in text.lines().filter(|line| line.starts_with(name)) {
                self.say(&format!("   {line}"));
                shown += 1;
            }
        }
        if shown >= 4 { Ok(()) } else { Err(failed(what, text)) }
    }

    fn try_next(&mut self) {
        let addr = self.addr;
        self.say("\nIt stays up until Ctrl-C. Try:\n");
        self.say(&format!("  curl http://{addr}/v1/models"));
        for (model, stream) in [("Tiny A", "true"), ("Tiny O", "false")] {
            self.say(&format!(
                "  curl -N http://{addr}/v1/chat/completions -H 'content-type: application/json' \\\n    \
                 -d '{{\"model\": \"{model}\", \"stream\": {stream}, \"messages\": [{{\"role\": \"user\", \"content\": \"count\"}}]}}'"
            ));
        }
        self.say(&format!("  curl http://{addr}/v1/backends"));
        self.say(&format!("  curl -X POST http://{addr}/v1/backends/vllm/deactivate"));
        self.say(&format!("  tail -f {}", self.files.log.display()));
    }
}

/// What a stream has shown so far.
#[derive(Default)]
struct Seen {
    splitter: Splitter,
    text: String,
    first: Option<Duration>,
    done: bool,
}

impl Seen {
    fn take(
        &mut self,
        chunk: &bytes::Bytes,
        began: Instant,
        out: &mut dyn Write,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if chunk.starts_with(b": waiting") {
            let comment = String::from_utf8_lossy(chunk);
            let after = began.elapsed().as_millis();
            writeln!(out, "   {:>5} ms  {}", after, comment.trim())?;
        }
        let mut at = 0;
        while let Some(found) = self.splitter.next(chunk, &mut at)? {
            let event = match found {
                Found::InPlace(place) => chunk.slice(place),
                Found::Joined(event) => event,
            };
            let payload = Payload::of(&event);
            let data = payload.data(&event);
            self.done |= data == b"[DONE]";
            let value: Value = serde_json::from_slice(data).unwrap_or_default();
            if let Some(piece) = value["choices"][0]["delta"]["content"].as_str() {
                if self.first.is_none() && !piece.is_empty() {
                    self.first = Some(began.elapsed());
                    write!(out, "   {:>5} ms  ", began.elapsed().as_millis())?;
                }
                self.text.push_str(piece);
                write!(out, "{piece}")?;
                out.flush()?;
            }
        }
        Ok(())
    }
}
