use proptest::prelude::*;
use serde_json::json;

use super::*;

fn files(names: &[(&str, u64)]) -> Vec<File> {
    names.iter().map(|(path, size)| File { path: (*path).to_owned(), size: *size }).collect()
}

fn parts(all: &[(&str, Vec<u8>)]) -> Parts {
    all.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect()
}

fn safetensors_of(dtype: &str) -> Vec<u8> {
    let json = json!({"w": {"dtype": dtype, "shape": [4, 4], "data_offsets": [0, 32]}}).to_string();
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

/// Pairs of a text or a 32-bit number.
fn gguf_of(pairs: &[(&str, Value)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend((pairs.len() as u64).to_le_bytes());
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    for (key, value) in pairs {
        bytes.extend(text(key));
        match value {
            Value::String(value) => {
                bytes.extend(8u32.to_le_bytes());
                bytes.extend(text(value));
            }
            number => {
                bytes.extend(4u32.to_le_bytes());
                let number = u32::try_from(number.as_u64().unwrap()).unwrap();
                bytes.extend(number.to_le_bytes());
            }
        }
    }
    bytes
}

fn llama(quantization: u32) -> Vec<u8> {
    gguf_of(&[
        ("general.architecture", json!("llama")),
        ("llama.context_length", json!(4096)),
        ("general.file_type", json!(quantization)),
        ("tokenizer.chat_template", json!("{{ messages }}")),
    ])
}

#[test]
fn a_plain_download_is_what_its_weights_are() {
    let names = [
        ("config.json", 10),
        ("model-00001-of-00002.safetensors", 100),
        ("model-00002-of-00002.safetensors", 90),
        ("model.safetensors.index.json", 5),
        ("chat_template.jinja", 7),
        ("tokenizer_config.json", 3),
        ("original/consolidated.00.pth", 1000),
    ];
    let list = files(&names);
    let asked: Vec<String> = wanted(&list).into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        asked,
        [
            "config.json",
            "model.safetensors.index.json",
            "tokenizer_config.json",
            "model-00001-of-00002.safetensors"
        ]
    );
    let config = json!({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192,
        "torch_dtype": "float16", "vision_config": {}});
    let index = json!({"weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors"}});
    let read = parts(&[
        ("config.json", config.to_string().into_bytes()),
        ("model.safetensors.index.json", index.to_string().into_bytes()),
        ("model-00001-of-00002.safetensors", safetensors_of("BF16")),
    ]);
    let mut paths: Vec<String> = names.iter().map(|(path, _)| (*path).to_owned()).collect();
    paths.sort();
    let want = Found {
        format: "safetensors".into(),
        quantization: Some("BF16".into()),
        size_bytes: 1215,
        files: paths,
        context_window: Some(8192),
        template: FoundTemplate::External("chat_template.jinja".into()),
        capabilities: ["vision"].into(),
        architecture: Some("LlamaForCausalLM".into()),
        oddities: Vec::new(),
    };
    assert_eq!(recognise(&list, &read), Ok(want));
}

