//! The actor on real directories. Waits are for conditions, with a bound.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use super::files::MERGED;
use std::path::PathBuf;

use super::files::{CURATED, DISCOVERED};
use super::*;
use actix::Addr;

struct Home {
    dir: tempfile::TempDir,
    view: RegistryView,
    addr: Addr<RegistryActor>,
}

fn settings(home: &Path) -> RegistrySettings {
    RegistrySettings {
        dir: home.join("configs"),
        state_dir: home.join("state"),
        ..RegistrySettings::default()
    }
}

fn entry(name: &str, port: u16) -> String {
    format!(r#"{{"name":"{name}","backend":"gguf","backend_config":{{"port":{port}}}}}"#)
}

fn start(curated: &str) -> Home {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("configs")).unwrap();
    fs::write(dir.path().join("configs").join(CURATED), curated).unwrap();
    start_in(dir)
}

fn start_in(dir: tempfile::TempDir) -> Home {
    let (view, metrics) = (RegistryView::default(), Metrics::new().unwrap());
    let guard = Guard::unwatched(crate::guard::Role::Registry);
    let actor =
        RegistryActor::new(Live::new(settings(dir.path())), metrics, Arc::default(), &view, guard)
            .having_read();
    Home { view, addr: actor.start(), dir }
}

impl Home {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("configs").join(name)
    }

    fn names(&self) -> Vec<String> {
        self.view.load().snapshot.entries().iter().map(|e| e.name.clone()).collect()
    }

    /// Waits until the view is as wanted; much less than the regular look, so that a watch which
    /// hears nothing fails the test.
    async fn until(&self, what: &str, wanted: impl Fn(&View) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(4);
        while !wanted(&self.view.load()) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}, {:?}",
                self.names(),
                self.view.load().error
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_names(&self, what: &str, names: &[&str]) {
        self.until(what, |view| {
            view.error.is_none()
                && view.snapshot.entries().iter().map(|e| e.name.as_str()).eq(names.iter().copied())
        })
        .await;
    }
}

#[actix_rt::test]
async fn every_way_to_change_a_file_is_seen() {
    let home = start(&format!("[{}]", entry("a", 1)));
    home.until_names("start", &["a"]).await;
    fs::write(home.path(CURATED), format!("[{}]", entry("b", 1))).unwrap();
    home.until_names("written in place", &["b"]).await;
    fs::write(home.path("other"), format!("[{}]", entry("c", 1))).unwrap();
    fs::rename(home.path("other"), home.path(CURATED)).unwrap();
    home.until_names("renamed over", &["c"]).await;
    fs::write(home.path(DISCOVERED), format!("[{}]", entry("d", 2))).unwrap();
    home.until_names("a second layer", &["c", "d"]).await;
    fs::remove_file(home.path(CURATED)).unwrap();
    home.until_names("a layer removed", &["d"]).await;
}

#[actix_rt::test]
async fn a_touch_alone_reloads() {
    let home = start(&format!("[{}]", entry("a", 1)));
    home.until_names("start", &["a"]).await;
    let loads = home.view.load().loads;
    let file = fs::File::options().append(true).open(home.path(CURATED)).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    home.until("touched", |view| view.loads > loads).await;
}

#[actix_rt::test]
async fn a_config_maps_link_swap_is_seen() {
    let home = start("[]");
    let put = |version: &str, name: &str| {
        let dir = home.path(version);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(CURATED), format!("[{}]", entry(name, 1))).unwrap();
        std::os::unix::fs::symlink(version, home.path("..data_tmp")).unwrap();
        fs::rename(home.path("..data_tmp"), home.path("..data")).unwrap();
    };
    put("..v1", "one");
    fs::remove_file(home.path(CURATED)).unwrap();
    std::os::unix::fs::symlink(format!("..data/{CURATED}"), home.path(CURATED)).unwrap();
    home.until_names("linked", &["one"]).await;
    put("..v2", "two");
    home.until_names("swapped", &["two"]).await;
}

#[actix_rt::test]
async fn the_directory_itself_may_be_recreated() {
    let home = start(&format!("[{}]", entry("a", 1)));
    home.until_names("start", &["a"]).await;
    fs::remove_dir_all(home.path("")).unwrap();
    home.until("gone", |view| view.error.is_some() && view.snapshot.entries().len() == 1).await;
    fs::create_dir(home.path("")).unwrap();
    fs::write(home.path(CURATED), format!("[{}]", entry("b", 1))).unwrap();
    home.until_names("recreated", &["b"]).await;
    fs::write(home.path(CURATED), format!("[{}]", entry("c", 1))).unwrap();
    home.until_names("watched again", &["c"]).await;
}

