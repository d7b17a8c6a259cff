//! One connection of the fake engine: reads requests, writes answers, and watches for the end of
//! input *while* it writes or waits. It must never leave a departure unnoticed until its next write.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, Interval, interval_at};

use super::Engine;
use super::ask::{Ask, Hang};
use super::wire::{json_answer, models_body};
use crate::Fault;

const READ: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

/// A request that has been read whole.
struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

/// Serves one connection to its end.
pub(super) async fn serve(mut stream: TcpStream, engine: &Engine) -> Result<(), Fault> {
    let (mut input, mut output) = stream.split();
    let mut buffer = Vec::with_capacity(READ);
    while let Some(request) = next(&mut input, &mut buffer).await? {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", path) if path.ends_with("/chat/completions") => {
                chat(&request.body, &mut input, &mut output, &mut buffer, engine).await?;
            }
            (_, path) => output.write_all(&side_answer(path, engine)).await?,
        }
    }
    Ok(())
}

/// The next request, or `None` at a clean end between two.
async fn next(input: &mut ReadHalf<'_>, buffer: &mut Vec<u8>) -> Result<Option<Request>, Fault> {
    loop {
        if let Some((request, used)) = parse(buffer)? {
            buffer.drain(..used);
            return Ok(Some(request));
        }
        if input.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err("cut request".into()) };
        }
    }
}

fn parse(buffer: &[u8]) -> Result<Option<(Request, usize)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(buffer)? else {
        return Ok(None);
    };
    let mut length = 0;
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = std::str::from_utf8(header.value)?.trim().parse()?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("the fake engine reads bodies with a Content-Length only".into());
        }
    }
    if buffer.len() < start + length {
        return Ok(None);
    }
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: head.path.unwrap_or_default().to_owned(),
        body: buffer[start..start + length].to_vec(),
    };
    Ok(Some((request, start + length)))
}

fn side_answer(path: &str, engine: &Engine) -> Vec<u8> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match path {
        "/health" => json_answer("200 OK", ""),
        "/v1/models" => json_answer("200 OK", &models_body().to_string()),
        "/bench/departures" => {
            json_answer("200 OK", &engine.ledger.render(query.strip_prefix("id=")).to_string())
        }
        "/bench/present" => json_answer(
            "200 OK",
            &serde_json::json!({"chats": engine.ledger.present()}).to_string(),
        ),
        _ => json_answer("404 Not Found", r#"{"detail":"Not Found"}"#),
    }
}

/// Answers one chat, unless the peer leaves first.
async fn chat(
    body: &[u8],
    input: &mut ReadHalf<'_>,
    output: &mut WriteHalf<'_>,
    buffer: &mut Vec<u8>,
    engine: &Engine,
) -> Result<(), Fault> {
    let ask = match Ask::parse(body) {
        Ok(ask) => ask,
        Err(fault) => {
            let body = serde_json::json!({"error": {"message": fault.to_string(), "code": 400}});
            output.write_all(&json_answer("400 Bad Request", &body.to_string())).await?;
            return Ok(());
        }
    };
    let id = ask.id.as_deref();
    let _presence = engine.ledger.presence();
    id.inspect(|id| engine.ledger.arrived(id));
    let outcome = tokio::select! {
        biased;
        () = gone(input, buffer) => Err("the client left".into()),
        outcome = answer(output, &ask, engine) => outcome,
    };
    if outcome.is_err() {
        id.inspect(|id| engine.ledger.departed(id));
    }
    outcome
}

/// Ends when the peer has closed or reset; keeps what it sends ahead of time.
async fn gone(input: &mut ReadHalf<'_>, buffer: &mut Vec<u8>) {
    while matches!(input.read_buf(buffer).await, Ok(more) if more > 0) {}
}

async fn answer(output: &mut WriteHalf<'_>, ask: &Ask, engine: &Engine) -> Result<(), Fault> {
    if ask.hang == Some(Hang::BeforeHead) {
        return std::future::pending().await;
    }
    if !ask.stream {
        output.write_all(&engine.wire.unary).await?;
        return Ok(());
    }
    output.write_all(&engine.wire.stream_head).await?;
    output.write_all(&engine.wire.role).await?;
    if ask.hang == Some(Hang::AfterFirst) {
        output.write_all(engine.wire.contents(1)).await?;
        return std::future::pending().await;
    }
    contents(output, ask, engine).await?;
    output.write_all(engine.wire.end(ask.usage)).await?;
    Ok(())
}

async fn contents(output: &mut WriteHalf<'_>, ask: &Ask, engine: &Engine) -> Result<(), Fault> {
    let mut left = ask.events;
    let mut pace = pace(Duration::from_micros(ask.delay_us));
    while left > 0 {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let now = left.min(ask.per_write);
        output.write_all(engine.wire.contents(now)).await?;
        left -= now;
    }
    Ok(())
}

/// Ticks at fixed moments, the first one period from now: a late write does not push the later ones
/// back, so the engine is no source of drift. After a stall it catches up without pausing.
fn pace(period: Duration) -> Option<Interval> {
    (period > Duration::ZERO).then(|| interval_at(Instant::now() + period, period))
}
