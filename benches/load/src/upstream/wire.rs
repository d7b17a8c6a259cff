//! What the fake engine says, rendered once in vLLM's wire shape. It must never know who asked.

use serde_json::{Value, json};

/// The most events that go into one write.
pub(crate) const MOST_PER_WRITE: usize = 64;
/// The text of every content event; the generator counts it.
pub(crate) const TOKEN: &str = " tok";
/// The text of a unary answer; the generator looks for it.
pub(crate) const ANSWER: &str = "Hello! I am bench, a fast fake engine.";

const HEAD_UNARY: &str = "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 04:54:04 GMT\r\nserver: uvicorn\r\n\
     content-type: application/json\r\nvary: Origin\r\n";
const HEAD_STREAM: &str = "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 04:54:04 GMT\r\nserver: uvicorn\r\n\
     content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\n\
     transfer-encoding: chunked\r\n\r\n";
const TAIL: &str = r#""service_tier":null,"system_fingerprint":"vllm-0.32.0-394d5b04","usage":{"prompt_tokens":13,"total_tokens":29,"completion_tokens":16,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;

/// Every byte sequence that an answer is put together from.
pub(crate) struct Wire {
    /// A whole unary answer, head and body.
    pub(crate) unary: Vec<u8>,
    /// The head of a stream.
    pub(crate) stream_head: Vec<u8>,
    /// The first event: the assistant's role.
    pub(crate) role: Vec<u8>,
    /// The last events, the usage among them or not, and the end of the body.
    end_plain: Vec<u8>,
    end_usage: Vec<u8>,
    contents: Vec<u8>,
    one: usize,
}

impl Wire {
    /// Renders everything.
    pub(crate) fn render() -> Self {
        let content = chunk(&event(
            &format!(
                r#"[{{"index":0,"delta":{{"content":"{TOKEN}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}]"#
            ),
            "",
        ));
        let finish = chunk(&event(
            r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]"#,
            "",
        ));
        let usage = chunk(&event(
            "[]",
            r#","usage":{"prompt_tokens":13,"total_tokens":29,"completion_tokens":16},"system_fingerprint":"vllm-0.32.0-394d5b04""#,
        ));
        let done = [chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat();
        Self {
            unary: json_answer("200 OK", &unary_body()),
            stream_head: HEAD_STREAM.into(),
            role: chunk(&event(
                r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#,
                r#","prompt_token_ids":null,"prompt_text":null"#,
            )),
            end_plain: [finish.as_slice(), &done].concat(),
            end_usage: [finish.as_slice(), &usage, &done].concat(),
            one: content.len(),
            contents: content.repeat(MOST_PER_WRITE),
        }
    }

    /// `count` content events, each in its own HTTP chunk, as one slice.
    pub(crate) fn contents(&self, count: usize) -> &[u8] {
        &self.contents[..self.one * count.min(MOST_PER_WRITE)]
    }

    /// What ends a stream.
    pub(crate) fn end(&self, with_usage: bool) -> &[u8] {
        if with_usage { &self.end_usage } else { &self.end_plain }
    }
}

/// A small answer with a JSON body, head and all.
pub(crate) fn json_answer(status: &str, body: &str) -> Vec<u8> {
    let head = HEAD_UNARY.replacen("200 OK", status, 1);
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The body of `GET /v1/models`.
pub(crate) fn models_body() -> Value {
    json!({"object": "list", "data": [{"id": "bench", "object": "model", "created": 1_795_409_644,
        "owned_by": "vllm", "root": "bench", "parent": null, "max_model_len": 4096}]})
}

fn unary_body() -> String {
    format!(
        r#"{{"id":"chatcmpl-b2213d6b124220fd","object":"chat.completion","created":1795409644,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{ANSWER}","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null}}],{TAIL}"#
    )
}

fn event(choices: &str, rest: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-aa3aa76c5c33e3e8\",\"object\":\"chat.completion.chunk\",\
         \"created\":1795409645,\"model\":\"bench\",\"choices\":{choices}{rest}}}\n\n"
    )
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_json_of_the_size_that_vllm_sends() -> Result<(), crate::Fault> {
        let wire = Wire::render();
        let text = std::str::from_utf8(wire.contents(1))?;
        let json = text.split("data: ").nth(1).unwrap_or_default();
        let value: Value = serde_json::from_str(json.trim())?;
        assert_eq!(value["choices"][0]["delta"]["content"], TOKEN);
        assert!((205..=230).contains(&text.len()), "{} bytes", text.len());
        assert!((650..=760).contains(&unary_body().len()), "{} bytes", unary_body().len());
        assert_eq!(wire.contents(3).len(), 3 * text.len());
        serde_json::from_str::<Value>(&unary_body())?;
        Ok(())
    }

    #[test]
    fn only_a_stream_that_asked_for_usage_has_it() {
        let wire = Wire::render();
        assert!(String::from_utf8_lossy(wire.end(true)).contains("total_tokens"));
        assert!(!String::from_utf8_lossy(wire.end(false)).contains("total_tokens"));
        assert!(wire.end(false).ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"));
    }
}
