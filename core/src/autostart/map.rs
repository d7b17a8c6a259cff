//! The autostart map's forms.
//!
//! Owns: `backend:service, backend=service`, the JSON form `{"model": {"command": […]}}`, and the
//! tables `[autostart.services.NAME]`. Must never do: guess; what is not understood is a problem.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Adapter, Command, Plan, Ready, ServiceSpec, StopSignal};
use crate::config::Service;

/// The left side that names no backend: such a service is only for the models that it names.
const SHELL: &str = "shell";
/// Longer names make no good file names.
const MAX_NAME: usize = 100;

pub(super) fn read(
    map: &str,
    tables: &BTreeMap<String, Service>,
    grace: Duration,
) -> Result<Plan, Vec<String>> {
    let mut reading = Reading { plan: Plan::default(), problems: Vec::new(), tables, grace };
    match map.trim() {
        "" => {}
        text if text.starts_with('{') => reading.json(text),
        text => text.split(',').for_each(|part| reading.pair(part)),
    }
    // Those that the map does not name serve the models that they name themselves.
    for (name, table) in tables {
        if reading.plan.get(name).is_none() {
            reading.add(name, Some(table), None);
        }
    }
    if reading.problems.is_empty() { Ok(reading.plan) } else { Err(reading.problems) }
}

struct Reading<'a> {
    plan: Plan,
    problems: Vec<String>,
    tables: &'a BTreeMap<String, Service>,
    grace: Duration,
}

/// The value of the JSON form: a table, or the command alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonService {
    Command(Vec<String>),
    Table(Service),
}

impl Reading<'_> {
    /// `backend:service` or `backend=service`. A service's name may hold colons, as tags of Ollama
    /// do; a backend's may not.
    fn pair(&mut self, part: &str) {
        let part = part.trim();
        if part.is_empty() {
            return; // a comma at the end
        }
        let split = part.find([':', '=']).map(|at| (part[..at].trim(), part[at + 1..].trim()));
        match split {
            Some((backend, service)) if !backend.is_empty() && !service.is_empty() => {
                let table = self.tables.get(service);
                self.add(service, table, Some(backend));
            }
            _ => self.problems.push(format!(
                "{part:?} is no entry of the map; write backend=service, separated by commas"
            )),
        }
    }

    fn json(&mut self, text: &str) {
        let map: BTreeMap<String, serde_json::Value> = match serde_json::from_str(text) {
            Ok(map) => map,
            Err(error) => return self.problems.push(format!("the map is not valid JSON: {error}")),
        };
        for (model, value) in map {
            let service = match serde_json::from_value::<JsonService>(value) {
                Ok(JsonService::Table(table)) => table,
                Ok(JsonService::Command(command)) => Service { command, ..Service::default() },
                Err(_) => {
                    self.problems.push(format!(
                        "{model:?}: expected {{\"command\": [\"program\", \"argument\"]}}, with cwd, env, ready_url, ready_log, grace_period_s, stop_signal and models if need be"
                    ));
                    continue;
                }
            };
            let mut service = service;
            if !service.models.contains(&model) {
                service.models.push(model.clone());
            }
            self.add(&model, Some(&service), None);
        }
    }

    /// A service, or a further backend of one that is there.
    fn add(&mut self, name: &str, table: Option<&Service>, backend: Option<&str>) {
        let backend = backend.filter(|backend| !backend.eq_ignore_ascii_case(SHELL));
        let backends: Vec<String> = backend.into_iter().map(str::to_ascii_lowercase).collect();
        if let Some(known) = self.plan.services.iter_mut().find(|service| service.name == name) {
            known.backends.extend(backends);
            return;
        }
        if !is_name(name) {
            self.problems.push(format!(
                "service {name:?}: a name has 1 to {MAX_NAME} bytes, no slash and no control character, and does not begin with a dot"
            ));
            return;
        }
        let (adapter, grace, models) = match table {
            None => (Adapter::Entry, None, Vec::new()),
            Some(table) => match command(table) {
                Ok(command) => {
                    (Adapter::Shell(command), table.grace_period_s, table.models.clone())
                }
                Err(problem) => return self.problems.push(format!("service {name:?}: {problem}")),
            },
        };
        let grace = match grace.map(Duration::try_from_secs_f64) {
            None => self.grace,
            Some(Ok(grace)) if !grace.is_zero() => grace,
            Some(_) => {
                let problem = "grace_period_s must be a number of seconds, larger than 0";
                return self.problems.push(format!("service {name:?}: {problem}"));
            }
        };
        let name = name.to_owned();
        self.plan.services.push(ServiceSpec { name, adapter, grace, models, backends });
    }
}

/// Names become file names; also one that was found somewhere must pass.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'))
}

