//! What an entry says of how its model is kept when nobody uses it (SPEC 6.6).
//!
//! Owns: reading it. Must never do: know what goes for entries that say nothing.

use std::time::Duration;

use serde_json::{Map, Value};

use super::truth::is_truthy;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keeping {
    /// `metadata.idle_unload_s`: stopped when it was not used for so long; zero: never.
    pub idle_unload: Option<Duration>,
    /// `metadata.pinned`: not stopped for being unused, nor for background work.
    pub pinned: bool,
}

impl Keeping {
    /// Reads it; the error says what is wrong.
    pub fn of(metadata: &Map<String, Value>) -> Result<Keeping, String> {
        let pinned = metadata.get("pinned").is_some_and(is_truthy);
        let Some(value) = metadata.get("idle_unload_s").filter(|value| !value.is_null()) else {
            return Ok(Keeping { idle_unload: None, pinned });
        };
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        let time = number.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let idle_unload = time.ok_or_else(|| {
            format!("`metadata.idle_unload_s` is {value}; use seconds, 0 for never")
        })?;
        Ok(Keeping { idle_unload: Some(idle_unload), pinned })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn seconds_and_pins_are_read_as_people_write_them() {
        let of = |metadata: Value| Keeping::of(metadata.as_object().unwrap());
        assert_eq!(of(json!({})), Ok(Keeping::default()));
        let minute = Some(Duration::from_secs(60));
        assert_eq!(
            of(json!({"idle_unload_s": 60, "pinned": true})),
            Ok(Keeping { idle_unload: minute, pinned: true })
        );
        assert_eq!(of(json!({"idle_unload_s": "60"})).unwrap().idle_unload, minute);
        assert_eq!(of(json!({"idle_unload_s": 0})).unwrap().idle_unload, Some(Duration::ZERO));
        for wrong in [json!("soon"), json!(-1), json!([])] {
            let error = of(json!({"idle_unload_s": wrong})).unwrap_err();
            assert!(error.contains("metadata.idle_unload_s"), "{error}");
        }
    }
}
