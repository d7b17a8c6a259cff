//! The fields of a request beside its messages.

use super::*;

/// These fields become this much of the native body, and this is lost.
fn assert_becomes(fields: Value, native: &Value, lost: Option<&str>) {
    let name = fields.to_string();
    let got = with(fields).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(&rest_of(&got), native, "{name}");
    assert_eq!(got.losses.header().as_deref(), lost, "{name}");
    assert_eq!(got.losses.is_empty(), lost.is_none());
}

#[test]
fn the_body_is_the_same_to_the_byte_every_time() {
    let mut pinned = pinned();
    pinned.options = object(json!({"num_ctx": 4096, "temperature": 0.1}));
    pinned.keep_alive = Some(json!(-1));
    let body = request(json!({"top_p": 0.5, "temperature": 0.7, "stream": true, "seed": 3}));
    assert_eq!(
        translated(&body, &pinned).unwrap().body,
        r#"{"model":"qwen3:8b","messages":[{"role":"user","content":"hi"}],"stream":true,"options":{"num_ctx":4096,"temperature":0.7,"top_p":0.5,"seed":3},"keep_alive":-1}"#
    );
}

#[test]
fn sampling_parameters_become_options() {
    let all = json!({"temperature": 0.7, "top_p": 0.9, "seed": -7, "stop": "END", "frequency_penalty": 0.1,
        "presence_penalty": -0.2, "top_k": 40, "min_p": 0.05, "typical_p": 0.8, "repeat_penalty": 1.1,
        "repeat_last_n": 64, "num_keep": 5, "max_tokens": 100});
    let mut options = all.clone();
    options["stop"] = json!(["END"]);
    options["num_predict"] = json!(100);
    object_mut(&mut options).remove("max_tokens");
    assert_becomes(all, &json!({ "options": options }), None);
    let cases = [
        (json!({"max_tokens": 1, "max_completion_tokens": 2}), json!({"num_predict": 2})),
        (json!({"max_tokens": 1, "max_completion_tokens": null}), json!({"num_predict": 1})),
        (json!({"repetition_penalty": 1.2}), json!({"repeat_penalty": 1.2})),
        (json!({"repetition_penalty": 1.2, "repeat_penalty": 1.3}), json!({"repeat_penalty": 1.3})),
        (json!({"stop": ["a", "", "b"]}), json!({"stop": ["a", "b"]})),
        (json!({"stop": ""}), json!({"stop": []})),
        (json!({"top_k": 40.0}), json!({"top_k": 40.0})),
        (json!({"options": {"top_k": 1, "seed": 2}, "seed": 3}), json!({"seed": 3, "top_k": 1})),
    ];
    for (fields, options) in cases {
        assert_becomes(fields, &json!({ "options": options }), None);
    }
    let nulls = json!({"temperature": null, "stop": null, "max_tokens": null, "options": null, "n": null,
        "stream": null, "tools": null, "tool_choice": null, "response_format": null, "logprobs": null,
        "top_logprobs": null, "reasoning_effort": null, "think": null, "logit_bias": null, "keep_alive": null});
    assert_becomes(nulls, &json!({}), None);
}

fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().unwrap()
}

#[test]
fn load_time_options_are_the_registrys_alone() {
    let mut pinned = pinned();
    pinned.options = object(json!({"num_ctx": 4096, "top_k": 9, "num_gpu": null}));
    let body = request(
        json!({"num_ctx": 1, "options": {"num_gpu": 2, "use_mmap": false, "mirostat": 1, "top_k": 8}, "keep_alive": 0}),
    );
    let native = translated(&body, &pinned).unwrap();
    assert_eq!(rest_of(&native), json!({"options": {"num_ctx": 4096, "top_k": 8}}));
    assert_eq!(
        native.losses.header().as_deref(),
        Some("dropped=keep_alive,options.mirostat; pinned=num_ctx,num_gpu,use_mmap")
    );
}

#[test]
fn the_form_of_the_answer_is_asked_for() {
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let wrapped = |schema: &Value| json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    let cases = [
        (json!({"response_format": {"type": "text"}}), json!({}), None),
        (json!({"response_format": {"type": "json_object"}}), json!({"format": "json"}), None),
        (json!({"response_format": wrapped(&schema)}), json!({ "format": schema }), None),
        (json!({ "guided_json": schema }), json!({ "format": schema }), None),
        (
            json!({"guided_json": schema, "response_format": {"type": "json_object"}}),
            json!({"format": "json"}),
            Some("dropped=guided_json"),
        ),
        (json!({"guided_json": "{}"}), json!({}), Some("dropped=guided_json")),
    ];
    for (fields, native, lost) in cases {
        assert_becomes(fields, &native, lost);
    }
}

