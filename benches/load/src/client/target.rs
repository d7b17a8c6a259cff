//! Where requests go and how they are worded there: every peer gets the same chat, but not all of
//! them pass a field on that they do not know. It must never read an answer.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// An address that is asked, and its manners.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// It drops unknown fields, so the harness's knobs travel as text in `user`.
    pub(crate) knobs_in_user: bool,
    /// Further headers that it needs, each with its line end.
    pub(crate) headers: String,
}

impl Target {
    /// One that passes everything on.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, knobs_in_user: false, headers: String::new() }
    }

    /// A chat request with the harness's knobs.
    pub(crate) fn chat(&self, stream: bool, bench: &Value) -> Vec<u8> {
        let mut body = json!({
            "model": "bench",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
                {"role": "user", "content": "hello, who are you, and what can you do for me today?"},
            ],
            "temperature": 0,
            "stream": stream,
        });
        if self.knobs_in_user {
            body["user"] = bench.to_string().into();
        } else {
            body["bench"] = bench.clone();
        }
        let (body, Self { address, headers, .. }) = (body.to_string(), self);
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\n\
             content-type: application/json\r\naccept: */*\r\nauthorization: Bearer bench\r\n\
             {headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// A GET request.
    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        let Self { address, headers, .. } = self;
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\n{headers}\r\n")
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;
    use crate::upstream::ask::Ask;

    #[test]
    fn the_engine_reads_the_knobs_wherever_they_travel() -> Result<(), Fault> {
        let mut target = Target::plain("127.0.0.1:1".parse()?);
        for knobs_in_user in [false, true] {
            target.knobs_in_user = knobs_in_user;
            let request = target.chat(true, &json!({"events": 9}));
            let text = String::from_utf8(request)?;
            let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
            assert_eq!(Ask::parse(body.as_bytes())?.events, 9);
        }
        Ok(())
    }

    #[test]
    fn further_headers_stand_among_the_others() -> Result<(), Fault> {
        let mut target = Target::plain("127.0.0.1:1".parse()?);
        target.headers = "x-a: b\r\n".to_owned();
        assert!(String::from_utf8(target.get("/"))?.ends_with("accept: */*\r\nx-a: b\r\n\r\n"));
        assert!(
            String::from_utf8(target.chat(false, &json!({})))?
                .contains("\r\nx-a: b\r\ncontent-length")
        );
        Ok(())
    }
}