fn command(table: &Service) -> Result<Command, String> {
    if table.command.first().is_none_or(|program| program.trim().is_empty()) {
        return Err("command is empty; it names the program and its arguments".to_owned());
    }
    let ready = match (&table.ready_url, &table.ready_log) {
        (Some(_), Some(_)) => {
            return Err("ready_url and ready_log exclude each other".to_owned());
        }
        (Some(url), None) => {
            let parsed = url::Url::parse(url).ok();
            let good =
                parsed.is_some_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
            if !good {
                return Err(format!("ready_url {url:?} is no http address"));
            }
            Ready::Url(url.clone())
        }
        (None, Some(text)) if text.is_empty() => return Err("ready_log is empty".to_owned()),
        (None, Some(text)) => Ready::Log(text.clone()),
        (None, None) => Ready::Backend,
    };
    let stop_signal = match &table.stop_signal {
        None => StopSignal::default(),
        Some(name) => StopSignal::parse(name).ok_or_else(|| {
            format!("stop_signal {name:?} is none of TERM, INT, QUIT, HUP, USR1, USR2, KILL")
        })?,
    };
    let (cwd, env) = (table.cwd.clone(), table.env.clone());
    Ok(Command { command: table.command.clone(), cwd, env, ready, stop_signal })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GRACE: Duration = Duration::from_secs(120);

    fn table(command: &[&str], models: &[&str]) -> Service {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Service { command: owned(command), models: owned(models), ..Service::default() }
    }

    fn plan(map: &str, tables: &[(&str, Service)]) -> Result<Plan, Vec<String>> {
        let tables = tables.iter().map(|(name, t)| ((*name).to_owned(), t.clone())).collect();
        Plan::of(Some(map), &tables, GRACE)
    }

    #[test]
    fn the_map_is_read_in_both_spellings() {
        let tables = [("ollama-serve", table(&["ollama", "serve"], &[]))];
        for map in
            ["vllm:qlora-prod,ollama:ollama-serve", " vllm = qlora-prod , ollama=ollama-serve,"]
        {
            let plan = plan(map, &tables).unwrap();
            assert_eq!(plan.service_for("anything", "ollama"), Some("ollama-serve"));
            assert_eq!(plan.service_for("anything", "vllm"), Some("qlora-prod"));
            assert_eq!(plan.service_for("anything", "gguf"), None);
            assert_eq!(plan.get("qlora-prod").unwrap().adapter, Adapter::Entry);
            assert!(matches!(plan.get("ollama-serve").unwrap().adapter, Adapter::Shell(_)));
        }
        let tag = plan("ollama:qwen3:8b", &[]).unwrap();
        assert_eq!(tag.service_for("x", "Ollama"), Some("qwen3:8b"));
        assert_eq!(plan("", &[]).unwrap(), Plan::default());
    }

    #[test]
    fn a_service_that_names_a_model_goes_before_one_that_is_mapped_to_its_backend() {
        let tables = [
            ("all", table(&["a"], &[])),
            ("own", table(&["b"], &["m"])),
            ("unmapped", table(&["c"], &["n", "m"])),
        ];
        let plan = plan("gguf:all,gguf:own,shell:unmapped", &tables).unwrap();
        assert_eq!(plan.service_for("m", "gguf"), Some("own"));
        assert_eq!(plan.service_for("n", "gguf"), Some("unmapped"));
        assert_eq!(plan.service_for("x", "gguf"), Some("all"));
        assert_eq!(plan.service_for("x", "shell"), None, "the adapter is no backend");
    }

    #[test]
    fn the_json_form_has_a_service_per_model() {
        let text = r#"{"m": {"command": ["serve", "m"], "env": {"A": "b"}, "ready_log": "up",
            "grace_period_s": 3.5, "stop_signal": "sigint"}, "n:7b": ["serve", "n"]}"#;
        let plan = plan(text, &[]).unwrap();
        let m = plan.get("m").unwrap();
        assert_eq!((plan.service_for("m", "x"), m.grace), (Some("m"), Duration::from_millis(3500)));
        let Adapter::Shell(command) = &m.adapter else { panic!("a program") };
        assert_eq!(command.ready, Ready::Log("up".into()));
        assert_eq!((command.stop_signal, command.env["A"].as_str()), (StopSignal::Int, "b"));
        assert_eq!(plan.service_for("n:7b", "x"), Some("n:7b"));
        assert_eq!(plan.get("n:7b").unwrap().grace, GRACE);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let url = Service { ready_url: Some("localhost:1".into()), ..table(&["x"], &[]) };
        let both = Service {
            ready_log: Some("x".into()),
            ready_url: Some("http://h".into()),
            ..table(&["x"], &[])
        };
        let signal = Service { stop_signal: Some("STOP".into()), ..table(&["x"], &[]) };
        let grace = Service { grace_period_s: Some(-1.0), ..table(&["x"], &[]) };
        for (map, tables, why) in [
            ("vllm", vec![], "\"vllm\""),
            ("vllm:", vec![], "backend=service"),
            (":x", vec![], "backend=service"),
            ("{", vec![], "not valid JSON"),
            (r#"{"m": 7}"#, vec![], "\"m\""),
            ("shell:../x", vec![], "\"../x\""),
            ("", vec![("e", table(&[], &[]))], "command is empty"),
            ("", vec![("u", url)], "ready_url"),
            ("", vec![("b", both)], "exclude"),
            ("", vec![("s", signal)], "stop_signal"),
            ("", vec![("g", grace)], "grace_period_s"),
        ] {
            let problems = plan(map, &tables).unwrap_err();
            assert!(problems[0].contains(why), "{map}: {problems:?}");
        }
        assert_eq!(plan("a,b", &[]).unwrap_err().len(), 2, "all problems at once");
    }
}
