//! What engines and gateways have been seen to do to calls.

use super::*;

/// What is done to it, the parts that come, and the calls that they mean.
type Row<'a> = (&'a str, Vec<Value>, &'a [(&'a str, &'a str)]);

/// Parts of calls as engines and gateways have been seen to write them, and the calls that they mean.
#[test]
fn what_engines_do_to_streamed_calls_is_put_right() {
    let id = |id: &str, index: u64, name: Value, arguments: Value| {
        json!({"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments}})
    };
    let bare =
        |index: u64, arguments: &str| json!({"index": index, "function": {"arguments": arguments}});
    let one: &[(&str, &str)] = &[("time", "{\"a\":1}")];
    let two: &[(&str, &str)] = &[("time", "{\"a\":1}"), ("weather", "{\"b\":2}")];
    let nulls = json!({"index": 0, "id": null, "type": null, "function": {"name": null, "arguments": "1}"}});
    let whole = "{\"a\":1}";
    let rows: Vec<Row<'_>> = vec![
        (
            "the id with every part, and a summary of text in text",
            vec![
                id("x", 0, json!("time"), json!("{\"a\":")),
                id("x", 0, Value::Null, json!("1}")),
                id("x", 0, json!("time"), json!("\"{\\\"a\\\":1}\"")),
            ],
            one,
        ),
        ("nulls in later parts", vec![id("x", 0, json!("time"), json!("{\"a\":")), nulls], one),
        (
            "the name with every part",
            vec![
                id("x", 0, json!("time"), json!("{\"a\":")),
                json!({"index": 0, "function": {"name": "time", "arguments": "1}"}}),
            ],
            one,
        ),
        (
            "one index for all",
            vec![
                id("x", 0, json!("time"), json!(whole)),
                id("y", 0, json!("weather"), json!("{\"b\":2}")),
            ],
            two,
        ),
        (
            "one index for all, and no ids",
            vec![
                json!({"index": 0, "function": {"name": "time", "arguments": {"a": 1}}}),
                json!({"index": 0, "function": {"name": "weather", "arguments": {"b": 2}}}),
            ],
            two,
        ),
        (
            "one call under several indexes",
            vec![
                id("x", 0, json!("time"), json!("{\"a\":")),
                id("x", 1, json!("time"), json!("1}")),
                id("x", 2, json!("time"), json!(whole)),
            ],
            one,
        ),
        (
            "another id with every part",
            vec![
                id("x", 0, json!("time"), json!("{\"a\":")),
                id("y", 0, Value::Null, json!("1")),
                id("z", 0, Value::Null, json!("}")),
            ],
            one,
        ),
        (
            "indexes that begin with one",
            vec![
                id("x", 1, json!("time"), json!(whole)),
                id("y", 2, json!("weather"), json!("{\"b\":")),
                bare(2, "2}"),
            ],
            two,
        ),
        (
            "nothing behind the last part",
            vec![id("x", 0, json!("time"), json!(whole)), bare(0, "")],
            one,
        ),
        (
            "a repetition of all of it",
            vec![
                id("x", 0, json!("time"), json!(whole)),
                json!({"index": 0, "function": {"name": "time", "arguments": whole}}),
            ],
            one,
        ),
        (
            "an empty name first",
            vec![
                id("x", 0, json!(""), json!("{\"a\"")),
                json!({"index": 0, "function": {"name": "time", "arguments": ":1}"}}),
            ],
            one,
        ),
        (
            "a name that comes late",
            vec![
                json!({"index": 0, "id": "x", "function": {"arguments": "{\"a\":1"}}),
                json!({"index": 0, "function": {"name": "time"}}),
                bare(0, "}"),
            ],
            one,
        ),
        ("no arguments", vec![id("x", 0, json!("time"), Value::Null)], &[("time", "{}")]),
        (
            "no indexes",
            vec![
                json!({"id": "x", "function": {"name": "time", "arguments": "{\"a\":"}}),
                json!({"function": {"arguments": "1}"}}),
                json!({"id": "y", "function": {"name": "weather", "arguments": "{\"b\":2}"}}),
            ],
            two,
        ),
        (
            "cut before its name",
            vec![json!({"index": 0, "id": "x", "function": {"arguments": "{"}})],
            &[],
        ),
    ];
    for (what, parts, want) in rows {
        let mut chunks: Vec<Value> =
            parts.into_iter().map(|part| chunk(&json!({"tool_calls": [part]}), None)).collect();
        chunks.push(chunk(&json!({}), Some("stop")));
        let all = Accumulated::of(&turned(&chunks));
        let calls: Vec<(&str, &str)> = all
            .calls
            .iter()
            .map(|(_, name, arguments)| (name.as_str(), arguments.as_str()))
            .collect();
        assert_eq!(calls, want, "{what}");
        let ids: std::collections::BTreeSet<&String> =
            all.calls.iter().map(|(id, ..)| id).collect();
        assert_eq!(ids.len(), calls.len(), "{what}");
        let reason = if want.is_empty() { "stop" } else { "tool_calls" };
        assert_eq!(all.finish.as_deref(), Some(reason), "{what}");
    }
}

#[test]
fn calls_of_both_kinds_are_numbered_together() {
    let own = json!({"index": 0, "id": "x", "type": "function", "function": {"name": "time", "arguments": "{}"}});
    let chunks =
        [says(CALL), chunk(&json!({"tool_calls": [own]}), None), chunk(&json!({}), Some("stop"))];
    let all = Accumulated::of(&turned(&chunks));
    let names: Vec<&str> = all.calls.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["weather", "time"]);
}

#[test]
fn whole_calls_without_arguments_get_the_empty_ones() {
    for arguments in [Value::Null, json!("")] {
        let entry = json!({"id": "x", "type": "function", "function": {"name": "time", "arguments": arguments}});
        let message = json!({"role": "assistant", "content": null, "tool_calls": [entry]});
        let all = Accumulated::of_whole(&made_whole(&answer(&message, "tool_calls")));
        assert_eq!(all.calls, [("x".to_owned(), "time".to_owned(), "{}".to_owned())]);
    }
}
