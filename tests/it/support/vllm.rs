//! Answers in the shape that vLLM 0.32 sends.

/// The head of a streamed answer.
pub const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 04:54:04 GMT\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\ntransfer-encoding: chunked\r\n\r\n";

/// An answer in one piece.
pub const WHOLE: &str = r#"{"id":"chatcmpl-b2213d6b124220fd","object":"chat.completion","created":1795409644,"model":"served/tiny-a","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! I am tiny-a, a tiny test model.","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-394d5b04","usage":{"prompt_tokens":13,"total_tokens":29,"completion_tokens":16,"prompt_tokens_details":null,"completion_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}"#;

/// A refusal of a parameter.
pub const BAD_TEMPERATURE: &str = r#"{"error":{"message":"temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)","type":"BadRequestError","param":"temperature","code":400}}"#;

pub const DONE: &str = "data: [DONE]\n\n";

const START: &str = r#"data: {"id":"chatcmpl-aa3aa76c5c33e3e8","object":"chat.completion.chunk","created":1795409645,"model":"served/tiny-a","choices":["#;

/// Any chunk: `choices` is what stands between the brackets, `more` what follows them.
pub fn chunk(choices: &str, more: &str) -> String {
    format!("{START}{choices}]{more}}}\n\n")
}

/// The chunk that begins choice `index`.
pub fn role(index: u32) -> String {
    chunk(
        &format!(
            r#"{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}"#
        ),
        r#","prompt_token_ids":null,"prompt_text":null"#,
    )
}

/// A piece of text of choice `index`.
pub fn word(index: u32, text: &str) -> String {
    let text = serde_json::Value::from(text);
    chunk(
        &format!(
            r#"{{"index":{index},"delta":{{"content":{text}}},"logprobs":null,"finish_reason":null,"token_ids":null}}"#
        ),
        "",
    )
}

/// The end of choice `index`.
pub fn finish(index: u32) -> String {
    chunk(
        &format!(
            r#"{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}}"#
        ),
        "",
    )
}

/// The usage chunk.
pub fn usage(prompt: u64, completion: u64) -> String {
    let total = prompt + completion;
    chunk(
        "",
        &format!(
            r#","usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion}}},"system_fingerprint":"vllm-0.32.0-394d5b04""#
        ),
    )
}

/// A whole stream: role, words, finish, usage, `[DONE]`.
pub fn stream(words: &[&str]) -> Vec<String> {
    let mut events = vec![role(0)];
    events.extend(words.iter().map(|text| word(0, text)));
    events.extend([finish(0), usage(13, words.len() as u64), DONE.to_owned()]);
    events
}

/// What of [`stream`] a client gets that did not ask for usage.
pub fn for_client(events: &[String]) -> Vec<String> {
    events.iter().filter(|event| !event.contains(r#""choices":[],"usage""#)).cloned().collect()
}

/// A request's body.
pub fn ask(stream: bool) -> String {
    format!(
        r#"{{"model": "tiny-a", "messages": [{{"role": "user", "content": "hello"}}], "temperature": 0, "stream": {stream}}}"#
    )
}
