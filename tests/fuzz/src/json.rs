//! JSON for laws: whether text is JSON at all, whether it says everything once, and equality.
//!
//! Owns: what "valid" and "the same" mean in every law. Must never do: use the core's own readers.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Whether it is JSON as RFC 8259 has it.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok() && std::str::from_utf8(text).is_ok()
}

/// JSON in which no object says a key twice: for laws on what it means.
pub(crate) fn strict(text: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Unique>(text).ok()?;
    serde_json::from_slice(text).ok()
}

/// Equal but for the last digits of fractions, which reading and writing may change.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || nearly(a.as_f64(), b.as_f64()),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.get(key).is_some_and(|value| same(a, value)))
        }
        _ => one == other,
    }
}

fn nearly(one: Option<f64>, other: Option<f64>) -> bool {
    one.zip(other).is_some_and(|(a, b)| (a - b).abs() <= a.abs() * 1e-12)
}

/// Any JSON without doubled keys.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        while seq.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some((key, Unique)) = map.next_entry::<String, Unique>()? {
            if !keys.insert(key) {
                return Err(serde::de::Error::custom("a doubled key"));
            }
        }
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn doubled_keys_are_valid_but_not_strict() {
        assert!(is_valid(br#"{"a":1,"a":"\ud800"}"#) && !is_valid(b"{\"a\":\"\xff\"}"));
        assert_eq!(strict(br#"[{"a":1,"\u0061":2}]"#), None);
        assert_eq!(strict(br#"{"a":[1,{"a":null}]}"#), Some(json!({"a": [1, {"a": null}]})));
        assert!(same(&json!([0.1, "a"]), &json!([0.1, "a"])) && !same(&json!(1), &json!(2)));
    }
}