#[actix_rt::test]
async fn a_broken_file_keeps_the_last_good_snapshot_and_says_so() {
    let home = start(&format!("[{}]", entry("a", 1)));
    home.until_names("start", &["a"]).await;
    fs::write(home.path(CURATED), "[{\"name\": \"z\",").unwrap();
    home.until("broken", |view| view.error.is_some()).await;
    assert_eq!(home.names(), ["a"]);
    let error = home.view.load().error.clone().unwrap().to_string();
    assert!(error.contains("curated.json:1:") && error.contains("\"z\""), "{error}");
    assert!(home.addr.send(Reload).await.unwrap().is_err());
    fs::write(home.path(CURATED), format!("[{}]", entry("b", 1))).unwrap();
    home.until_names("mended", &["b"]).await;
}

#[actix_rt::test]
async fn our_own_writing_leads_to_no_reload() {
    let home = start(&format!("[{}]", entry("a", 1)));
    home.until_names("start", &["a"]).await;
    assert!(home.path(MERGED).exists());
    let loads = home.view.load().loads;
    fs::write(home.path(CURATED), format!("[{}]", entry("b", 1))).unwrap();
    home.until_names("changed", &["b"]).await;
    // The merged file was written again by that; a loop would show within a few quiet times.
    tokio::time::sleep(PATIENCE * 2).await;
    assert_eq!(home.view.load().loads, loads + 1);
    let merged = fs::read_to_string(home.path(MERGED)).unwrap();
    assert!(merged.contains("\"b\""), "{merged}");
}

#[actix_rt::test]
async fn an_old_single_file_is_split_once_and_ours_never() {
    let dir = tempfile::tempdir().unwrap();
    let configs = dir.path().join("configs");
    fs::create_dir(&configs).unwrap();
    let old = r#"[{"name":"hand","backend":"vllm","odd":1},{"name":"tool","backend":"ollama"}]"#;
    fs::write(configs.join(MERGED), old).unwrap();
    let home = start_in(dir);
    home.until_names("split", &["hand", "tool"]).await;
    assert!(fs::read_to_string(home.path(CURATED)).unwrap().contains("\"odd\": 1"));
    assert!(fs::read_to_string(home.path(DISCOVERED)).unwrap().contains("\"tool\""));
    assert_eq!(fs::read_to_string(home.path("model_registry.legacy.json")).unwrap(), old);
    fs::remove_file(home.path(CURATED)).unwrap();
    fs::remove_file(home.path(DISCOVERED)).unwrap();
    home.until("both layers removed", |view| {
        matches!(view.error, Some(RegistryError::Missing { .. }))
    })
    .await;
    assert!(!home.path(CURATED).exists(), "our own merged file is no registry");
}

#[actix_rt::test]
async fn looking_writes_nothing_when_only_inspecting() {
    let dir = tempfile::tempdir().unwrap();
    let configs = dir.path().join("configs");
    fs::create_dir(&configs).unwrap();
    fs::write(configs.join(MERGED), format!("[{}]", entry("old", 1))).unwrap();
    let view = inspect(&settings(dir.path())).unwrap();
    assert_eq!(view.snapshot.entries().len(), 1);
    assert_eq!(fs::read_dir(&configs).unwrap().count(), 1);
    let error = inspect(&RegistrySettings::default()).unwrap_err().to_string();
    assert!(error.contains("model_registry.curated.json"), "{error}");
}

#[actix_rt::test]
async fn five_thousand_entries_load_fast() {
    let list: Vec<String> = (0..5000).map(|i| entry(&format!("model-{i}"), 1 + i)).collect();
    let home = start(&format!("[{}]", list.join(",")));
    let begin = Instant::now();
    let Found::New(new) = look(&settings(home.dir.path()), None, &Activity::default()) else {
        panic!("nothing found")
    };
    assert!(new.1.is_ok());
    let took = begin.elapsed();
    // The bound of 100 ms is for release builds (see the README of the load harness for figures);
    // debug builds are several times slower, and the machine is shared.
    assert!(took < Duration::from_secs(3), "{took:?}");
}
