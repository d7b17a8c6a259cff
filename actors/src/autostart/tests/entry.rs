//! Services that are entries of the registry, and what is started at the beginning.

use std::sync::Mutex;

use super::super::Entries;
use super::*;
use crate::registry::View;
use chat_proxy_core::engine::EngineRules;

/// A registry with one vLLM entry.
fn registry() -> RegistryView {
    let snapshot = Arc::new(crate::testing::snapshot(&["qlora"], EngineRules::default()));
    let view = RegistryView::default();
    view.store(Arc::new(View { snapshot, ..View::default() }));
    view
}

/// Whoever has the entries: he writes down what he is asked for, and answers when a file is there.
fn entries(go: PathBuf) -> (Entries, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = asked.clone();
    let entries: Entries = Arc::new(move |name| {
        heard.lock().unwrap().push(name);
        let go = go.clone();
        async move {
            until("nobody lets it go", || go.exists().then_some(())).await;
            Ok(())
        }
        .boxed_local()
    });
    (entries, asked)
}

fn map(map: &str, dir: &Path) -> Arc<Plan> {
    let table = Table { cwd: Some(dir.display().to_string()), ..sh(RUNS) };
    Arc::new(Plan::of(Some(map), &BTreeMap::from([(SVC.to_owned(), table)]), PATIENCE).unwrap())
}

fn ask(house: &House, service: &str) -> oneshot::Receiver<Result<(), ApiError>> {
    let (reply, answer) = oneshot::channel();
    let service = service.to_owned();
    house.actor.do_send(EnsureStarted { service, probe: None, by_request: true, reply });
    answer
}

#[actix_rt::test]
async fn an_entry_is_asked_for_once_for_all_and_a_strange_one_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (entries, asked) = entries(place.path().join("go"));
    let house = house_with(sh(RUNS), |parts| {
        parts.plan = map("vllm:qlora,ollama:nowhere", place.path());
        parts.registry = registry();
        parts.entries = entries.clone();
    });
    let both = [ask(&house, "qlora"), ask(&house, "qlora")];
    until("nobody is asked", || (!asked.lock().unwrap().is_empty()).then_some(())).await;
    let shown = house.actor.send(GetServices).await.unwrap().services;
    assert_eq!((shown["qlora"].adapter, shown["qlora"].state), ("vllm", "starting"));
    assert_eq!(shown["nowhere"].adapter, "ollama");
    fs::write(place.path().join("go"), "").unwrap();
    for answer in both {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), ["qlora"]);
    let error = ask(&house, "nowhere").await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::BackendUnavailable);
    assert!(error.message.contains("nowhere"), "{error}");
}

#[actix_rt::test]
async fn what_is_to_run_from_the_beginning_is_started_in_order_and_once() {
    let place = tempfile::tempdir().unwrap();
    let (entries, asked) = entries(place.path().join("go"));
    let house = house_with(sh(RUNS), |parts| {
        parts.plan = map("gguf:svc", place.path());
        parts.registry = registry();
        parts.entries = entries.clone();
        parts.preload = ["nowhere", "qlora", SVC].map(str::to_owned).to_vec().into();
    });
    until("nobody is asked", || (!asked.lock().unwrap().is_empty()).then_some(())).await;
    assert_eq!(house.status().await.state, "stopped", "one after the other");
    fs::write(place.path().join("go"), "").unwrap();
    house.is("ready").await;
    // Its successor finds it running, and starts nothing again.
    house.actor.do_send(Die);
    let house = House { actor: start(&house.parts), ..house };
    house.is("ready").await;
    assert_eq!(*asked.lock().unwrap(), ["qlora"]);
    house.stop_all().await;
}
