//! Lists and names.

use super::*;

#[test]
fn loaded_models_are_read() {
    let body = br#"{"models":[{"name":"qwen3:8b","model":"qwen3:8b","size":6591830464,"digest":"a","details":{"family":"qwen3"},"expires_at":"2026-01-02T03:04:05.678+02:00","size_vram":0,"context_length":4096},{"name":"old:latest","size":7}]}"#;
    let loaded = parse_ps(body).unwrap();
    assert_eq!(
        loaded[0],
        Loaded {
            name: "qwen3:8b".into(),
            size: 6_591_830_464,
            size_vram: 0,
            context_length: Some(4096),
            expires_at: Some("2026-01-02T03:04:05.678+02:00".into()),
        }
    );
    let old = Loaded {
        name: "old:latest".into(),
        size: 7,
        size_vram: 0,
        context_length: None,
        expires_at: None,
    };
    assert_eq!(loaded[1..], [old]);
}

#[test]
fn installed_models_are_read() {
    let body = br#"{"models":[{"name":"l:8b","model":"l:8b","modified_at":"x","size":9,"digest":"abc","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"8.0B","quantization_level":"Q4_K_M"},"capabilities":["completion","tools"]},{"name":"bare","details":{"family":""}}]}"#;
    let tags = parse_tags(body).unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        tags[0],
        Tag {
            name: "l:8b".into(),
            size: Some(9),
            digest: text("abc"),
            capabilities: Some(vec!["completion".into(), "tools".into()]),
            family: text("llama"),
            parameter_size: text("8.0B"),
            quantization: text("Q4_K_M"),
        }
    );
    assert_eq!((&tags[1].size, &tags[1].family, &tags[1].capabilities), (&None, &None, &None));
}

#[test]
fn an_empty_list_is_one_and_anything_else_is_nonsense() {
    assert_eq!(parse_ps(br#"{"models":null}"#), Ok(vec![]));
    assert_eq!(parse_tags(br#"{"models":[]}"#), Ok(vec![]));
    assert!(matches!(parse_ps(b"{}"), Err(Nonsense::Shape { .. })));
    assert!(matches!(parse_ps(br#"{"models":[{}]}"#), Err(Nonsense::Shape { .. })));
    assert!(matches!(parse_tags(b"[]"), Err(Nonsense::NotAnObject { .. })));
    let html = format!("<html>{}", "é".repeat(900));
    match parse_tags(html.as_bytes()) {
        Err(Nonsense::NotJson { shown }) => assert_eq!(shown.chars().count(), 200),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_compared_as_ollama_does() {
    for (a, b, same) in [
        ("m", "m:latest", true),
        ("M:Latest", "m", true),
        ("m:8b", "m", false),
        ("m:8b", "m:8B", true),
        ("library/m", "m", true),
        ("registry.ollama.ai/library/m:latest", "m", true),
        ("ann/m", "m", false),
        ("ann/m:x", "Ann/M:X", true),
        ("host:5000/ann/m", "host:5000/ann/m:latest", true),
        ("host:5000/ann/m", "host:5001/ann/m", false),
        ("hf.co/ann/m:Q4", "ann/m:Q4", false),
        ("m1", "m2", false),
    ] {
        assert_eq!(same_model(a, b), same, "{a} {b}");
        assert_eq!(same_model(b, a), same, "{b} {a}");
    }
}

#[test]
fn abilities_are_those_that_a_model_is_said_to_have() {
    let shown = br#"{"license":"x","capabilities":["completion","thinking"],"details":{}}"#;
    let abilities = parse_abilities(shown).unwrap().unwrap();
    assert_eq!(abilities, ["completion", "thinking"]);
    assert_eq!(parse_abilities(br#"{"license":"x"}"#).unwrap(), None, "an old version");
    assert!(parse_abilities(b"<html>").is_err());
}
