//! The registry as everybody sees it, and how a look at the files makes one.
//!
//! Owns: the [`View`] and why there is none. Must never do: publish; the actor does. Looks are
//! blocking: never on the control thread.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use chat_proxy_core::profiles::roles::{Roles, role_of};
use chat_proxy_core::profiles::{HardwareProfile, Profiles, unseen};
use chat_proxy_core::registry::listing::{Activity, Item, LayerTimes, Listing, ListingRules};
use chat_proxy_core::registry::{Entry, LoadError, Placement, Rules, Snapshot};
use chat_proxy_core::{ApiError, Code};

use super::files::{self, CURATED, DISCOVERED, Fingerprint, RealDisk};

/// The registry as everybody sees it.
#[derive(Debug, Default, Clone)]
pub struct View {
    /// The last good snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Its list.
    pub listing: Arc<Listing>,
    /// The list as `GET /v1/models` sends it.
    pub list_body: Bytes,
    /// Why the newest files are not the snapshot, if so.
    pub error: Option<RegistryError>,
    /// Some registry has been loaded.
    pub loaded: bool,
    /// What the list shows as running.
    pub activity: Activity,
    /// When the layers were changed.
    pub times: LayerTimes,
    /// Loads so far, failed ones too.
    pub loads: u64,
    /// How long the last good load took, from the first byte read to the list rendered.
    pub load_time: Duration,
    /// What roles are judged by.
    pub roles: Arc<RoleRules>,
}

impl View {
    /// The entry that a request means: by any of its names, or the best for a role (`role:caption`).
    pub fn position(&self, name: &str) -> Result<usize, ApiError> {
        match role_of(name) {
            Some(role) => self.roles().best(role, &[]),
            None => self.snapshot.position(name).map_err(|refusal| self.if_stale(refusal)),
        }
    }

    /// What cannot be found may stand in files that cannot be read.
    fn if_stale(&self, refusal: ApiError) -> ApiError {
        if self.error.is_none() || refusal.code != Code::ModelNotFound {
            return refusal;
        }
        let hint = refusal.hint.clone().unwrap_or_default();
        refusal.hint(format!(
            "{hint}; the registry's files could not be read anew, GET /v1/debug/registry says why"
        ))
    }

    /// The same, and where it lives.
    pub fn resolve(&self, name: &str) -> Result<(&Entry, &Placement), ApiError> {
        let position = self.position(name)?;
        Ok((&self.snapshot.entries()[position], self.snapshot.placement(position)))
    }

    /// The choice of models for roles.
    pub fn roles(&self) -> Roles<'_> {
        Roles {
            snapshot: &self.snapshot,
            listing: &self.listing,
            profiles: &self.roles.profiles,
            hardware: &self.roles.hardware,
        }
    }
}

/// What roles are judged by.
#[derive(Debug, Clone)]
pub struct RoleRules {
    /// What each role asks for.
    pub profiles: Profiles,
    /// What fits.
    pub hardware: HardwareProfile,
}

impl Default for RoleRules {
    /// What is built in, for a machine that nothing is known of.
    fn default() -> Self {
        let profiles = Profiles::built_in();
        let hardware = unseen(&profiles);
        RoleRules { profiles, hardware }
    }
}

/// Why no registry could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Neither layer is there.
    #[error(
        "no registry in {dir}: it needs {CURATED} (written by hand) or {DISCOVERED} (written by tools)"
    )]
    Missing {
        /// The directory that was looked in.
        dir: String,
    },
    /// A file is there but cannot be read or written.
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

/// Where the registry is and how it is read and shown.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    /// The directory of its layers.
    pub dir: PathBuf,
    /// Where it is remembered which merged file is ours.
    pub state_dir: PathBuf,
    /// How entries are read.
    pub rules: Rules,
    /// What is listed.
    pub listing: ListingRules,
    /// What roles are judged by.
    pub roles: Arc<RoleRules>,
}

/// Reads the registry without writing anything: for `check-config`.
pub fn inspect(settings: &RegistrySettings) -> Result<View, RegistryError> {
    let texts = files::peek(settings)?;
    build(settings, &texts, &Activity::default()).map(|(view, _)| view)
}

pub(super) type Merged = Vec<chat_proxy_core::registry::layers::Merged>;

pub(super) fn build(
    settings: &RegistrySettings,
    texts: &files::Texts,
    activity: &Activity,
) -> Result<(View, Merged), RegistryError> {
    if texts.curated.is_none() && texts.discovered.is_none() {
        return Err(RegistryError::Missing { dir: settings.dir.display().to_string() });
    }
    let [curated, discovered] = files::parse(settings, texts)?;
    let (snapshot, merged) = Snapshot::build(curated, discovered, &settings.rules);
    let listing = snapshot.list(&settings.listing, texts.times, &RealDisk, activity);
    let list_body = render(&listing);
    let view = View {
        snapshot: Arc::new(snapshot),
        listing: Arc::new(listing),
        list_body,
        error: None,
        loaded: true,
        activity: activity.clone(),
        times: texts.times,
        loads: 0,
        load_time: Duration::ZERO,
        roles: settings.roles.clone(),
    };
    Ok((view, merged))
}

/// The list as `GET /v1/models` sends it.
pub(super) fn render(listing: &Listing) -> Bytes {
    #[derive(serde::Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<&'a Item>,
    }
    let data = listing.shown.iter().map(|i| &listing.items[*i]).collect();
    match serde_json::to_vec(&List { object: "list", data }) {
        Ok(body) => Bytes::from(body),
        Err(error) => {
            // Plain structs of texts and numbers: there is nothing in them that could fail.
            tracing::error!(%error, "the model list cannot be rendered");
            Bytes::from_static(b"{\"object\":\"list\",\"data\":[]}")
        }
    }
}

/// What a look found.
pub(super) enum Found {
    /// Nothing new.
    Same,
    /// Something new, good or bad.
    New(Box<(Option<Fingerprint>, Result<View, RegistryError>)>),
}

/// One look at the files; blocking. One at a time: a look also writes, and between the steps of
/// one another would take our merged file for a user's old single file.
pub(super) fn look(
    settings: &RegistrySettings,
    known: Option<&Fingerprint>,
    activity: &Activity,
) -> Found {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = Instant::now();
    let texts = match files::read(settings) {
        Ok(texts) => texts,
        Err(error) => return Found::New(Box::new((None, Err(error)))),
    };
    if known == Some(&texts.fingerprint) {
        return Found::Same;
    }
    let built = build(settings, &texts, activity).map(|(mut view, merged)| {
        view.load_time = begin.elapsed();
        files::write_merged(settings, &merged);
        view
    });
    Found::New(Box::new((Some(texts.fingerprint), built)))
}
