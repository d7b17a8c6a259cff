//! `import-ollama`: the models of an Ollama become entries.

use awc::Client;
use awc::error::{ConnectError, SendRequestError};
use bytes::Bytes;
use chat_proxy_actors::client;
use chat_proxy_actors::clock::rfc3339;
use chat_proxy_actors::registry::edit::{Edits, Opened};
use chat_proxy_core::chat::ollama::parse_tags;
use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::registry::ollama::{default_server, native};
use chat_proxy_core::registry::ollama_import::{Fate, Model, Plan, Row, Show, Source, plan};
use serde_json::{Value, json};

use super::error::CliError;
use super::files::Registry;
use super::table::Table;
use super::{Tools, model};

/// Lists of thousands of models, and shows with their tokenizers.
const LARGEST_ANSWER: usize = 64 << 20;

/// Take the models of an Ollama into the registry.
///
/// Each becomes an entry of the discovered layer, or its entry gets the newest facts. What Ollama
/// does not have any more is told; --prune drops it (it is kept in model_registry.ghosts.json).
/// Nothing is loaded.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models import-ollama
  imageworks-models import-ollama --ollama-url http://gpu2:11434 --dry-run
  imageworks-models import-ollama --prune --json")]
pub(super) struct Args {
    /// Where Ollama is, if not where the settings say.
    #[arg(long, value_name = "URL")]
    ollama_url: Option<String>,
    /// Drop entries that Ollama does not have any more.
    #[arg(long)]
    prune: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let registry = Registry::of(tools)?;
    let (server, base_url) = server(args, &registry)?;
    let ollama =
        Ollama { client: client::fresh(server.base().starts_with("https:")), server, tools };
    let models = ollama.models().await?;
    let source = Source { server: &ollama.server, base_url: base_url.as_deref() };
    let plan = if args.dry_run {
        let opened = registry.open_or_empty(tools)?;
        plan(&opened.layers, &opened.snapshot, &source, &models, args.prune)
    } else {
        registry.change(|opened| decide(opened, &source, &models, args.prune))?.1
    };
    if tools.out.json {
        return tools.out.value(&to_json(&plan, args.dry_run));
    }
    if !plan.rows.is_empty() {
        tools.out.table(&table(&plan))?;
    }
    tools.out.line(&summary(&plan, args, &registry.ghosts().display().to_string()))
}

/// Where to ask, and what entries must say where that is not in the settings.
fn server(args: &Args, registry: &Registry) -> Result<(Endpoint, Option<String>), CliError> {
    let wrong =
        |message: String| CliError::failed(message, "an address is such as http://127.0.0.1:11434");
    let mut rules = registry.settings.rules.endpoints.clone();
    let own = default_server(&rules);
    let Some(url) = &args.ollama_url else { return Ok((own.map_err(wrong)?, None)) };
    rules.ollama.base_url.clone_from(url);
    let server = default_server(&rules)
        .map_err(|why| wrong(why.replace("ollama_base_url", "--ollama-url")))?;
    let is_own = own.is_ok_and(|own| own.base() == server.base());
    let base_url = (!is_own).then(|| server.origin().to_owned());
    Ok((server, base_url))
}

fn decide(opened: &Opened, source: &Source<'_>, models: &[Model], prune: bool) -> (Edits, Plan) {
    let plan = plan(&opened.layers, &opened.snapshot, source, models, prune);
    let at = rfc3339();
    let gone =
        plan.ghosts.iter().map(|ghost| ghost.record("Ollama does not have it any more", &at));
    (Edits { changes: plan.changes.clone(), dropped: gone.collect() }, plan)
}

struct Ollama<'a> {
    client: Client,
    server: Endpoint,
    tools: &'a Tools,
}

