//! Random numbers, and what layers come to: written for the tests, not taken from the daemon.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Numbers that look random and can be had again (`SplitMix64`).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Names and display names, as they are to be shown.
pub type Shown = BTreeMap<String, String>;

/// What of merged entries is served.
pub fn shown(merged: &[Value]) -> Shown {
    merged
        .iter()
        .filter(|e| e["backend"].is_string() && e["backend_config"]["port"] != "x")
        .filter_map(|e| {
            let name = e["name"].as_str()?;
            Some((name.to_owned(), e["display_name"].as_str().unwrap_or(name).to_owned()))
        })
        .collect()
}

/// The layers merged by name.
pub fn merge(curated: &[Value], discovered: &[Value]) -> Vec<Value> {
    let name = |e: &Value| e["name"].as_str().map(str::to_owned);
    let mut all: Vec<Value> = curated.iter().filter(|e| name(e).is_some()).cloned().collect();
    for under in discovered {
        match (name(under), all.iter_mut().find(|over| name(over) == name(under))) {
            (None, _) => {}
            (_, None) => all.push(under.clone()),
            (_, Some(over)) => {
                let (Some(top), Some(low)) = (over.as_object(), under.as_object()) else {
                    continue;
                };
                *over = Value::Object(over_under(top, low));
            }
        }
    }
    all
}

fn over_under(over: &Map<String, Value>, under: &Map<String, Value>) -> Map<String, Value> {
    let mut both = over.clone();
    for (key, low) in under {
        let value = match (over.get(key), low) {
            (None | Some(Value::Null), _) => low.clone(),
            (Some(Value::Object(top)), Value::Object(low)) => Value::Object(over_under(top, low)),
            (Some(top), _) => top.clone(),
        };
        both.insert(key.clone(), value);
    }
    both
}
