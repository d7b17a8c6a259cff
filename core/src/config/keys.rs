//! The table of keys: one line each, from which the typed settings, the checks, `print-config`
//! and the sample file's test all come.
//!
//! Owns: name, section, kind, default and meaning of every key. Must never do: read anything.
//! Names and defaults are those of SPEC 3.2; a key's variable is `CHAT_PROXY_` + its name in upper
//! case.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::tables::{ApiKey, Service};
use super::units::{Millis, Seconds};

/// When a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// At once: for the requests, starts and looks that come after it.
    Live,
    /// With the next start of the daemon.
    Restart,
}

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number in a range.
    Int(i64, i64),
    /// A number in a range.
    Float(f64, f64),
    /// Any text.
    Text,
    /// A list of texts; separated by commas in the environment.
    List,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A program and its arguments; split like a shell line in the environment.
    Command,
    /// Names to texts; `NAME=value` separated by commas in the environment.
    Map,
    /// `[[security.api_keys]]`; a comma list of `[admin:]KEY` in the environment.
    ApiKeys,
    /// `[autostart.services.NAME]`; not in the environment.
    Services,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct KeySpec {
    /// Its section in the file.
    pub section: &'static str,
    /// Its name in the file.
    pub name: &'static str,
    /// What a value must look like.
    pub kind: Kind,
    /// The default as TOML; empty: unset.
    pub default: &'static str,
    /// When a change takes effect.
    pub applies: Applies,
    /// What it does, in one sentence.
    pub doc: &'static str,
}

impl KeySpec {
    /// The name of its variable.
    pub fn env(&self) -> String {
        format!("CHAT_PROXY_{}", self.name.to_ascii_uppercase())
    }

    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Whether it names a command, a directory, a file, an address that is called, or who may do what:
    /// only a configured key with the admin right may change it from afar (SPEC 10).
    pub fn is_guarded(&self) -> bool {
        const GUARDED: &[&str] = &[
            "vllm_command",
            "vllm_executor_cwd",
            "vllm_env",
            "vllm_remote_url",
            "services",
            "autostart_map",
            "log_path",
            "vllm_state_path",
            "registry_dir",
            "template_dir",
            "ollama_base_url",
            "loopback_alias",
        ];
        self.section == "security" || GUARDED.contains(&self.name)
    }

    /// Whether "no value" is a value.
    pub fn may_be_unset(&self) -> bool {
        self.default.is_empty()
    }
}

const MS: Kind = Kind::Int(0, 86_400_000);
const S: Kind = Kind::Float(0.0, 31_536_000.0);
const COUNT: Kind = Kind::Int(0, 1_000_000_000);
const BYTES: Kind = Kind::Int(0, 1 << 50);
const PORT: Kind = Kind::Int(1, 65535);
use Applies::{Live, Restart};
use Kind::{ApiKeys, Bool, Choice, Command, Float, Int, List, Map, Services, Text};