#[test]
fn formats_are_told_apart() {
    let of = |config: Value, weights: &str| {
        let list = files(&[("config.json", 1), ("model.safetensors", 2)]);
        let read = parts(&[
            ("config.json", config.to_string().into_bytes()),
            ("model.safetensors", safetensors_of(weights)),
        ]);
        let found = recognise(&list, &read).unwrap();
        (found.format, found.quantization.unwrap_or_default())
    };
    let config = |method: Value| json!({"torch_dtype": "bfloat16", "quantization_config": method});
    for (config, weights, format, quantization) in [
        (json!({}), "BF16", "safetensors", "BF16"),
        (json!({"torch_dtype": "float32"}), "F16", "safetensors", "FP16"),
        (json!({"torch_dtype": "float32"}), "I64", "safetensors", "FP32"),
        (json!({}), "F8_E4M3", "fp8", "FP8"),
        (config(json!({"quant_method": "awq", "bits": 4})), "I32", "awq", "awq"),
        (config(json!({"quant_method": "gptq", "bits": 8})), "I32", "gptq", "gptq-8bit"),
        (config(json!({"quant_method": "fp8"})), "F8_E4M3", "fp8", "fp8"),
        (config(json!({"load_in_4bit": true})), "U8", "bitsandbytes", "bnb-4bit"),
        (config(json!(null)), "BF16", "safetensors", "BF16"),
    ] {
        assert_eq!(of(config.clone(), weights), (format.into(), quantization.into()), "{config}");
    }
    let list = files(&[("pytorch_model.bin", 3), ("config.json", 1)]);
    let read = parts(&[("config.json", br#"{"torch_dtype":"float16"}"#.to_vec())]);
    let found = recognise(&list, &read).unwrap();
    assert_eq!((found.format.as_str(), found.quantization.as_deref()), ("pytorch", Some("FP16")));
}

#[test]
fn a_quantisers_own_file_counts_where_the_config_is_silent() {
    let list = files(&[("config.json", 1), ("model.safetensors", 2), ("quantize_config.json", 3)]);
    let read = parts(&[
        ("config.json", b"{}".to_vec()),
        ("quantize_config.json", br#"{"bits": 4, "group_size": 128}"#.to_vec()),
        ("model.safetensors", safetensors_of("I32")),
    ]);
    assert_eq!(recognise(&list, &read).unwrap().format, "gptq");
}

#[test]
fn parts_of_a_gguf_count_as_one_and_a_projector_lets_it_see() {
    let list = files(&[
        ("m-Q4_K_M-00002-of-00002.gguf", 40),
        ("m-Q4_K_M-00001-of-00002.gguf", 50),
        ("mmproj-m-f16.gguf", 9),
        ("README.md", 1),
    ]);
    let asked = wanted(&list);
    assert_eq!(
        asked,
        [
            ("m-Q4_K_M-00001-of-00002.gguf".to_owned(), Part::Gguf),
            ("mmproj-m-f16.gguf".to_owned(), Part::Gguf)
        ]
    );
    let projector = gguf_of(&[("general.architecture", json!("clip"))]);
    let read =
        parts(&[("m-Q4_K_M-00001-of-00002.gguf", llama(15)), ("mmproj-m-f16.gguf", projector)]);
    let found = recognise(&list, &read).unwrap();
    assert_eq!((found.format.as_str(), found.quantization.as_deref()), ("gguf", Some("Q4_K_M")));
    assert_eq!((found.size_bytes, found.context_window), (100, Some(4096)));
    assert_eq!(found.template, FoundTemplate::Embedded);
    assert_eq!(found.capabilities, ["vision"].into());
    assert_eq!(found.oddities, [""; 0]);
}

#[test]
fn what_is_odd_is_said() {
    let odd = |list: &[File], read: &Parts| recognise(list, read).unwrap().oddities.join("; ");
    let index = json!({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).to_string();
    let list = files(&[("m-1.safetensors", 1), ("model.safetensors.index.json", 1)]);
    let read = parts(&[("model.safetensors.index.json", index.into_bytes())]);
    assert_eq!(odd(&list, &read), "1 of 2 parts are missing: m-2.safetensors");
    let list = files(&[("m-00001-of-00003.gguf", 1), ("m-00003-of-00003.gguf", 1)]);
    assert_eq!(odd(&list, &Parts::new()), "2 of 3 parts of m are here");
    let list = files(&[("m-Q4.gguf", 1), ("m-Q8.gguf", 1)]);
    assert!(odd(&list, &Parts::new()).starts_with("there are 2 models in it (m-Q4, m-Q8"));
    let list = files(&[("m.gguf", 1)]);
    assert_eq!(odd(&list, &parts(&[("m.gguf", b"PK".to_vec())])), "m.gguf: it is no GGUF file");
    let list = files(&[("config.json", 1), ("m.safetensors", 1), ("tokenizer_config.json", 1)]);
    let read = parts(&[("config.json", b"{".to_vec()), ("tokenizer_config.json", b"?".to_vec())]);
    assert_eq!(odd(&list, &read), "config.json is no JSON; tokenizer_config.json is no JSON");
    assert_eq!(recognise(&[], &Parts::new()), Err(NoModel::Empty));
    let list = files(&[("README.md", 1), ("adapter_model.safetensors", 1)]);
    assert_eq!(recognise(&list, &Parts::new()), Err(NoModel::NoWeights));
}

#[test]
fn templates_are_found_where_engines_look_for_them() {
    let template = |names: &[&str], read: &[(&str, Vec<u8>)]| {
        let mut all = vec![("model.safetensors", 1)];
        all.extend(names.iter().map(|name| (*name, 1)));
        recognise(&files(&all), &parts(read)).unwrap().template
    };
    let one = br#"{"chat_template": "{{ x }}"}"#.to_vec();
    let external = |name: &str| FoundTemplate::External(name.to_owned());
    let tokenizer = ("tokenizer_config.json", one.clone());
    assert_eq!(
        template(&["tokenizer_config.json"], std::slice::from_ref(&tokenizer)),
        FoundTemplate::Embedded
    );
    assert_eq!(template(&["x.jinja", "tokenizer_config.json"], &[tokenizer]), external("x.jinja"));
    assert_eq!(
        template(&["chat_template.json"], &[("chat_template.json", one)]),
        FoundTemplate::Embedded
    );
    assert_eq!(
        template(&["chat_template.jinja", "additional_chat_templates/rag.jinja"], &[]),
        FoundTemplate::Embedded
    );
    let none = ("tokenizer_config.json", b"{}".to_vec());
    assert_eq!(template(&["tokenizer_config.json"], &[none]), FoundTemplate::None);
    assert_eq!(template(&["docs/x.jinja"], &[]), FoundTemplate::None);
}

#[test]
fn parts_are_known_by_their_names() {
    for (path, want) in [
        ("m-00001-of-00003.gguf", Some(("m", 1, 3))),
        ("a/m-q4-00012-of-00012.gguf", Some(("a/m-q4", 12, 12))),
        ("m-of-3.gguf", None),
        ("m-1x-of-3.gguf", None),
        ("m-1-of-9999999999999999999.gguf", None),
        ("m.gguf", None),
        ("-of-", None),
    ] {
        assert_eq!(part_of(path), want, "{path}");
    }
    assert_eq!((model_of("m-1-of-2.gguf"), model_of("m.gguf")), ("m", "m"));
}

proptest! {
    #[test]
    fn no_download_does_harm(
        names in proptest::collection::vec("[a-zé./-]{0,12}(config.json|.gguf|.safetensors|-00001-of-00002.gguf|.index.json|.jinja|)", 0..6),
        bytes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 6),
    ) {
        let list: Vec<File> =
            names.iter().map(|path| File { path: path.clone(), size: u64::MAX / 2 }).collect();
        let read: Parts = names.iter().cloned().zip(bytes).collect();
        let _ = wanted(&list);
        let _ = recognise(&list, &read);
    }
}