impl Ollama<'_> {
    async fn models(&self) -> Result<Vec<Model>, CliError> {
        let body = self.ask("/api/tags", None).await?;
        let tags = parse_tags(&body).map_err(|error| self.stranger(&error.to_string()))?;
        let mut models = Vec::with_capacity(tags.len());
        for tag in tags {
            let ask = self.ask("/api/show", Some(&json!({"model": tag.name}))).await;
            let show = ask.map(|body| Show::parse(&body));
            if let Err(error) = &show {
                self.tools.out.note(&format!("warning: {}: {error}", tag.name));
            }
            models.push(Model { tag, show: show.ok().flatten() });
        }
        Ok(models)
    }

    async fn ask(&self, path: &str, body: Option<&Value>) -> Result<Bytes, CliError> {
        let asked = tokio::time::timeout(self.tools.timeout, self.exchange(path, body)).await;
        asked.unwrap_or_else(|_| {
            let seconds = self.tools.timeout.as_secs_f64();
            Err(self.away(&format!("no answer within {seconds} s")))
        })
    }

    async fn exchange(&self, path: &str, body: Option<&Value>) -> Result<Bytes, CliError> {
        let url = native(&self.server, path);
        let request = if body.is_some() { self.client.post(url) } else { self.client.get(url) };
        let request = match &self.server.userinfo {
            Some(user) => request.basic_auth(&user.user, &user.password),
            None => request,
        };
        let sent = match body {
            Some(body) => request.send_json(body).await,
            None => request.send().await,
        };
        let mut response = sent.map_err(|error| match error {
            SendRequestError::Connect(ConnectError::Io(error)) => self.away(&error.to_string()),
            error => self.away(&error.to_string()),
        })?;
        let body = response.body().limit(LARGEST_ANSWER).await;
        let body = body.map_err(|error| self.away(&error.to_string()))?;
        if response.status().is_success() {
            return Ok(body);
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let why = said["error"].as_str().unwrap_or("no word why");
        Err(self.stranger(&format!("HTTP {}: {why}", response.status().as_u16())))
    }

    fn away(&self, why: &str) -> CliError {
        CliError::failed(
            format!("Ollama at {} cannot be reached: {why}", self.server.origin()),
            "start it, or say with --ollama-url where it is",
        )
    }

    fn stranger(&self, why: &str) -> CliError {
        CliError::failed(
            format!("what answers at {} says: {why}", self.server.origin()),
            "check that an Ollama is there",
        )
    }
}

fn table(plan: &Plan) -> Table {
    let mut table = Table::new(&["NAME", "TAG", "OUTCOME", "QUANT", "SIZE", "CAN"]);
    for row in &plan.rows {
        let fact = |key: &str| row.fields.get(key).cloned().unwrap_or_default();
        let size = fact("download_size_bytes").as_u64();
        table.row(vec![
            (&row.name).into(),
            (&row.tag).into(),
            row.fate.as_str().into(),
            model::text(&fact("quantization")).into(),
            size.map_or_else(String::new, model::bytes).into(),
            abilities(&fact("capabilities")).into(),
        ]);
    }
    table
}

fn abilities(capabilities: &Value) -> String {
    let all = capabilities.as_object().into_iter().flatten();
    let can = all.filter(|(_, can)| **can == json!(true)).map(|(name, _)| name.as_str());
    can.collect::<Vec<_>>().join(", ")
}

fn count(plan: &Plan, fate: Fate) -> usize {
    plan.rows.iter().filter(|row| row.fate == fate).count()
}

fn summary(plan: &Plan, args: &Args, ghosts: &str) -> String {
    let fates = [Fate::New, Fate::Updated, Fate::Same, Fate::Locked, Fate::Gone, Fate::Dropped];
    let told = fates.into_iter().filter_map(|fate| {
        let many = count(plan, fate);
        let more = match fate {
            Fate::Gone if !args.prune => " (--prune drops what is not curated)".to_owned(),
            Fate::Dropped => format!(" (kept in {ghosts})"),
            _ => String::new(),
        };
        (many > 0).then(|| format!("{many} {}{more}", fate.as_str()))
    });
    let told = match told.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "Ollama has no models, and no entry means one".to_owned(),
        told => told,
    };
    if args.dry_run { format!("{told} (not written: --dry-run)") } else { told }
}

fn to_json(plan: &Plan, dry_run: bool) -> Value {
    let of = |row: &Row| json!({"name": row.name, "tag": row.tag, "outcome": row.fate.as_str(), "fields": row.fields});
    json!({"dry_run": dry_run, "models": plan.rows.iter().map(of).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_each_is_told() {
        let row = |name: &str, fate, fields: Value| Row {
            name: name.into(),
            tag: format!("{name}:7b"),
            fate,
            fields: fields.as_object().cloned().unwrap_or_default(),
        };
        let facts = json!({"quantization": "Q4_K_M", "download_size_bytes": 4_700_000_000_u64,
            "capabilities": {"vision": true, "tools": false, "reasoning": true}});
        let plan = Plan {
            rows: vec![
                row("new", Fate::New, facts),
                row("same", Fate::Same, json!({})),
                row("away", Fate::Gone, json!({})),
            ],
            ..Plan::default()
        };
        insta::assert_snapshot!(table(&plan).render(false), @"
        NAME  TAG      OUTCOME    QUANT   SIZE    CAN
        new   new:7b   new        Q4_K_M  4.7 GB  vision, reasoning
        same  same:7b  unchanged  -       -       -
        away  away:7b  gone       -       -       -
        ");
        let args = Args { ollama_url: None, prune: false, dry_run: true };
        insta::assert_snapshot!(summary(&plan, &args, "g"), @"1 new, 1 unchanged, 1 gone (--prune drops what is not curated) (not written: --dry-run)");
        insta::assert_snapshot!(summary(&Plan::default(), &Args { dry_run: false, ..args }, "g"), @"Ollama has no models, and no entry means one");
    }
}
