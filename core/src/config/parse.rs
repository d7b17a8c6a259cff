//! One value of one key: from TOML or from a variable's text, checked against its kind.
//!
//! Owns: what "expected …" says. Must never do: know where the value stood; callers add the place.

use config::{Map, Value, ValueKind};
use toml_edit::{Array, Item, TableLike};

use super::keys::{KeySpec, Kind};
use super::tables::{ApiKey, Service};

/// A value of the file. `Ok(None)`: an empty text for a key that may be unset.
pub(super) fn from_toml(spec: &KeySpec, item: &Item) -> Result<Option<ValueKind>, String> {
    if spec.may_be_unset() && item.as_str() == Some("") {
        return Ok(None);
    }
    let found = || format!("expected {}, found {}", expected(spec.kind), item.type_name());
    let kind = match spec.kind {
        Kind::Bool => item.as_bool().map(ValueKind::Boolean).ok_or_else(found)?,
        Kind::Int(low, high) => in_range(spec, low, high, item.as_integer().ok_or_else(found)?)?,
        Kind::Float(low, high) => {
            let number =
                item.as_float().or_else(|| item.as_integer().map(float)).ok_or_else(found)?;
            float_in_range(spec, low, high, number)?
        }
        Kind::Text => ValueKind::String(item.as_str().ok_or_else(found)?.to_owned()),
        Kind::Choice(words) => choice(words, item.as_str().ok_or_else(found)?)?,
        Kind::List => texts(item.as_array()).ok_or_else(found)?,
        Kind::Command => non_empty(texts(item.as_array()).ok_or_else(found)?)?,
        Kind::Map => text_map(item.as_table_like().ok_or_else(found)?).ok_or_else(found)?,
        Kind::ApiKeys => tables::<ApiKey>(item).ok_or_else(found)??,
        Kind::Services => services(item.as_table_like().ok_or_else(found)?)?,
    };
    Ok(Some(kind))
}

/// A variable's text. `Ok(None)`: empty, for a key that may be unset.
pub(super) fn from_env(spec: &KeySpec, text: &str) -> Result<Option<ValueKind>, String> {
    let text = text.trim();
    // An empty list is no list: `${KEYS:-}` in a compose file must not wipe out the file's keys.
    let is_list = matches!(spec.kind, Kind::List | Kind::ApiKeys | Kind::Map | Kind::Command);
    if (spec.may_be_unset() || is_list) && text.is_empty() {
        return Ok(None);
    }
    let found = || format!("expected {}, found {text:?}", expected(spec.kind));
    let kind = match spec.kind {
        Kind::Bool => ValueKind::Boolean(truth(text).ok_or_else(found)?),
        Kind::Int(low, high) => {
            let number = text.replace('_', "").parse().map_err(|_| found())?;
            in_range(spec, low, high, number)?
        }
        Kind::Float(low, high) => {
            let number = text.replace('_', "").parse().map_err(|_| found())?;
            float_in_range(spec, low, high, number)?
        }
        Kind::Text => ValueKind::String(text.to_owned()),
        Kind::Choice(words) => choice(words, text)?,
        Kind::List => ValueKind::Array(comma_list(text).map(Value::from).collect()),
        Kind::Command => {
            let words = shell_words::split(text).map_err(|e| format!("not a command line: {e}"))?;
            non_empty(ValueKind::Array(words.into_iter().map(Value::from).collect()))?
        }
        Kind::Map => env_map(text)?,
        Kind::ApiKeys => env_keys(text),
        Kind::Services => return Err("services are tables of the configuration file".to_owned()),
    };
    Ok(Some(kind))
}

/// What a value of this kind looks like, for messages and documentation.
pub(super) fn expected(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Int(low, high) => format!("a whole number from {low} to {high}"),
        Kind::Float(low, high) => format!("a number from {low} to {high}"),
        Kind::Text => "a text".into(),
        Kind::List => "a list of texts".into(),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::Command => "a list of texts: the program and its arguments".into(),
        Kind::Map => "a table of texts".into(),
        Kind::ApiKeys => {
            "a list of tables {name, key | key_sha256 | key_file | key_env, rights}".into()
        }
        Kind::Services => "a table of services".into(),
    }
}

