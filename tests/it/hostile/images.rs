//! Images: addresses that lead inside, and files that claim to be more than they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Siege, at_once, hasty, statuses, talk_once};
use crate::support::daemon::entry;
use crate::support::ollama::Ollama;
use crate::support::{Ask, Daemon, Setup, Upstream, vllm};

fn ask(model: &str, url: &str) -> Ask {
    let image = json!([{"type": "image_url", "image_url": {"url": url}}]);
    Ask::chat(json!({"model": model, "messages": [{"role": "user", "content": image}]}).to_string())
}

/// A daemon with a model that sees, at an Ollama, and `tiny-a`.
fn fetching(ollama: &Ollama, backend: &Upstream, private: bool) -> Daemon {
    let setup = hasty(backend).entry(ollama.entry("seeing", "tiny-vision"));
    let setup = setup.set("limits", "fetch_remote_images", true);
    setup.set("limits", "fetch_remote_images_private", private).start()
}

#[test]
fn no_address_of_an_image_leads_inside() {
    let ollama = Ollama::start("tiny-vision", &[]);
    let backend = super::backend();
    let inside = Upstream::answering("200 OK", "image/png", "secret");
    let daemon = fetching(&ollama, &backend, false);
    let siege = Siege::lay(&daemon);
    let port = inside.addr().port();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ip6-localhost",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "127.0.0.1%00.example",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "\u{2460}\u{2461}\u{2466}.0.0.1",
        "user:password@127.0.0.1",
        "example.com@127.0.0.1",
        "127.0.0.1#@example.com",
        "127.0.0.1\\@example.com",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00::1]",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ];
    let mut urls: Vec<String> = hosts.map(|host| format!("http://{host}:{port}/x.png")).into();
    urls.extend([
        format!("https://localhost:{port}/"),
        format!("HtTp://127.0.0.1:{port}/"),
        format!(" http://127.0.0.1:{port}/"),
        format!("http:127.0.0.1:{port}/"),
        format!("http:\\\\127.0.0.1:{port}/"),
        format!("http:/\t/127.0.0.1:{port}/\r\nx-evil: 1"),
        format!("gopher://127.0.0.1:{port}/_x"),
        format!("ftp://127.0.0.1:{port}/"),
        format!("ws://127.0.0.1:{port}/"),
        format!("//127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/{}", "x".repeat(1 << 20)),
        "http://169.254.169.254/latest/meta-data/".into(),
        "file:///etc/passwd".into(),
        "file://localhost/etc/passwd".into(),
        "/etc/passwd".into(),
        "../../etc/passwd".into(),
        "http://".into(),
        "http:///".into(),
        "http://:80/".into(),
        "http://[".into(),
        "http://127.0.0.1:99999/".into(),
        "javascript:alert(1)".into(),
        "blob:http://127.0.0.1/x".into(),
        "unix:///run/docker.sock".into(),
        String::new(),
    ]);
    siege.attack(|| {
        at_once(&urls, |url| {
            let said = talk_once(daemon.addr(), &ask("seeing", url));
            assert_eq!(statuses(&said), [400], "{url:.200}: {said:.600}");
            assert!(!said.contains("root:") && said.len() < 4000, "{url:.200}: {said:.600}");
        });
    });
    assert!(inside.seen().is_empty(), "{:?}", inside.seen());
    assert!(ollama.chats().is_empty());
    siege.lift();
}