macro_rules! sections {
    ($($(#[doc = $about:literal])* $section:ident $Type:ident {
        $($name:ident : $ty:ty = $kind:expr, $default:literal, $applies:expr, $doc:literal;)*
    })*) => {
        $($(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        pub struct $Type { $(#[doc = $doc] pub $name: $ty,)* })*

        /// All settings, checked.
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        pub struct Settings { $($(#[doc = $about])* pub $section: $Type,)* }

        /// Every key there is.
        pub const KEYS: &[KeySpec] = &[$($(KeySpec {
            section: stringify!($section), name: stringify!($name), kind: $kind,
            default: $default, applies: $applies, doc: $doc,
        },)*)*];
    };
}

sections! {
    /// What applies everywhere.
    general General {
        schema_version: u32 = Int(1, 1), "1", Restart, "Version of this file's layout.";
        suppress_decorations: bool = Bool, "true", Live, "Say nothing that OpenAI does not say: in model lists, and in fields of answers.";
        disable_tool_normalization: bool = Bool, "false", Live, "Leave tool calls exactly as the backend wrote them.";
        include_non_installed: bool = Bool, "false", Live, "List models whose files are not on this machine.";
        loopback_alias: Option<String> = Text, "", Restart, "Replaces localhost, 127.0.0.1 and ::1 in backend addresses, for a proxy that runs in a container.";
    }
    /// Where the daemon listens and how it treats connections.
    server Server {
        host: String = Text, "\"127.0.0.1\"", Restart, "Address to listen on.";
        port: u16 = Int(0, 65535), "8100", Restart, "Port to listen on; 0 takes a free one and writes it to _staging/chat_proxy.port.";
        enable_metrics: bool = Bool, "false", Restart, "Serve /metrics for Prometheus.";
        log_path: String = Text, "\"logs/chat_proxy.jsonl\"", Restart, "The request log: one JSON object per line and request.";
        max_log_bytes: u64 = Int(1024, 1 << 50), "25_000_000", Live, "The request log is rotated before it grows over this many bytes.";
        default_model: Option<String> = Text, "", Live, "Model for requests that name none.";
        registry_dir: String = Text, "\"configs\"", Restart, "Directory of the model registry.";
        template_dir: String = Text, "\"chat_templates\"", Live, "Directory of chat templates.";
        heartbeat_ms: Millis = MS, "10_000", Live, "Streaming clients that wait get an SSE comment this often (ms); 0 turns comments off.";
        client_write_timeout_s: Seconds = S, "30", Restart, "A client that stays connected but does not read is cut after this (s).";
        client_header_timeout_s: Seconds = S, "15", Restart, "A client must send its whole request head within this (s), and with HTTPS end its handshake within as much before.";
        keep_alive_s: Seconds = S, "75", Restart, "Idle client connections are closed after this (s).";
        max_connections: u32 = Int(1, 1_000_000), "4096", Restart, "Client connections at once; further ones wait to be accepted.";
        drain_timeout_s: Seconds = S, "60", Live, "At shutdown running streams may go on for this long (s).";
        keep_backends_on_exit: bool = Bool, "false", Restart, "Leave an engine that loads or serves running when the daemon stops: the next one takes it over, `sweep` ends it.";
        include_test_models: bool = Bool, "false", Live, "List test fixtures too.";
    }
    /// How long backends may take.
    timeouts Timeouts {
        backend_timeout_ms: Millis = MS, "120_000", Live, "Streamed requests: the backend's response head must come within this (ms); 0 = no limit.";
        stream_idle_timeout_ms: Millis = MS, "60_000", Live, "Streamed requests: longest silence between two pieces of an answer (ms); 0 = no limit.";
        first_token_timeout_ms: Millis = MS, "600_000", Live, "Streamed requests: the first content must come within this (ms); 0 = no limit.";
        unary_timeout_ms: Millis = MS, "1_200_000", Live, "Requests that are not streamed: the whole answer must come within this (ms); 0 = no limit.";
    }
    /// Services that are started on demand.
    autostart Autostart {
        autostart_enabled: bool = Bool, "true", Live, "Start engines and services when a request needs them; by hand they can always be started.";
        autostart_map: Option<String> = Text, "", Restart, "What to start for whom: backend=service, separated by commas, or JSON {model: {command: [...]}}; a service is a table below, or an entry of the registry.";
        autostart_grace_period_s: Seconds = S, "120", Restart, "A started service must be ready within this (s), where its table does not say.";
        autostart_stop_timeout_s: Seconds = S, "30", Restart, "A service gets this long between its stop signal and SIGKILL (s).";
        services: BTreeMap<String, Service> = Services, "{}", Restart, "Tables that say how a service is started: command, cwd, env, ready_url or ready_log, grace_period_s, stop_signal, models.";
    }
    /// What a request may hold.
    limits Limits {
        max_body_bytes: u64 = BYTES, "67_108_864", Live, "Largest request body (bytes).";
        max_buffered_bytes: u64 = BYTES, "536_870_912", Restart, "Request bodies held in memory by all requests together (bytes).";
        body_spool_bytes: u64 = BYTES, "1_048_576", Restart, "Bodies of relayed requests over this wait in an unlinked file in _staging, not in memory (bytes).";
        max_spooled_bytes: u64 = BYTES, "4_294_967_296", Restart, "Request bodies that wait in such files, all together (bytes).";
        require_template: bool = Bool, "true", Live, "Refuse models of local engines that have no chat template.";
        max_image_bytes: u64 = BYTES, "6_000_000", Live, "Images of one request together, decoded from base64 (bytes).";
        max_decode_pixels: u64 = COUNT, "100_000_000", Live, "Images with more pixels are not decoded.";
        fetch_remote_images: bool = Bool, "false", Live, "Fetch http(s) images for backends that cannot (Ollama), from public addresses.";
        fetch_remote_images_private: bool = Bool, "false", Live, "Fetch them from private addresses too.";
        strict_capabilities: bool = Bool, "false", Live, "Refuse tools for models that are flagged as having none.";
        reasoning_format: String = Choice(&["keep", "extract", "strip"]), "\"keep\"", Live, "What happens to thoughts that stand as think tags in the text.";
        reasoning_field: String = Choice(&["both", "reasoning", "reasoning_content"]), "\"both\"", Live, "The field in which clients get reasoning.";
    }
    /// Images on their way to vision models.
    vision_preprocess VisionPreprocess {
        auto_downscale_images: bool = Bool, "true", Live, "Scale large images down.";
        max_image_pixels: u32 = Int(1, 65535), "448", Live, "Long edge of scaled images (pixels).";
        image_jpeg_quality: u8 = Int(1, 100), "85", Live, "JPEG quality of scaled images.";
        vision_downscale_backends: Vec<String> = List, "[\"vllm\"]", Live, "Backends whose images are scaled.";
    }
    /// History of conversations with images.
    vision_history VisionHistory {
        vision_truncate_history: bool = Bool, "true", Live, "Drop earlier turns of requests with images.";
        vision_keep_system: bool = Bool, "true", Live, "Keep system messages when turns are dropped.";
        vision_keep_last_n_turns: u32 = COUNT, "0", Live, "Earlier turns that stay.";
    }
    /// History of conversations with reasoning models.
    reasoning_history ReasoningHistory {
        reasoning_truncate_history: bool = Bool, "false", Live, "Drop earlier turns for reasoning models.";
        reasoning_keep_system: bool = Bool, "true", Live, "Keep system messages when turns are dropped.";
        reasoning_keep_last_n_turns: u32 = COUNT, "1", Live, "Earlier turns that stay.";
    }
    /// The supervised vLLM.
    vllm Vllm {
        vllm_single_port: bool = Bool, "true", Restart, "Supervise vLLM on one port; false relays vLLM entries to their own ports.";
        vllm_port: u16 = PORT, "24001", Restart, "The port of the supervised vLLM.";
        vllm_command: Option<Vec<String>> = Command, "", Live, "How vLLM is started; unset: found (vllm serve, else uv run vllm serve, else python3 -m vllm.entrypoints.openai.api_server).";
        vllm_env: BTreeMap<String, String> = Map, "{}", Live, "Environment of engines, on top of the daemon's own.";
        vllm_state_path: String = Text, "\"_staging/active_vllm.json\"", Restart, "Where the running engine is remembered.";
        vllm_start_timeout_s: Seconds = S, "600", Live, "From spawn to ready (s).";
        vllm_stop_timeout_s: Seconds = S, "30", Live, "An engine that serves gets this long between SIGTERM and SIGKILL (s).";
        vllm_health_timeout_s: Seconds = S, "180", Live, "A loading engine may be silent for this long (s).";
        vllm_health_host: String = Text, "\"127.0.0.1\"", Live, "Host for engines without one of their own.";
        vllm_restart_backoff_s: Seconds = S, "2.0", Live, "First pause after a failed start (s); it doubles up to 60.";
        vllm_gpu_memory_utilization: f64 = Float(0.0, 1.0), "0.75", Live, "Part of the GPU's memory for vLLM.";
        vllm_max_model_len: Option<u32> = Int(1, 100_000_000), "", Live, "Context length for all models.";
        vllm_remote_url: Option<String> = Text, "", Restart, "Reserved for a remote executor; leave it unset.";
        vllm_executor_cwd: Option<String> = Text, "", Live, "Working directory of engines.";
        vllm_log_max_bytes: u64 = Int(1024, 1 << 50), "25_000_000", Live, "A running engine's log is rotated at this size (bytes); before each start it is in any case.";
        health_interval_s: Seconds = Float(0.1, 86_400.0), "5", Live, "Pause between health probes of an engine that serves (s).";
        health_probe_timeout_s: Seconds = Float(0.1, 86_400.0), "5", Live, "A health probe may take this long (s); a later answer counts as none, unless the engine sent something meanwhile.";
        health_failures: u32 = Int(1, 1000), "3", Live, "Probes in a row that were refused, answered badly or late: then the engine is ended and started anew.";
        breaker_failures: u32 = Int(1, 1000), "3", Live, "So many failures of one model within breaker_window_s are a crash loop: it is refused at once, with the telling line.";
        breaker_window_s: Seconds = S, "600", Live, "See breaker_failures (s).";
        breaker_open_s: Seconds = S, "60", Live, "A model in a crash loop is not started for this long (s), then once; after each further failure twice as long, at most 900. An activation by hand, or a change of its entry, begins anew.";
        abandoned_load_grace_s: Option<Seconds> = S, "", Live, "A load that nobody waits for may go on for this long (s); unset: no limit.";
        loading_stop_grace_s: Seconds = S, "3", Live, "An engine that loads gets this long between SIGTERM and SIGKILL (s).";
    }
    /// Ollama.
    ollama Ollama {
        ollama_base_url: String = Text, "\"http://127.0.0.1:11434\"", Restart, "Where Ollama answers; entries may name another place.";
        ollama_stop_timeout_s: Seconds = S, "30", Live, "Unloading must be confirmed by Ollama within this (s), before a vLLM starts.";
        ollama_load_timeout_s: Seconds = S, "300", Live, "Loading must be done within this (s); 0 = no limit.";
        ollama_allow_cpu_fallback: bool = Bool, "false", Live, "Let Ollama run a model from main memory where this machine has a GPU; else that is a failed load.";
        ollama_shares_gpu: String = Choice(&["auto", "always", "never"]), "\"auto\"", Restart, "Whether Ollama takes turns at the GPU with vLLM; auto: if its address is loopback, the loopback alias, or a name without a dot.";
        ollama_keep_alive: Option<String> = Text, "", Live, "How long Ollama keeps a model after a request (seconds, or 10m, -1 for ever), where the entry does not say; unset: its own default.";
    }
    /// The request log, and the daemon's own.
    logging Logging {
        log_prompts: bool = Bool, "false", Live, "Write conversations into the request log.";
        max_log_files: u32 = Int(0, 1000), "5", Live, "Rotated request logs that are kept.";
        log_format: String = Choice(&["auto", "human", "json", "journald"]), "\"auto\"", Restart, "How the daemon's own log looks, on stderr; auto: for people on a terminal, to the journal under systemd, else JSON.";
    }
    /// Metrics.
    metrics Metrics {
        metrics_public: bool = Bool, "false", Live, "/metrics needs no key.";
    }
    /// Who is served when.
    scheduler Scheduler {
        max_queue_depth: u32 = COUNT, "512", Live, "Requests that may wait for a turn at the GPU, over all models; as many for places at other models, and as many for the end of a lease.";
        max_queue_wait_s: Seconds = S, "600", Live, "Longest wait for a turn (s).";
        max_concurrent_per_model: u32 = COUNT, "0", Restart, "Requests at once for one model; 0 = no limit.";
        swap_drain_timeout_s: Seconds = S, "0", Live, "A swap cuts running requests after this (s); 0 = no limit.";
        max_swap_wait_s: Seconds = S, "120", Live, "An interactive request causes a swap at the latest after this (s).";
        background_swap_wait_s: Seconds = S, "600", Live, "A background request causes a swap at the latest after this (s).";
        background_idle_s: Seconds = S, "20", Live, "Quiet time before background work may cause a swap (s).";
        background_rules: Vec<String> = List, "[]", Live, "Requests that are background work although they do not say so: \"HEADER: PATTERN\" or \"metadata.FIELD: PATTERN\", with * and ?; x-request-class beats them.";
        idle_unload_s: Seconds = S, "0", Live, "A model that nobody has used for this long (s) is unloaded, unless it is pinned; 0 = never. An entry's metadata.idle_unload_s goes first.";
        preload: Vec<String> = List, "[]", Restart, "Models, or services, that are loaded at start, one after the other, in the background.";
        lease_wait: bool = Bool, "false", Live, "Requests wait while the GPU is leased, instead of being refused.";
        lease_drain_timeout_s: Seconds = S, "120", Live, "A lease waits for running requests at most this long (s).";
    }
    /// Who may do what.
    security Security {
        api_keys: Vec<ApiKey> = ApiKeys, "[]", Live, "Keys that clients must send; empty: none is needed on loopback.";
        allowed_hosts: Vec<String> = List, "[]", Live, "Further names in the Host header that are answered.";
        cors_origins: Vec<String> = List, "[]", Live, "Web pages (origins) that may call from a browser.";
        allow_unauthenticated: bool = Bool, "false", Live, "Listen on other than loopback addresses without keys.";
        tls_cert_file: Option<String> = Text, "", Restart, "Certificate chain (PEM, the server's own certificate first): with tls_key_file the daemon serves HTTPS instead of HTTP; new files are taken without a restart.";
        tls_key_file: Option<String> = Text, "", Restart, "Private key of that certificate (PEM, without a passphrase); only the daemon's user should be able to read it.";
    }
    /// Deployment and hardware profiles.
    profiles Profiles {
        profile: String = Text, "\"auto\"", Live, "Hardware profile by name, or auto: by the GPUs that are found.";
        deployment: String = Text, "\"production\"", Live, "Deployment profile: which entries there are, by their metadata.profiles.";
    }
}
