//! What the settings files beside a model's weights say of it.
//!
//! Owns: `config.json`, and the files of quantisers. Must never do: fail; a file that says nothing
//! understandable says nothing.

use serde_json::Value;

use super::safetensors::precision_of;

/// The model's own settings.
pub(super) const CONFIG: &str = "config.json";
/// What quantisers have written beside it, before `config.json` had a place for it.
pub(super) const QUANTIZERS: &[&str] =
    &["quantize_config.json", "quant_config.json", "hf_quant_config.json"];

/// No name of a method is longer.
const LONGEST_METHOD: usize = 32;

/// How the weights were made smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantized {
    /// `awq`, `gptq`, `fp8`, `compressed-tensors`, `bitsandbytes`, …
    pub(super) format: String,
    /// `awq`, `gptq-8bit`, `w4a16`, …
    pub(super) name: String,
}

/// What `config.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) architecture: Option<String>,
    pub(super) context_window: Option<u64>,
    pub(super) precision: Option<&'static str>,
    pub(super) quantized: Option<Quantized>,
    pub(super) has_vision: bool,
    pub(super) has_audio: bool,
}

impl Config {
    pub(super) fn read(json: &Value) -> Config {
        let within = |key: &str| json.get(key).or_else(|| json.get("text_config")?.get(key));
        let lengths =
            ["max_position_embeddings", "max_sequence_length", "n_positions", "seq_length"];
        let dtypes = ["torch_dtype", "dtype"];
        let seen = ["vision_config", "vision_tower", "mm_vision_tower", "visual"];
        let has = |key: &str| json.get(key).is_some_and(|value| !value.is_null());
        let method = within("quantization_config").or_else(|| within("compression_config"));
        Config {
            architecture: json["architectures"][0].as_str().map(str::to_owned),
            context_window: lengths.iter().find_map(|key| within(key)?.as_u64()),
            precision: dtypes.iter().find_map(|key| precision_of(within(key)?.as_str()?)),
            quantized: method.and_then(Quantized::of_config),
            has_vision: seen.into_iter().any(has),
            has_audio: has("audio_config"),
        }
    }
}

impl Quantized {
    /// `quantization_config` of `config.json`.
    fn of_config(config: &Value) -> Option<Quantized> {
        let method = config["quant_method"].as_str().or_else(|| {
            let is_bitsandbytes = config.get("load_in_4bit").or(config.get("load_in_8bit"));
            is_bitsandbytes.map(|_| "bitsandbytes")
        })?;
        let format = plain(method)?;
        let name = match format.as_str() {
            "bitsandbytes" | "bnb" => {
                return Some(Quantized { format: "bitsandbytes".to_owned(), name: bnb(config) });
            }
            "compressed-tensors" => compressed(config).unwrap_or_else(|| format.clone()),
            "modelopt" => {
                let named = config["quant_algo"].as_str().and_then(plain);
                named.unwrap_or_else(|| format.clone())
            }
            _ => with_bits(&format, bits_of(config)),
        };
        Some(Quantized { format, name })
    }

    /// A file of its own, by its name.
    pub(super) fn of_file(name: &str, json: &Value) -> Option<Quantized> {
        let (format, name) = match name {
            "hf_quant_config.json" => {
                let algorithm = json["quantization"]["quant_algo"].as_str().and_then(plain)?;
                ("modelopt".to_owned(), algorithm)
            }
            "quant_config.json" => ("awq".to_owned(), with_bits("awq", bits_of(json))),
            _ => {
                let method = json["quant_method"].as_str().and_then(plain);
                let bits = bits_of(json);
                let method = method.or_else(|| bits.map(|_| "gptq".to_owned()))?;
                let name = with_bits(&method, bits);
                (method, name)
            }
        };
        Some(Quantized { format, name })
    }
}

fn bits_of(config: &Value) -> Option<u64> {
    ["bits", "w_bit", "nbits"].iter().find_map(|key| config.get(key)?.as_u64())
}

/// These mean four bits where nothing is said.
fn with_bits(method: &str, bits: Option<u64>) -> String {
    match bits {
        Some(bits) if bits != 4 && matches!(method, "awq" | "gptq") => {
            format!("{method}-{bits}bit")
        }
        _ => method.to_owned(),
    }
}

fn bnb(config: &Value) -> String {
    let is_four = config["load_in_4bit"] == true || config["_load_in_4bit"] == true;
    let is_eight = config["load_in_8bit"] == true || config["_load_in_8bit"] == true;
    let name = if is_eight && !is_four { "bnb-8bit" } else { "bnb-4bit" };
    name.to_owned()
}

