//! Laws that hold for every history and every answer.

use bytes::Bytes;
use proptest::prelude::*;

use super::pieces::{
    ID, accumulate, any_json, cut, echoed, gist, history, joined, ndjson, piece, run, turn,
};
use super::*;
use crate::chat::stream::{ChatStream, Incomplete, Progress};

const FIELDS: &[&str] = &[
    "messages",
    "stream",
    "n",
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "options",
    "response_format",
    "guided_json",
    "reasoning",
    "reasoning_effort",
    "think",
    "chat_template_kwargs",
    "logprobs",
    "top_logprobs",
    "stop",
    "seed",
    "temperature",
    "extra",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cuts_do_not_matter(
        pieces in prop::collection::vec(piece(), 0..5),
        end in prop::option::of(prop::sample::select(vec!["stop", "length", ""])),
        bad in prop::option::of(prop::sample::select(vec!["nonsense\n", "{\"error\":\"é\"}\n", "{\"half", "\r\n\n"])),
        places in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let body = ndjson(&pieces, end) + bad.unwrap_or_default();
        let whole = run(&[body.as_bytes()]);
        prop_assert_eq!(&run(&cut(body.as_bytes(), &places)), &whole);
        let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        prop_assert_eq!(&run(&bytes), &whole);
        let without_last_end = body.trim_end_matches('\n');
        prop_assert_eq!(&run(&[without_last_end.as_bytes()]), &whole);
    }

    #[test]
    fn a_stream_adds_up_to_the_answer_in_one_piece(
        pieces in prop::collection::vec(piece(), 0..6), reason in prop::sample::select(vec!["stop", "length"]),
    ) {
        let (sse, ended) = run(&[ndjson(&pieces, Some(reason)).as_bytes()]);
        prop_assert_eq!(ended, Ok(()));
        let one = whole_answer(joined(&pieces, reason).to_string().as_bytes(), ID, 7).unwrap();
        prop_assert_eq!(accumulate(&sse), serde_json::from_slice::<Value>(&one).unwrap());
    }

    #[test]
    fn a_history_survives_to_ollama_and_back(turns in prop::collection::vec(turn(), 1..4)) {
        let messages = history(&turns);
        let native = translated(&json!({ "messages": messages }), &pinned()).unwrap();
        prop_assert_eq!(native.losses.header(), None);
        let body: Value = serde_json::from_slice(&native.body).unwrap();
        let natives = body["messages"].as_array().unwrap();
        prop_assert_eq!(natives.len(), messages.len());
        let mut names = HashMap::new();
        for (openai, native) in messages.iter().zip(natives) {
            prop_assert_eq!(&openai["role"], &native["role"]);
            match openai["role"].as_str() {
                Some("assistant") => {
                    prop_assert_eq!(gist(&echoed(native)), gist(openai));
                    for call in openai["tool_calls"].as_array().unwrap() {
                        names.insert(call["id"].clone(), call["function"]["name"].clone());
                    }
                }
                Some("tool") => {
                    prop_assert_eq!(&native["content"], &openai["content"]);
                    prop_assert_eq!(&native["tool_call_id"], &openai["tool_call_id"]);
                    prop_assert_eq!(&native["tool_name"], &names[&openai["tool_call_id"]]);
                }
                _ => {
                    let parts = openai["content"].as_array().unwrap();
                    prop_assert_eq!(&native["content"], &parts[0]["text"]);
                    let images = native["images"].as_array().cloned().unwrap_or_default();
                    let sent: Vec<Value> = parts[1..].iter().map(|part| {
                        let url = part["image_url"]["url"].as_str().unwrap();
                        json!(url.strip_prefix("data:image/png;base64,").unwrap())
                    }).collect();
                    prop_assert_eq!(images, sent);
                }
            }
        }
    }

    #[test]
    fn every_sampling_parameter_arrives_with_its_value(
        numbers in prop::collection::vec(prop::option::of(-80i32..80), 7),
        wholes in prop::collection::vec(prop::option::of(-5i64..5000), 5),
        stop in prop::option::of(prop::collection::vec("[a-zé\n]{1,4}", 0..3)),
    ) {
        let mut request = json!({"messages": [{"role": "user", "content": "hi"}]});
        let mut want = Map::new();
        for (name, value) in ["temperature", "top_p", "min_p", "typical_p", "frequency_penalty", "presence_penalty",
            "repeat_penalty"].iter().zip(&numbers)
        {
            let value = value.map(|n| f64::from(n) / 8.0);
            request[*name] = json!(value);
            want.extend(value.map(|value| ((*name).to_owned(), json!(value))));
        }
        let names = [("max_tokens", "num_predict"), ("seed", "seed"), ("top_k", "top_k"), ("repeat_last_n", "repeat_last_n"),
            ("num_keep", "num_keep")];
        for ((name, option), value) in names.iter().zip(&wholes) {
            request[*name] = json!(value);
            want.extend(value.map(|value| ((*option).to_owned(), json!(value))));
        }
        request["stop"] = json!(stop);
        want.extend(stop.map(|stop| ("stop".to_owned(), json!(stop))));
        let native = translated(&request, &pinned()).unwrap();
        let mut body: Value = serde_json::from_slice(&native.body).unwrap();
        prop_assert_eq!(native.losses.header(), None);
        prop_assert_eq!(body["options"].take().as_object().cloned().unwrap_or_default(), want);
    }

    #[test]
    fn a_whole_answer_is_done_and_any_other_fails(
        pieces in prop::collection::vec(piece(), 0..5),
        end in prop::option::of(prop::sample::select(vec!["stop", "length", "load", ""])),
        error: bool, keep: usize,
    ) {
        let mut body = ndjson(&pieces, end);
        // An error, or a cut, in front of the end.
        if error {
            let at = body.match_indices('\n').nth(keep % (pieces.len() + 1)).map_or(0, |(at, _)| at + 1);
            body.insert_str(at, "{\"error\":\"gone\"}\n");
        }
        let (sse, ended) = run(&[body.as_bytes()]);
        prop_assert_eq!(ended, Ok(()));
        let mut stream = ChatStream::new(true);
        let mut out = Vec::new();
        let mut progress = stream.push(&Bytes::from(sse.clone()), &mut out);
        if progress == Ok(Progress::Flowing) {
            progress = stream.finish(&mut out);
        }
        let done = body.lines().position(|line| line.contains("\"done\":true"));
        let failed = body.lines().position(|line| line.starts_with("{\"error\""));
        match (done, failed) {
            (Some(done), failed) if failed.is_none_or(|failed| done < failed) => {
                let want = if end == Some("") { Progress::Failed } else { Progress::Done };
                prop_assert_eq!(progress, Ok(want));
                prop_assert_eq!(out.concat(), sse);
            }
            (_, Some(_)) => {
                prop_assert_eq!(progress, Ok(Progress::Failed));
                let said = stream.summary().backend_error.as_deref();
                prop_assert_eq!(said, Some("gone"));
            }
            (_, None) if pieces.is_empty() => prop_assert_eq!(progress, Err(Incomplete::Empty)),
            (_, None) => prop_assert_eq!(progress, Err(Incomplete::BrokeOff)),
        }
    }

    #[test]
    fn nothing_panics_on_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        fields in prop::collection::vec(any_json(), FIELDS.len()),
        messages in prop::collection::vec(any_json(), 0..4),
    ) {
        let _ = run(&[&bytes]);
        let _ = whole_answer(&bytes, ID, 7);
        let _ = (parse_ps(&bytes), parse_tags(&bytes), remote_images(&bytes));
        let _ = same_model(&String::from_utf8_lossy(&bytes), "m");
        let none: HashMap<String, Bytes> = HashMap::new();
        let _ = translate(&bytes, &pinned(), &none);
        for (name, value) in FIELDS.iter().zip(fields) {
            let line = value.to_string();
            let _ = run(&[line.as_bytes(), b"\n"]);
            let body = json!({"messages": messages, *name: value}).to_string();
            let _ = remote_images(body.as_bytes());
            if let Ok(native) = translate(body.as_bytes(), &pinned(), &none) {
                prop_assert!(serde_json::from_slice::<Value>(&native.body).is_ok());
                let header = native.losses.header().unwrap_or_default();
                prop_assert!(header.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            }
        }
    }
}
