//! What one request asks of the fake engine. It must never write or wait.

use serde_json::Value;

use super::wire::MOST_PER_WRITE;
use crate::Fault;

/// Where an answer stops for good, so that somebody can leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hang {
    /// Nothing is ever sent. Also what `"unary"` means: a computation that goes on.
    BeforeHead,
    /// The head, the role and one content event, then silence.
    AfterFirst,
}

/// One chat request, as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Answer in events.
    pub(crate) stream: bool,
    /// Send the usage event.
    pub(crate) usage: bool,
    /// How many content events.
    pub(crate) events: usize,
    /// How many of them go into one write.
    pub(crate) per_write: usize,
    /// The pace of the writes of content: one each time this is over, counted from the start of the
    /// answer (the runtime rounds each moment up to a whole millisecond).
    pub(crate) delay_us: u64,
    /// Where to stop for good.
    pub(crate) hang: Option<Hang>,
    /// The name under which arrival and departure are noted; none, none noted.
    pub(crate) id: Option<String>,
}

impl Ask {
    /// Reads a chat body: the usual fields and the harness's own, `"bench"`, which may also stand as
    /// text in `"user"`, because some peers drop what they do not know.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let value: Value = serde_json::from_slice(body)?;
        let in_user = value["user"].as_str().map(serde_json::from_str).transpose()?;
        let bench = in_user.as_ref().unwrap_or(&value["bench"]);
        let number = |key: &str, default: u64| bench[key].as_u64().unwrap_or(default);
        Ok(Self {
            stream: value["stream"].as_bool().unwrap_or(false),
            usage: value["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            events: usize::try_from(number("events", 16))?,
            per_write: usize::try_from(number("per_write", 1))?.clamp(1, MOST_PER_WRITE),
            delay_us: number("delay_us", 0),
            hang: hang(&bench["hang"])?,
            id: bench["id"].as_str().map(str::to_owned),
        })
    }
}

fn hang(value: &Value) -> Result<Option<Hang>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::String(name) if name == "before_head" || name == "unary" => {
            Ok(Some(Hang::BeforeHead))
        }
        Value::String(name) if name == "after_first" => Ok(Some(Hang::AfterFirst)),
        other => {
            Err(format!("bench.hang is {other}, not before_head, after_first or unary").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_read_and_clamped() -> Result<(), Fault> {
        let ask = Ask::parse(
            br#"{"stream":true,"stream_options":{"include_usage":true},
                 "bench":{"events":7,"per_write":9999,"delay_us":5,"hang":"after_first","id":"x"}}"#,
        )?;
        assert!(ask.stream && ask.usage);
        assert_eq!((ask.events, ask.per_write, ask.delay_us), (7, MOST_PER_WRITE, 5));
        assert_eq!((ask.hang, ask.id.as_deref()), (Some(Hang::AfterFirst), Some("x")));
        assert_eq!(Ask::parse(b"{}")?.hang, None);
        assert_eq!(Ask::parse(br#"{"bench":{"hang":"unary"}}"#)?.hang, Some(Hang::BeforeHead));
        assert!(Ask::parse(br#"{"bench":{"hang":"sometimes"}}"#).is_err());
        assert!(Ask::parse(b"{").is_err());
        Ok(())
    }
}
