//! The JSON Schema of a registry file, for editors and tools (SPEC 1, 4.2).
//!
//! Owns: the documented shape. Must never do: be stricter than the reader, which takes what real
//! files do; the schema says what a file *should* look like, and every field may be `null`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Value};

/// A registry file: a list of entries, each with a name of its own.
#[derive(JsonSchema)]
#[schemars(title = "Model registry", transparent)]
#[allow(dead_code)] // only its shape is used
struct RegistryFile(Vec<EntryDoc>);

/// One model. Fields beyond these are kept and have no effect.
#[derive(JsonSchema)]
#[schemars(title = "Entry")]
#[allow(dead_code)]
struct EntryDoc {
    /// The logical name: unique, used in logs and metrics. `resident` and `role:…` are reserved.
    #[schemars(length(min = 1))]
    name: String,
    /// `vllm`, `ollama`, `lmdeploy`, `triton`, `gguf`, `openai`, or any other name, which means a
    /// server that speaks OpenAI's protocol. May be left to the other layer.
    backend: Option<String>,
    /// The name that people see.
    display_name: Option<String>,
    /// Where and how the backend runs.
    backend_config: Option<BackendDoc>,
    /// What the model can do: names to true, false or an object with `enabled`.
    capabilities: Option<BTreeMap<String, Value>>,
    /// Parameters for requests that leave them out.
    generation_defaults: Option<GenerationDoc>,
    /// The chat template.
    chat_template: Option<TemplateDoc>,
    /// What the backend calls the model, if not by its name.
    served_model_id: Option<String>,
    /// Further names.
    model_aliases: Option<Vec<String>>,
    /// What the model is for.
    roles: Option<Vec<String>>,
    /// Role to score; higher is better.
    role_priority: Option<BTreeMap<String, f64>>,
    /// Settings of this entry that have no field of their own.
    metadata: Option<MetadataDoc>,
    /// Results of probes, which go before `capabilities`.
    probes: Option<Map<String, Value>>,
    /// The model's family.
    family: Option<String>,
    /// Its quantisation, such as `Q4_K_M` or `awq`.
    quantization: Option<String>,
    /// Who made it.
    source_provider: Option<String>,
    /// Its licence.
    license: Option<String>,
    /// Where it came from.
    source: Option<Value>,
    /// Not listed any more, but still answering.
    deprecated: Option<bool>,
    /// Files with their hashes.
    artifacts: Option<Value>,
    /// A version that must not change.
    version_lock: Option<Value>,
    /// Measured speed.
    performance: Option<Value>,
    /// GPU memory that it takes, in MiB.
    vram_estimate_mb: Option<f64>,
    /// Form of its files, such as `gguf`, `awq`, `safetensors`.
    download_format: Option<String>,
    /// Where the files were stored.
    download_location: Option<String>,
    /// Where the files are.
    download_path: Option<String>,
    /// Their size in bytes.
    download_size_bytes: Option<u64>,
    /// Their names.
    download_files: Option<Vec<String>>,
    /// A checksum over all of them.
    download_directory_checksum: Option<String>,
    /// When they were downloaded (RFC 3339).
    downloaded_at: Option<String>,
    /// When the model was last used (RFC 3339).
    last_accessed: Option<String>,
}

/// `backend_config`.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct BackendDoc {
    /// The whole address; without a path `/v1` is meant.
    base_url: Option<String>,
    /// Host, perhaps with a scheme; used without `base_url`.
    host: Option<String>,
    /// Port; 0 means none.
    port: Option<u16>,
    /// Name of the variable that holds the backend's key.
    api_key_env: Option<String>,
    /// Certificates to trust for HTTPS.
    ca_file: Option<String>,
    /// Where the model's files are.
    model_path: Option<String>,
    /// Further arguments of an engine that we start.
    extra_args: Option<Vec<String>>,
    /// Its environment; `null` unsets a variable.
    env: Option<BTreeMap<String, Option<String>>>,
    /// From its spawn to ready, in seconds.
    start_timeout_s: Option<f64>,
    /// Whether it uses this machine's GPU.
    uses_gpu: Option<bool>,
}

/// `generation_defaults`.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct GenerationDoc {
    max_tokens: Option<u64>,
    min_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    stop_sequences: Option<Vec<String>>,
    /// How much the model can read, in tokens.
    context_window: Option<u64>,
}

