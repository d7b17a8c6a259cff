//! The models that the proxy knows: entries, how they are found by name, and where they live.
//!
//! Owns: layers and their merging ([`layers`]), reading entries with all their sloppiness ([`entry`]), the immutable [`Snapshot`] with
//! its name index ([`resolve`]), backend addresses ([`endpoint`], [`ollama`]), where chat templates may be
//! ([`template`]), what entries say of their roles ([`roles`]), the model list ([`listing`]), and changes to a layer's
//! text ([`edit`], [`ollama_import`]).
//! Must never do: read files or watch them; the `RegistryActor` brings the text.

pub mod capabilities;
pub mod edit;
pub mod endpoint;
pub mod entry;
mod keeping;
pub mod layers;
pub mod listing;
pub mod ollama;
pub mod ollama_import;
mod policy;
pub mod resident;
pub mod resolve;
pub mod roles;
pub mod schema;
mod snapshot;
pub mod template;
mod truth;

pub use endpoint::{Endpoint, EndpointRules, Placement};
pub use entry::Entry;
pub use keeping::Keeping;
pub use ollama::{OllamaModel, OllamaRules};
pub use policy::EntryPolicy;
pub use roles::RoleFacts;
pub use snapshot::{LoadError, Problem, Rules, Snapshot};
pub use template::{Template, TemplatePlaces};