#[test]
fn tools_are_offered_as_far_as_the_choice_says() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "strict": true, "parameters": {"x": 1}}});
    let (f, g) = (tool("f"), tool("g"));
    let named = json!({"type": "function", "function": {"name": "g"}});
    let asked = |choice: Value| json!({"tools": [f, g], "tool_choice": choice});
    let both = json!({"tools": [f, g]});
    let free = Some("tool_choice=auto");
    let cases = [
        (json!({"tools": [f, g]}), both.clone(), None),
        (json!({"tools": []}), json!({}), None),
        (asked(json!("auto")), both.clone(), None),
        (asked(json!("none")), json!({}), None),
        (asked(json!("required")), both.clone(), free),
        (asked(named), json!({"tools": [g]}), free),
        (
            json!({"functions": [f["function"], g["function"]], "function_call": {"name": "f"}}),
            json!({"tools": [f]}),
            free,
        ),
        (json!({"functions": [f["function"]], "function_call": "none"}), json!({}), None),
        (
            json!({"functions": [f["function"]], "tools": [g]}),
            json!({"tools": [g]}),
            Some("dropped=functions"),
        ),
        (
            json!({"tools": [f, g], "parallel_tool_calls": false, "tool_choice": "required"}),
            both.clone(),
            Some("tool_choice=auto; dropped=parallel_tool_calls"),
        ),
        (json!({"tools": [f, g], "parallel_tool_calls": true}), both, None),
    ];
    for (fields, native, lost) in cases {
        assert_becomes(fields, &native, lost);
    }
}

#[test]
fn thinking_is_asked_for_in_many_ways() {
    for (effort, think) in [
        ("none", json!(false)),
        ("minimal", json!("low")),
        ("low", json!("low")),
        ("medium", json!("medium")),
        ("high", json!("high")),
        ("max", json!("max")),
        ("xhigh", json!("max")),
        ("ultra", json!("max")),
    ] {
        assert_becomes(json!({ "reasoning_effort": effort }), &json!({ "think": think }), None);
        assert_becomes(json!({"reasoning": {"effort": effort}}), &json!({ "think": think }), None);
        assert_becomes(json!({ "think": effort }), &json!({ "think": think }), None);
    }
    let kwargs = |kwargs: Value| json!({ "chat_template_kwargs": kwargs });
    let cases = [
        (json!({"think": true}), json!({"think": true}), None),
        (kwargs(json!({"enable_thinking": false})), json!({"think": false}), None),
        (kwargs(json!({"thinking": true})), json!({"think": true}), None),
        (
            kwargs(json!({"enable_thinking": true, "x": 1})),
            json!({"think": true}),
            Some("dropped=chat_template_kwargs.x"),
        ),
        (json!({"reasoning": {"summary": "auto"}}), json!({}), Some("dropped=reasoning.summary")),
        (
            json!({"think": false, "reasoning_effort": "high", "reasoning": {"effort": "low"}, "chat_template_kwargs": {"thinking": false}}),
            json!({"think": "high"}),
            None,
        ),
        (json!({"think": false, "reasoning": {"effort": "low"}}), json!({"think": "low"}), None),
        (
            json!({"think": "max", "chat_template_kwargs": {"thinking": false}}),
            json!({"think": "max"}),
            None,
        ),
    ];
    for (fields, native, lost) in cases {
        assert_becomes(fields, &native, lost);
    }
}

#[test]
fn the_registry_says_how_much_to_think_where_the_client_does_not_and_whether_at_all() {
    let low = Some(Think::Low);
    let cases = [
        (low, None, json!({}), json!({"think": "low"}), None),
        (low, Some(true), json!({"think": false}), json!({"think": false}), None),
        (low, Some(false), json!({}), json!({}), None),
        (None, Some(false), json!({"reasoning_effort": "none"}), json!({}), None),
        (
            None,
            Some(false),
            json!({"reasoning_effort": "low"}),
            json!({}),
            Some("dropped=reasoning_effort"),
        ),
        (None, Some(false), json!({"think": true}), json!({}), Some("dropped=think")),
    ];
    for (think, can_think, fields, native, lost) in cases {
        let pinned = Pinned { think, can_think, ..pinned() };
        let got = translated(&request(fields), &pinned).unwrap();
        assert_eq!(rest_of(&got), native);
        assert_eq!(got.losses.header().as_deref(), lost);
    }
}