/// `chat_template`.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct TemplateDoc {
    /// `embedded`, `external` or `none`.
    source: Option<String>,
    /// The template's file, absolute or below `template_dir`.
    path: Option<String>,
    /// Its hash.
    sha256: Option<String>,
}

/// `metadata`.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct MetadataDoc {
    /// For conversations without a system message.
    default_system_prompt: Option<String>,
    /// A fixture for tests.
    testing: Option<bool>,
    /// Deployment profiles that show the entry; none: all.
    profiles: Option<Vec<String>>,
    /// Written by a download tool.
    created_from_download: Option<bool>,
    /// Long edge to which images are scaled, in pixels.
    vision_target_long_edge: Option<u32>,
    /// Who writes the opening `<think>` of a reasoning model: `prompt` (its template) or `model`.
    think_opened_by: Option<String>,
    /// Stopped when it was not used for so long (s); 0: never.
    idle_unload_s: Option<f64>,
    /// Not stopped for being unused, nor for background work.
    pinned: Option<bool>,
    /// Price of a million tokens.
    pricing: Option<Map<String, Value>>,
}

/// The schema.
pub fn schema() -> Value {
    schema_for!(RegistryFile).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::layers::{LayerFile, read_layer};
    use crate::registry::{EndpointRules, Rules, Snapshot};

    /// Every sample that newcomers copy.
    const SAMPLES: &[(&str, &str)] = &[
        ("openai", include_str!("../../../configs/examples/openai.json")),
        ("vllm", include_str!("../../../configs/examples/vllm.json")),
        ("ollama", include_str!("../../../configs/examples/ollama.json")),
        ("lmdeploy", include_str!("../../../configs/examples/lmdeploy.json")),
        ("triton", include_str!("../../../configs/examples/triton.json")),
        ("gguf", include_str!("../../../configs/examples/gguf.json")),
        (
            "layers-curated",
            include_str!("../../../configs/examples/layers/model_registry.curated.json"),
        ),
        (
            "layers-discovered",
            include_str!("../../../configs/examples/layers/model_registry.discovered.json"),
        ),
    ];

    #[test]
    fn the_samples_satisfy_the_schema_and_load() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        for (name, text) in SAMPLES {
            let value: Value = serde_json::from_str(text).unwrap();
            let errors: Vec<String> =
                validator.iter_errors(&value).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
            let layer = read_layer(name, text.as_bytes()).unwrap();
            assert!(layer.problems.is_empty() && !layer.entries.is_empty(), "{name}");
        }
    }

    #[test]
    fn every_sample_entry_is_served() {
        let read = |wanted: &str| {
            let (name, text) = SAMPLES.iter().find(|(name, _)| *name == wanted).unwrap();
            read_layer(name, text.as_bytes()).unwrap()
        };
        let rules = Rules {
            endpoints: EndpointRules { vllm_single_port: true, ..EndpointRules::default() },
            deployment: "production".into(),
        };
        let (curated, discovered) = (read("layers-curated"), read("layers-discovered"));
        let (snapshot, merged) = Snapshot::build(curated, discovered, &rules);
        assert_eq!(snapshot.problems(), []);
        assert_eq!(snapshot.entries().len(), merged.len());
        assert!(merged.iter().any(|m| m.layers.len() == 2));
        for name in ["openai", "vllm", "ollama", "lmdeploy", "triton", "gguf"] {
            let layer = read(name);
            let count = layer.entries.len();
            let (snapshot, _) = Snapshot::build(layer, LayerFile::default(), &rules);
            assert_eq!(snapshot.problems(), [], "{name}");
            assert_eq!(snapshot.entries().len(), count);
        }
    }

    #[test]
    fn the_schema_refuses_what_the_reader_would_skip() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        for bad in [
            "{}",
            r#"[{"backend": "vllm"}]"#,
            r#"[{"name": ""}]"#,
            r#"[{"name": "a", "backend_config": {"port": 99999}}]"#,
        ] {
            assert!(!validator.is_valid(&serde_json::from_str(bad).unwrap()), "{bad}");
        }
        let nulls = r#"[{"name": "a", "backend": "gguf", "served_model_id": null, "backend_config": null, "new_field": [1]}]"#;
        assert!(validator.is_valid(&serde_json::from_str(nulls).unwrap()));
    }
}
