//! Owns how long a model stays when nobody uses it, and how requests write that.
//!
//! Must never measure time.

use std::time::Duration;

use serde_json::Value;

/// How long a model stays behind its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// So long; zero is not at all.
    For(Duration),
    /// Until it is told to go.
    Forever,
}

impl Keep {
    /// What is told of "for ever": the longest time that a duration of Go can have.
    pub(super) const FOREVER: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

    /// The time, as far as it can be told.
    pub(super) fn time(self) -> Duration {
        match self {
            Self::For(time) => time,
            Self::Forever => Self::FOREVER,
        }
    }

    /// Reads a request's `keep_alive`, or says what Ollama says against it.
    pub(super) fn read(value: &Value) -> Result<Option<Self>, String> {
        let seconds = match value {
            Value::Null => return Ok(None),
            Value::Number(number) => number.as_f64().unwrap_or_default(),
            Value::String(text) => go_duration(text)?,
            Value::Bool(_) => return Err("Unsupported type: 'bool'".to_owned()),
            Value::Array(_) => return Err("Unsupported type: '[]interface {}'".to_owned()),
            Value::Object(_) => {
                return Err("Unsupported type: 'map[string]interface {}'".to_owned());
            }
        };
        if seconds < 0.0 {
            return Ok(Some(Self::Forever));
        }
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Self::FOREVER);
        Ok(Some(Self::For(time.min(Self::FOREVER))))
    }
}

/// The seconds of a duration as Go writes it: `1h30m`, `-1s`, `300ms`, `0`.
fn go_duration(text: &str) -> Result<f64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let scale =
            scale(unit).ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"));
        seconds += number * scale?;
        rest = behind;
    }
    Ok(sign * seconds)
}

fn scale(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ms(value: &Value) -> Option<u128> {
        match Keep::read(value) {
            Ok(Some(Keep::For(time))) => Some(time.as_millis()),
            _ => None,
        }
    }

    #[test]
    fn numbers_are_seconds_and_words_are_durations_of_go() {
        assert_eq!(ms(&json!(0)), Some(0));
        assert_eq!(ms(&json!(60)), Some(60_000));
        assert_eq!(ms(&json!(0.5)), Some(500));
        assert_eq!(ms(&json!("10m")), Some(600_000));
        assert_eq!(ms(&json!("300ms")), Some(300));
        assert_eq!(ms(&json!("1h1m1.5s")), Some(3_661_500));
        assert_eq!(ms(&json!("0")), Some(0));
        assert_eq!(Keep::read(&json!(null)), Ok(None));
    }

    #[test]
    fn what_is_negative_is_for_ever() {
        for value in [json!(-1), json!("-1s"), json!("-1ms"), json!(-0.5)] {
            assert_eq!(Keep::read(&value), Ok(Some(Keep::Forever)));
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_the_words_of_go() {
        for (value, told) in [
            (json!("60"), "time: missing unit in duration \"60\""),
            (json!("1q"), "time: unknown unit \"q\" in duration \"1q\""),
            (json!("soon"), "time: invalid duration \"soon\""),
            (json!(""), "time: invalid duration \"\""),
            (json!(true), "Unsupported type: 'bool'"),
        ] {
            assert_eq!(Keep::read(&value).unwrap_err(), told);
        }
    }
}
