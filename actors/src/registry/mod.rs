//! `RegistryActor`: the one who reads the registry and publishes it.
//!
//! Owns: the published [`View`]. Accepts: [`Reload`]. Emits: nothing; everybody reads the view
//! without a message. A file that cannot be read leaves the last good snapshot in place, with the
//! error beside it. Must never do: read files on the control thread, or publish half a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use actix::{Actor, ActorFutureExt, Context, Handler, Message, ResponseActFuture, WrapFuture};
use arc_swap::ArcSwap;
use chat_proxy_core::registry::{EndpointRules, LoadError, Snapshot};

/// The files that are looked for, the first one found counts.
const FILES: [&str; 2] = ["model_registry.curated.json", "model_registry.json"];

/// The registry as everybody sees it.
#[derive(Debug)]
pub struct View {
    /// The last good snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Why the newest file is not the snapshot, if so.
    pub error: Option<RegistryError>,
    /// The file that the snapshot came from.
    pub file: Option<PathBuf>,
    /// When that file was changed, Unix seconds.
    pub modified: u64,
}

/// Why no registry could be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// Neither file is there.
    #[error("no registry in {dir}: it needs {} or {}", FILES[0], FILES[1])]
    Missing {
        /// The directory that was looked in.
        dir: String,
    },
    /// The file is there but cannot be read.
    #[error("{file}: {message}")]
    Io {
        /// The file.
        file: String,
        /// The system's words.
        message: String,
    },
    /// It was read and is no registry.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What everybody holds to read the registry.
pub type RegistryView = Arc<ArcSwap<View>>;

/// Where the registry is and how its addresses are read.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// The directory of its files.
    pub dir: PathBuf,
    /// For backend addresses.
    pub rules: EndpointRules,
}

/// Reads the registry once; used at start, before anything listens, and by `check-config`.
pub fn read(settings: &RegistrySettings) -> Result<View, RegistryError> {
    let file = FILES.iter().map(|name| settings.dir.join(name)).find(|path| path.exists());
    let Some(file) = file else {
        return Err(RegistryError::Missing { dir: settings.dir.display().to_string() });
    };
    let shown = file.display().to_string();
    let io = |error: std::io::Error| RegistryError::Io {
        file: shown.clone(),
        message: error.to_string(),
    };
    let text = std::fs::read(&file).map_err(io)?;
    let modified = modified(&file).map_err(io)?;
    let snapshot = Snapshot::load(&shown, &text, &settings.rules)?;
    Ok(View { snapshot: Arc::new(snapshot), error: None, file: Some(file), modified })
}

fn modified(file: &Path) -> std::io::Result<u64> {
    let time = std::fs::metadata(file)?.modified()?;
    Ok(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// See the module.
pub struct RegistryActor {
    settings: RegistrySettings,
    view: RegistryView,
    /// Counts reloads, so that a slow one cannot overwrite a newer one.
    generation: u64,
}

impl RegistryActor {
    /// An actor over a first view, which may hold an error and no entries.
    pub fn new(settings: RegistrySettings) -> (Self, RegistryView) {
        let first = read(&settings).unwrap_or_else(|error| {
            tracing::error!(%error, "the registry cannot be read; no model is served until it can");
            View { snapshot: Arc::default(), error: Some(error), file: None, modified: 0 }
        });
        report(&first);
        let view = Arc::new(ArcSwap::from_pointee(first));
        (RegistryActor { settings, view: view.clone(), generation: 0 }, view)
    }

    fn publish(&self, outcome: Result<View, RegistryError>) -> Result<usize, RegistryError> {
        match outcome {
            Ok(view) => {
                report(&view);
                let count = view.snapshot.entries().len();
                self.view.store(Arc::new(view));
                Ok(count)
            }
            Err(error) => {
                tracing::error!(%error, "the registry was not reloaded; the last good one stays");
                let old = self.view.load();
                self.view.store(Arc::new(View {
                    snapshot: old.snapshot.clone(),
                    error: Some(error.clone()),
                    file: old.file.clone(),
                    modified: old.modified,
                }));
                Err(error)
            }
        }
    }
}

fn report(view: &View) {
    for problem in view.snapshot.problems() {
        tracing::warn!(%problem, "a registry entry was skipped");
    }
    if view.error.is_none() {
        let file = view.file.as_deref().unwrap_or(Path::new("")).display();
        tracing::info!(models = view.snapshot.entries().len(), %file, "registry loaded");
    }
}

/// Read the files again; answers the number of models.
#[derive(Message)]
#[rtype(result = "Result<usize, RegistryError>")]
pub struct Reload;

impl Actor for RegistryActor {
    type Context = Context<Self>;
}

impl Handler<Reload> for RegistryActor {
    type Result = ResponseActFuture<Self, Result<usize, RegistryError>>;

    fn handle(&mut self, _: Reload, _: &mut Self::Context) -> Self::Result {
        self.generation += 1;
        let generation = self.generation;
        let settings = self.settings.clone();
        let dir = settings.dir.display().to_string();
        let reading = actix_rt::task::spawn_blocking(move || read(&settings));
        Box::pin(reading.into_actor(self).map(move |outcome, actor, _| {
            let outcome = outcome.unwrap_or_else(|error| {
                Err(RegistryError::Io { file: dir, message: error.to_string() })
            });
            if generation != actor.generation {
                return outcome.map(|stale| stale.snapshot.entries().len());
            }
            actor.publish(outcome)
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(dir: &Path, text: &str) {
        std::fs::write(dir.join(FILES[0]), text).unwrap();
    }

    #[actix_rt::test]
    async fn a_broken_file_keeps_the_last_good_snapshot_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), r#"[{"name":"a","backend":"gguf"}]"#);
        let settings =
            RegistrySettings { dir: dir.path().to_owned(), rules: EndpointRules::default() };
        let (actor, view) = RegistryActor::new(settings);
        let addr = actor.start();
        assert!(view.load().snapshot.resolve("a").is_ok());
        write(dir.path(), "[{\"name\":");
        assert!(addr.send(Reload).await.unwrap().is_err());
        assert!(view.load().snapshot.resolve("a").is_ok());
        assert!(view.load().error.is_some());
        write(dir.path(), r#"[{"name":"b","backend":"gguf"}]"#);
        assert_eq!(addr.send(Reload).await.unwrap().unwrap(), 1);
        assert!(view.load().snapshot.resolve("b").is_ok() && view.load().error.is_none());
    }

    #[actix_rt::test]
    async fn a_missing_registry_is_an_error_that_names_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let settings =
            RegistrySettings { dir: dir.path().to_owned(), rules: EndpointRules::default() };
        let error = read(&settings).unwrap_err().to_string();
        assert!(error.contains("model_registry.curated.json"), "{error}");
    }
}
