//! What an entry says of its roles (SPEC 8).
//!
//! Owns: reading it, as sloppy as files are. Must never do: refuse an entry for it, or know which
//! roles there are.

use std::collections::BTreeMap;

use serde_json::Value;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoleFacts {
    /// `role_priority`: how good it is at each role, higher is better; names in lower case. Roles that
    /// only `roles` names, or whose score is no number, are there with 0: candidates, but after
    /// those that somebody has scored. `null` and `false` say nothing.
    pub role_priority: BTreeMap<String, f64>,
    /// What it needs of the GPU's memory (MB), rounded up; 0 and what is no number say nothing.
    pub vram_estimate_mb: Option<u64>,
}

impl RoleFacts {
    /// Reads them from the fields of an entry.
    pub(super) fn of(priority: &Value, estimate: &Value, roles: &[String]) -> RoleFacts {
        let mut scores: BTreeMap<String, f64> = BTreeMap::new();
        for (role, value) in priority.as_object().into_iter().flatten() {
            if !matches!(value, Value::Null | Value::Bool(false)) {
                scores.insert(role_name(role), number(value).unwrap_or_default());
            }
        }
        for role in roles {
            scores.entry(role_name(role)).or_default();
        }
        scores.remove("");
        RoleFacts { role_priority: scores, vram_estimate_mb: number(estimate).and_then(megabytes) }
    }

    /// How good it is at a role, if it is for that role at all.
    pub fn score(&self, role: &str) -> Option<f64> {
        self.role_priority.get(role).copied()
    }
}

/// The one spelling of a role's name.
pub fn role_name(name: &str) -> String {
    name.trim().to_lowercase()
}

fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    number.is_finite().then_some(number)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked: positive and in range
fn megabytes(number: f64) -> Option<u64> {
    (number > 0.0 && number < 9.0e15).then_some(number.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scores(priority: &Value, roles: &[&str]) -> Vec<(String, f64)> {
        let roles: Vec<String> = roles.iter().map(|&role| role.to_owned()).collect();
        RoleFacts::of(priority, &Value::Null, &roles).role_priority.into_iter().collect()
    }

    #[test]
    fn scores_are_read_as_people_write_them() {
        let none: Vec<(String, f64)> = Vec::new();
        for (priority, roles, want) in [
            (json!(null), &[][..], none.clone()),
            (json!("caption"), &[], none.clone()),
            (json!({"caption": null, "x": false}), &[], none),
            (json!({" Caption ": "90"}), &[], vec![("caption".to_owned(), 90.0)]),
            (json!({"caption": 9.5}), &["caption"], vec![("caption".to_owned(), 9.5)]),
            (json!({"caption": -1}), &["Caption"], vec![("caption".to_owned(), -1.0)]),
            (json!({"caption": "high"}), &[], vec![("caption".to_owned(), 0.0)]),
            (json!({"caption": "NaN"}), &[""], vec![("caption".to_owned(), 0.0)]),
            (json!({}), &["tags"], vec![("tags".to_owned(), 0.0)]),
        ] {
            assert_eq!(scores(&priority, roles), want, "{priority}");
        }
    }

    #[test]
    fn estimates_are_rounded_up_and_nonsense_says_nothing() {
        for (value, want) in [
            (json!(9000), Some(9000)),
            (json!(9000.2), Some(9001)),
            (json!(" 9000 "), Some(9000)),
            (json!("9000.0"), Some(9000)),
            (json!(0), None),
            (json!(-5), None),
            (json!("much"), None),
            (json!(null), None),
            (json!([1]), None),
            (json!(1e300), None),
        ] {
            let facts = RoleFacts::of(&Value::Null, &value, &[]);
            assert_eq!(facts.vram_estimate_mb, want, "{value}");
        }
    }
}
