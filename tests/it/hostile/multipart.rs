//! Forms with too many parts, without an end, with names that are paths.

use std::time::{Duration, Instant};

use super::{Siege, backend, hasty, statuses, talk_once};
use crate::support::{Ask, Daemon};

const PATH: &str = "/v1/audio/transcriptions";

fn send(daemon: &Daemon, boundary: &str, body: &[u8]) -> u16 {
    let kind = format!("multipart/form-data; boundary={boundary}");
    let ask = Ask::new("POST", PATH).header("content-type", &kind).raw_body(body);
    let said = talk_once(daemon.addr(), &ask);
    let statuses = statuses(&said);
    assert_eq!(statuses.len(), 1, "{said:.500}");
    assert!(said.len() < 4000, "{}", said.len());
    statuses[0]
}

fn part(head: &str, content: &str) -> String {
    format!("--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

fn model() -> String {
    part("name=\"model\"", "tiny-a")
}

#[test]
fn forms_without_an_end_or_with_heads_without_one_are_refused() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let before = upstream.seen().len();
    let large = "x".repeat(4 << 20);
    let bodies = [
        model(),
        model() + &part("name=\"file\"; filename=\"a.wav\"", &large),
        format!("--b\r\ncontent-disposition: form-data; name=\"{large}\"\r\n\r\nx\r\n--b--"),
        format!("{}--b\r\n{}", model(), "x-a: b\r\n".repeat(500_000)),
        format!("{}--b{}", model(), " ".repeat(4 << 20)),
        format!("{}--b\r\n\r\n", model()),
        model() + &model() + "--b--\r\n",
        part("name=\"model\"; name=\"x\"", "tiny-a") + "--b--\r\n",
        part("name*=utf-8''model", "tiny-a") + "--b--\r\n",
        part("name=\"model", "tiny-a") + "--b--\r\n",
        part("name=\"model\"", &large) + "--b--\r\n",
        large.clone(),
        String::new(),
    ];
    siege.attack(|| {
        for body in &bodies {
            assert_eq!(send(&daemon, "b", body.as_bytes()), 400, "{body:.200}");
        }
        for boundary in ["", "\"\"", &"b".repeat(71), "b; boundary=c", "\"b"] {
            let body = model() + "--b--\r\n";
            assert!(matches!(send(&daemon, boundary, body.as_bytes()), 200 | 400), "{boundary}");
        }
    });
    assert!(upstream.seen().len() <= before + 1, "nothing of it went upstream");
    siege.lift();
}

#[test]
fn hundreds_of_thousands_of_parts_are_looked_through_in_time() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let body = "--b\r\n\r\n\r\n".repeat(400_000) + &model() + "--b--\r\n";
    siege.attack(|| {
        let begun = Instant::now();
        assert_eq!(send(&daemon, "b", body.as_bytes()), 200);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
    siege.lift();
}

#[test]
fn names_of_files_are_never_paths_of_ours() {
    let upstream = backend();
    let daemon = hasty(&upstream).set("limits", "body_spool_bytes", 10).start();
    let siege = Siege::lay(&daemon);
    let names = ["../../escaped", "/tmp/../escaped", "..\\escaped", "escaped\0", "\u{202e}escaped"];
    siege.attack(|| {
        for name in names {
            let file = part(&format!("name=\"file\"; filename=\"{name}\""), &"x".repeat(100_000));
            assert_eq!(send(&daemon, "b", (file + &model() + "--b--\r\n").as_bytes()), 200);
        }
    });
    let found = crate::support::files_below(&daemon.path(""));
    assert!(found.iter().all(|path| !path.to_string_lossy().contains("escaped")), "{found:?}");
    siege.lift();
}