/// By the first group that says how many bits weights and activations have.
fn compressed(config: &Value) -> Option<String> {
    let groups = config["config_groups"].as_object()?;
    groups.values().find_map(|group| {
        let weights = &group["weights"];
        let bits = weights["num_bits"].as_u64().filter(|bits| (1..=16).contains(bits))?;
        let activations = &group["input_activations"];
        let of_activations = activations["num_bits"].as_u64().unwrap_or(16).min(16);
        Some(match (weights["type"].as_str(), bits) {
            (Some("float"), 8) => "fp8".to_owned(),
            (Some("float"), 4) if activations.is_null() => "fp4a16".to_owned(),
            (Some("float"), 4) => "fp4".to_owned(),
            _ => format!("w{bits}a{of_activations}"),
        })
    })
}

/// A name as we write it; what is none is none.
fn plain(name: &str) -> Option<String> {
    let name = name.trim().to_ascii_lowercase();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!name.is_empty() && name.len() <= LONGEST_METHOD && name.chars().all(is_name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn methods_of_quantisers_are_read() {
        let group = |weights: Value, activations: Value| {
            json!({"quant_method": "compressed-tensors", "config_groups": {"group_0":
                {"weights": weights, "input_activations": activations}}})
        };
        for (config, format, name) in [
            (json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "awq", "awq"),
            (json!({"quant_method": "gptq", "bits": 8}), "gptq", "gptq-8bit"),
            (json!({"quant_method": "GPTQ"}), "gptq", "gptq"),
            (json!({"quant_method": "fp8", "activation_scheme": "dynamic"}), "fp8", "fp8"),
            (json!({"quant_method": "mxfp4"}), "mxfp4", "mxfp4"),
            (
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
                "bitsandbytes",
                "bnb-4bit",
            ),
            (json!({"load_in_8bit": true, "load_in_4bit": false}), "bitsandbytes", "bnb-8bit"),
            (json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), "modelopt", "nvfp4"),
            (
                group(json!({"num_bits": 4, "type": "int"}), json!(null)),
                "compressed-tensors",
                "w4a16",
            ),
            (
                group(json!({"num_bits": 8, "type": "int"}), json!({"num_bits": 8})),
                "compressed-tensors",
                "w8a8",
            ),
            (
                group(json!({"num_bits": 8, "type": "float"}), json!({"num_bits": 8})),
                "compressed-tensors",
                "fp8",
            ),
            (
                json!({"quant_method": "compressed-tensors"}),
                "compressed-tensors",
                "compressed-tensors",
            ),
        ] {
            let read = Config::read(&json!({"quantization_config": config})).quantized.unwrap();
            assert_eq!((read.format.as_str(), read.name.as_str()), (format, name), "{config}");
        }
        for none in [json!({}), json!(null), json!({"quant_method": "../x y"}), json!([1])] {
            assert_eq!(Config::read(&json!({"quantization_config": none})).quantized, None);
        }
    }

    #[test]
    fn files_of_quantisers_are_read() {
        let read = |name: &str, json: Value| {
            Quantized::of_file(name, &json).map(|read| (read.format, read.name))
        };
        let some = |format: &str, name: &str| Some((format.to_owned(), name.to_owned()));
        assert_eq!(read("quantize_config.json", json!({"bits": 4})), some("gptq", "gptq"));
        let awq = json!({"quant_method": "awq", "bits": 4});
        assert_eq!(read("quantize_config.json", awq), some("awq", "awq"));
        assert_eq!(read("quant_config.json", json!({"w_bit": 4})), some("awq", "awq"));
        let modelopt = json!({"quantization": {"quant_algo": "FP8"}});
        assert_eq!(read("hf_quant_config.json", modelopt), some("modelopt", "fp8"));
        assert_eq!(read("quantize_config.json", json!({"x": 1})), None);
        assert_eq!(read("hf_quant_config.json", json!([])), None);
    }

    #[test]
    fn a_config_tells_window_precision_and_senses() {
        let config = Config::read(&json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "vision_config": {"depth": 32},
            "text_config": {"max_position_embeddings": 128_000, "torch_dtype": "bfloat16"}
        }));
        assert_eq!((config.context_window, config.precision), (Some(128_000), Some("BF16")));
        assert!(config.has_vision && !config.has_audio);
        let config = Config::read(
            &json!({"n_positions": 1024, "dtype": "torch.float16", "vision_config": null}),
        );
        assert_eq!((config.context_window, config.precision), (Some(1024), Some("FP16")));
        assert!(!config.has_vision);
        assert_eq!(Config::read(&json!("nonsense")), Config::default());
    }
}
