//! Changing keys in the text of a settings file, and nothing else in it (SPEC 3.3).
//!
//! Owns: where in the file a key stands or is to stand. Must never do: touch a comment, an order or a
//! key that nobody asked about.

use toml_edit::{Document, DocumentMut, Item, Table, TableLike, Value};

use super::Problem;
use super::changes::Changes;
use super::keys::KeySpec;
use super::load::{line_of, place_key};

/// The text with these keys changed. Values keep what stands around them; a key that is taken out takes
/// its own line along; a new one stands at the end of its section, a new section at the end of the file.
/// `Err`: the text is no TOML; `path` names it in the message.
pub fn edit(path: &str, text: &str, changes: &Changes) -> Result<String, Problem> {
    // The editor writes line feeds alone; files of other systems get theirs back.
    let foreign = text.contains("\r\n");
    let mut text = text.replace("\r\n", "\n");
    for (spec, item) in &changes.keys {
        text = edit_one(path, &text, spec, item.as_ref())?;
    }
    Ok(if foreign { text.replace('\n', "\r\n") } else { text })
}

fn edit_one(path: &str, text: &str, spec: &KeySpec, new: Option<&Item>) -> Result<String, Problem> {
    let broken = |error: &toml_edit::TomlError| {
        let place = format!("{path}:{}", line_of(text, error.span()));
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        Problem { place, message: format!("not TOML: {message}; mend the file first") }
    };
    let read = Document::parse(text).map_err(|error| broken(&error))?;
    let place = find(&read, spec);
    if let (None, Some((section, name))) = (new, &place)
        && let Some(shorter) = without_lines(text, &read, section, name)
    {
        return Ok(shorter);
    }
    let mut document: DocumentMut = text.parse().map_err(|error| broken(&error))?;
    match (place, new) {
        (None, None) => {}
        (Some((section, name)), None) => {
            if let Some(table) = section_of(&mut document, &section) {
                table.remove(&name);
            }
        }
        (Some((section, name)), Some(new)) => {
            if let Some(old) =
                section_of(&mut document, &section).and_then(|table| table.get_mut(&name))
            {
                replace(old, new);
            }
        }
        (None, Some(new)) => insert(&mut document, spec, new),
    }
    Ok(document.to_string())
}

/// Section and name of a key as the file has them: perhaps an older name, in an older section.
fn find(document: &Document<&str>, spec: &KeySpec) -> Option<(String, String)> {
    document.iter().find_map(|(section, item)| {
        let mut keys = item.as_table_like()?.iter();
        keys.find(|(name, _)| place_key(section, name).is_ok_and(|found| found.name == spec.name))
            .map(|(name, _)| (section.to_owned(), name.to_owned()))
    })
}

fn section_of<'a>(document: &'a mut DocumentMut, section: &str) -> Option<&'a mut dyn TableLike> {
    document.get_mut(section)?.as_table_like_mut()
}

/// The text without the lines of a plain `key = value`; comments above it stay. `None` where it does
/// not stand on lines of its own.
fn without_lines(text: &str, read: &Document<&str>, section: &str, name: &str) -> Option<String> {
    let table = read.get(section)?.as_table()?;
    let (key, item) = table.get_key_value(name)?;
    let (begin, end) = (key.span()?.start, item.as_value()?.span()?.end);
    let line = text[..begin].rfind('\n').map_or(0, |at| at + 1);
    let next = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
    let rest = text[end..next].trim();
    let alone = text[line..begin].trim().is_empty() && (rest.is_empty() || rest.starts_with('#'));
    alone.then(|| format!("{}{}", &text[..line], &text[next..]))
}

/// A new value in the old one's place, with what stands around it.
fn replace(old: &mut Item, new: &Item) {
    match (&mut *old, new) {
        (Item::Value(old), Item::Value(new)) => {
            let decor = old.decor().clone();
            *old = new.clone();
            *old.decor_mut() = decor;
        }
        (Item::Table(table), Item::Value(Value::InlineTable(map))) => {
            let gone: Vec<String> = table
                .iter()
                .map(|(name, _)| name.to_owned())
                .filter(|name| !map.contains_key(name))
                .collect();
            for name in gone {
                table.remove(&name);
            }
            for (name, value) in map {
                let value = Item::Value(value.clone());
                match table.get_mut(name) {
                    Some(old) => replace(old, &value),
                    None => drop(table.insert(name, value)),
                }
            }
        }
        (old, new) => *old = new.clone(),
    }
}

fn insert(document: &mut DocumentMut, spec: &KeySpec, new: &Item) {
    let is_first = document.as_table().is_empty();
    let section = document.entry(spec.section).or_insert_with(|| {
        let mut table = Table::new();
        if !is_first {
            table.decor_mut().set_prefix("\n");
        }
        Item::Table(table)
    });
    let Some(table) = section.as_table_like_mut() else { return };
    table.insert(spec.name, new.clone());
}