#[allow(clippy::cast_precision_loss)] // settings are small numbers
fn float(number: i64) -> f64 {
    number as f64
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn in_range(spec: &KeySpec, low: i64, high: i64, number: i64) -> Result<ValueKind, String> {
    if (low..=high).contains(&number) {
        return Ok(ValueKind::I64(number));
    }
    Err(format!("expected {}, found {number}", expected(spec.kind)))
}

fn float_in_range(spec: &KeySpec, low: f64, high: f64, number: f64) -> Result<ValueKind, String> {
    if (low..=high).contains(&number) {
        return Ok(ValueKind::Float(number));
    }
    Err(format!("expected {}, found {number}", expected(spec.kind)))
}

fn choice(words: &[&str], text: &str) -> Result<ValueKind, String> {
    if words.contains(&text) {
        return Ok(ValueKind::String(text.to_owned()));
    }
    Err(format!("expected one of {}, found {text:?}", words.join(", ")))
}

fn non_empty(kind: ValueKind) -> Result<ValueKind, String> {
    match kind {
        ValueKind::Array(list) if list.is_empty() => {
            Err("expected at least the program".to_owned())
        }
        kind => Ok(kind),
    }
}

fn texts(array: Option<&Array>) -> Option<ValueKind> {
    let texts = array?.iter().map(|v| v.as_str().map(Value::from)).collect::<Option<_>>()?;
    Some(ValueKind::Array(texts))
}

fn text_map(table: &dyn TableLike) -> Option<ValueKind> {
    let pairs =
        table.iter().map(|(name, item)| Some((name.to_owned(), Value::from(item.as_str()?))));
    Some(ValueKind::Table(pairs.collect::<Option<Map<_, _>>>()?))
}

fn comma_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn env_map(text: &str) -> Result<ValueKind, String> {
    let mut map = Map::new();
    for part in comma_list(text) {
        let (name, value) =
            part.split_once('=').ok_or("expected NAME=value, separated by commas")?;
        map.insert(name.trim().to_owned(), Value::from(value.trim()));
    }
    Ok(ValueKind::Table(map))
}

/// `[admin:]KEY` each; they are named by their position, for a key itself must not be shown.
fn env_keys(text: &str) -> ValueKind {
    let keys = comma_list(text).enumerate().map(|(i, part)| {
        let (rights, key) = match part.strip_prefix("admin:") {
            Some(key) => (vec!["chat", "admin"], key),
            None => (vec!["chat"], part),
        };
        let rights: Vec<Value> = rights.into_iter().map(Value::from).collect();
        let table = Map::from_iter([
            ("name".to_owned(), Value::from(format!("env-{}", i + 1))),
            ("key".to_owned(), Value::from(key)),
            ("rights".to_owned(), Value::from(rights)),
        ]);
        Value::from(table)
    });
    ValueKind::Array(keys.collect())
}

/// A list of tables, inline or as `[[…]]`, each of which must be a `T`.
fn tables<T: for<'de> serde::Deserialize<'de>>(item: &Item) -> Option<Result<ValueKind, String>> {
    let tables: Vec<Value> = match item {
        Item::ArrayOfTables(list) => list.iter().map(|t| plain_table(t)).collect(),
        other => other
            .as_array()?
            .iter()
            .map(|v| v.as_inline_table().map(|t| plain_table(t)))
            .collect::<Option<_>>()?,
    };
    for table in &tables {
        if let Err(error) = table.clone().try_deserialize::<T>() {
            return Some(Err(error.to_string()));
        }
    }
    Some(Ok(ValueKind::Array(tables)))
}

fn services(table: &dyn TableLike) -> Result<ValueKind, String> {
    let mut map = Map::new();
    for (name, item) in table.iter() {
        let service =
            item.as_table_like().ok_or_else(|| format!("service {name}: expected a table"))?;
        let value = plain_table(service);
        value.clone().try_deserialize::<Service>().map_err(|e| format!("service {name}: {e}"))?;
        map.insert(name.to_owned(), value);
    }
    Ok(ValueKind::Table(map))
}

fn plain_table(table: &dyn TableLike) -> Value {
    let map: Map<String, Value> =
        table.iter().map(|(name, item)| (name.to_owned(), plain_item(item))).collect();
    Value::from(map)
}

fn plain_item(item: &Item) -> Value {
    match item {
        Item::Value(value) => plain_value(value),
        Item::Table(table) => plain_table(table),
        Item::ArrayOfTables(list) => {
            Value::from(list.iter().map(|t| plain_table(t)).collect::<Vec<_>>())
        }
        Item::None => Value::new(None, ValueKind::Nil),
    }
}

fn plain_value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as Toml;
    match value {
        Toml::String(text) => Value::from(text.value().as_str()),
        Toml::Integer(number) => Value::from(*number.value()),
        Toml::Float(number) => Value::from(*number.value()),
        Toml::Boolean(yes) => Value::from(*yes.value()),
        Toml::Datetime(time) => Value::from(time.value().to_string()),
        Toml::Array(list) => Value::from(list.iter().map(plain_value).collect::<Vec<_>>()),
        Toml::InlineTable(table) => plain_table(table),
    }
}