/// Where private addresses are allowed, what is there may be hostile all the same.
#[test]
fn images_that_do_not_end_or_go_round_in_circles_are_given_up() {
    let ollama = Ollama::start("tiny-vision", &[]);
    let backend = super::backend();
    let web = Upstream::start(|seen, wire| {
        let path = seen.head.split(' ').nth(1).unwrap_or_default().to_owned();
        let ok = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n";
        match path.as_str() {
            "/endless" => {
                wire.send(&[&ok[..], b"transfer-encoding: chunked\r\n\r\n"].concat());
                wire.flood(&[b'x'; 16 << 10]);
            }
            "/head" => while wire.send(b"HTTP/1.1 200 OK\r\nx-a: b\r\n") {},
            "/circle" => {
                wire.send(b"HTTP/1.1 302 Found\r\nlocation: /circle\r\ncontent-length: 0\r\n\r\n");
            }
            "/file" => {
                wire.send(b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n\r\n");
            }
            "/lies" => {
                wire.send(&[&ok[..], b"content-length: 5000000000\r\n\r\nx"].concat());
                wire.fin();
            }
            "/zip" => {
                wire.send(
                    &[&ok[..], b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"].concat(),
                );
            }
            _ => wire.answer("200 OK", "image/png", b""),
        }
    });
    let daemon = fetching(&ollama, &backend, true);
    let siege = Siege::lay(&daemon);
    let paths = ["endless", "head", "circle", "file", "lies", "empty"];
    siege.attack(|| {
        at_once(&paths, |path| {
            let said =
                talk_once(daemon.addr(), &ask("seeing", &format!("http://{}/{path}", web.addr())));
            assert_eq!(statuses(&said), [400], "{path}: {said}");
            assert!(!said.contains("root:"), "{said}");
        });
        let many: Vec<Value> = (0..17)
            .map(|n| {
                let url = format!("http://{}/{n}", web.addr());
                json!({"type": "image_url", "image_url": {"url": url}})
            })
            .collect();
        let body = json!({"model": "seeing", "messages": [{"role": "user", "content": many}]});
        let said = talk_once(daemon.addr(), &Ask::chat(body.to_string()));
        assert_eq!(statuses(&said), [400], "{said}");
    });
    assert!(ollama.chats().is_empty());
    siege.lift();
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

/// A PNG that claims to be so large; all that is in it is this.
fn png(side: u32, data: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| {
        let named = [kind, data].concat();
        let length = u32::try_from(data.len()).expect("a length").to_be_bytes();
        [&length[..], &named, &crc(&named).to_be_bytes()].concat()
    };
    let size = [side.to_be_bytes(), side.to_be_bytes()].concat();
    let head = [&size[..], &[8, 6, 0, 0, 0]].concat();
    let all = [chunk(b"IHDR", &head), chunk(b"IDAT", data), chunk(b"IEND", b"")];
    [&b"\x89PNG\r\n\x1a\n"[..], &all.concat()].concat()
}

/// A GIF of so many frames of one pixel, on a screen of that size.
fn gif(side: u16, frames: usize) -> Vec<u8> {
    let side = side.to_le_bytes();
    let head = [&b"GIF89a"[..], &side, &side, &[0x80, 0, 0, 0, 0, 0, 255, 255, 255]].concat();
    let frame = [0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0];
    [head, frame.repeat(frames), vec![0x3b]].concat()
}

/// What a decoder might be fooled by: each is small, and none is an image that can be scaled.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let jpeg = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01";
    let zeros =
        [0x78, 0x9c, 0x01, 0xff, 0xff, 0, 0].into_iter().chain(vec![0; 65535]).collect::<Vec<u8>>();
    vec![
        ("a PNG of 60000 x 60000", png(60_000, &zeros)),
        ("a PNG of 4 billion x 4 billion", png(u32::MAX, &zeros)),
        ("a PNG of 9000 x 9000 that is cut", png(9000, &zeros)),
        ("a PNG of no size", png(0, &zeros)),
        ("a GIF of 300,000 frames", gif(1, 300_000)),
        ("a GIF of 65535 x 65535", gif(u16::MAX, 2)),
        ("a GIF of 3000 x 3000", gif(3000, 50_000)),
        ("a JPEG that is cut", jpeg.to_vec()),
        ("a JPEG of markers", [&jpeg[..], &b"\xff\xd0".repeat(100_000)].concat()),
        ("a WebP of sizes that lie", b"RIFF\xff\xff\xff\xffWEBPVP8X\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff".to_vec()),
        ("a BMP that lies", [&b"BM\xff\xff\xff\xff\0\0\0\0\x36\0\0\0\x28\0\0\0\xff\xff\xff\x7f\xff\xff\xff\x7f\x01\0\x18\0"[..], &[0; 24]].concat()),
        ("a TIFF", b"II*\0\xff\xff\xff\x7f".to_vec()),
        ("an SVG", b"<svg><image href=\"file:///etc/passwd\"/></svg>".to_vec()),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn images_that_claim_to_be_huge_pass_as_they_are_and_cost_little() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut seeing = entry("seeing", &upstream);
    seeing["capabilities"] = json!({"vision": true});
    let daemon = hasty(&upstream)
        .set("vision_preprocess", "vision_downscale_backends", "[\"openai\"]")
        .entry(seeing)
        .start();
    let siege = Siege::lay(&daemon);
    let peak = siege.attack(|| {
        at_once(&bombs(), |(what, bytes)| {
            let url = format!("data:image/png;base64,{}", STANDARD.encode(bytes));
            let said = talk_once(daemon.addr(), &ask("seeing", &url));
            assert_eq!(statuses(&said), [200], "{what}: {said:.300}");
        });
        for url in
            ["data:image/png;base64,!!!", "data:image/png,x", "data:;base64,", "data:", "data:,"]
        {
            let said = talk_once(daemon.addr(), &ask("seeing", url));
            assert!(matches!(statuses(&said)[..], [200 | 400]), "{url}: {said:.300}");
        }
        siege.memory()
    });
    let limit = siege.memory + (400 << 20);
    assert!(peak < limit, "{peak} bytes");
    siege.lift();
}

/// Too large together, however small the request says they are.
#[test]
fn images_over_their_limit_are_refused() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon: Daemon = Setup::with(&upstream).set("limits", "max_image_bytes", 1000).start();
    let one = format!("data:image/png;base64,{}", STANDARD.encode([0; 600]));
    assert_eq!(ask("tiny-a", &one).reply(daemon.addr()).status(), 200);
    let image = json!({"type": "image_url", "image_url": {"url": one}});
    let content = json!([image, image]);
    let body = json!({"model": "tiny-a", "messages": [{"role": "user", "content": content}]});
    let error =
        Ask::chat(body.to_string()).reply(daemon.addr()).error(413, "err_payload_too_large");
    assert!(error["message"].as_str().expect("a text").contains("1000"), "{error}");
}