#[test]
fn log_probabilities_are_asked_for() {
    assert_becomes(
        json!({"logprobs": true, "top_logprobs": 20}),
        &json!({"logprobs": true, "top_logprobs": 20}),
        None,
    );
    assert_becomes(json!({"logprobs": false}), &json!({}), None);
}

#[test]
fn what_could_have_changed_the_answer_is_named_and_the_rest_is_not() {
    let silent = json!({"model": "x", "user": "u", "store": true, "metadata": {"a": 1}, "service_tier": "flex",
        "stream_options": {"include_usage": true}, "safety_identifier": "s", "prompt_cache_key": "k", "n": 1,
        "logit_bias": {}, "modalities": ["text"], "best_of": 1, "min_tokens": 0, "use_beam_search": false,
        "ignore_eos": false, "bad_words": [], "prediction": null});
    assert_becomes(silent, &json!({}), None);
    let named = json!({"logit_bias": {"1": 2}, "best_of": 2, "use_beam_search": true, "modalities": ["text", "audio"],
        "audio": {"voice": "x"}, "prediction": {"content": "x"}, "ignore_eos": true, "min_tokens": 3,
        "stop_token_ids": [1], "bad_words": ["x"], "guided_regex": "a", "guided_choice": ["a"], "guided_grammar": "g",
        "chat_template": "t", "what is;this\r\n": 1});
    assert_becomes(
        named,
        &json!({}),
        Some(
            "dropped=audio,bad_words,best_of,chat_template,guided_choice,guided_grammar,guided_regex,ignore_eos,logit_bias,min_tokens,modalities,prediction,stop_token_ids,use_beam_search,what_is_this__",
        ),
    );
}

#[test]
fn the_list_of_losses_is_bounded_and_fit_for_a_header() {
    let many: Map<String, Value> =
        (0..500).map(|n| (format!("é{n:03}{}", "x".repeat(90)), json!(1))).collect();
    let header = with(Value::Object(many)).unwrap().losses.header().unwrap();
    assert!(header.len() < 450 && header.ends_with(",+494"), "{header}");
    assert!(header.bytes().all(|b| b.is_ascii_graphic()), "{header}");
}

#[test]
fn wrong_fields_are_refused_by_name() {
    let f = json!({"type": "function", "function": {"name": "f"}});
    let cases = [
        (json!({"n": 2}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"n": "1"}), "n"),
        (json!({"stream": 1}), "stream"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": u64::MAX}), "seed"),
        (json!({"max_tokens": "9"}), "max_tokens"),
        (json!({"max_completion_tokens": [9]}), "max_completion_tokens"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": ["a", 5]}), "stop"),
        (json!({"options": []}), "options"),
        (json!({"options": {"top_k": "x"}}), "options.top_k"),
        (json!({"response_format": "json"}), "response_format"),
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"response_format": {"type": "structural_tag"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema.schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": true}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"logprobs": 3}), "logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"top_logprobs": -1}), "top_logprobs"),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [7]}), "tools[0]"),
        (json!({"tools": [f, {"type": "custom", "custom": {"name": "c"}}]}), "tools[1].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function.name"),
        (json!({"functions": [{}]}), "functions[0].name"),
        (json!({"tools": [f], "tool_choice": "any"}), "tool_choice"),
        (json!({"tools": [f], "tool_choice": {"type": "allowed_tools"}}), "tool_choice"),
        (
            json!({"tools": [f], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (json!({"function_call": {"name": "g"}}), "function_call"),
        (json!({"parallel_tool_calls": "no"}), "parallel_tool_calls"),
        (json!({"reasoning_effort": "enormous"}), "reasoning_effort"),
        (json!({"reasoning_effort": 3}), "reasoning_effort"),
        (json!({"reasoning": "high"}), "reasoning"),
        (json!({"reasoning": {"effort": "much"}}), "reasoning.effort"),
        (json!({"think": "loudly"}), "think"),
        (json!({"think": 1}), "think"),
        (json!({"chat_template_kwargs": {"thinking": "yes"}}), "chat_template_kwargs.thinking"),
    ];
    for (fields, field) in cases {
        assert_refused(with(fields), field);
    }
    let none: HashMap<String, Bytes> = HashMap::new();
    for body in ["", "{", "[]", "7"] {
        let error = translate(body.as_bytes(), &pinned(), &none).expect_err(body);
        assert_eq!((error.status, error.param), (400, None));
    }
}
