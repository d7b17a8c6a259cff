//! `probe-vision NAME --image F`: whether a model sees images.
//!
//! Owns: the two questions, and the verdict. Must never do: believe what a model says of itself:
//! what counts is that the image made its prompt longer.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::daemon::{Daemon, in_path};
use super::error::{CliError, Refusal};
use super::files::Registry;
use super::model::{bytes, text};
use super::progress::{BEAT, Progress};
use super::table::{Table, shown};
use super::{Tools, seconds};

/// A probe needs no larger one.
const LARGEST: u64 = 20_000_000;
const QUESTION: &str = "What is in this picture? Answer in a few words.";
/// Enough to see that it answers.
const MAX_TOKENS: u32 = 16;
/// Has the proxy pass the image on, whatever the registry says of the model.
const PROBE: (&str, &str) = ("x-imageworks-probe", "vision");

/// Find out whether a model sees images.
///
/// It is asked twice, without and with the image, and loaded first if need be. It sees images if
/// it answers and the image has made its prompt longer. The exit code is 0 whichever it is;
/// --json has `vision_ok`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models probe-vision qwen2.5vl_7b --image cat.jpg
  imageworks-models probe-vision qwen2.5vl_7b --image cat.jpg --write
  imageworks-models probe-vision qwen2.5vl_7b --image cat.jpg --json | jq .vision_ok")]
pub(super) struct Args {
    /// Any name of the model.
    #[arg(value_name = "NAME")]
    name: String,
    /// A picture: PNG, JPEG, WebP, GIF or BMP, of at most 20 MB.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Write the verdict into the model's entry, in the discovered layer of this machine.
    #[arg(long)]
    write: bool,
    /// Wait at most so long for each answer, in seconds; the first one may need a load.
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds)]
    max_wait: Duration,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let image = read_image(&args.image)?;
    let registry = args.write.then(|| Registry::of(tools)).transpose()?;
    let daemon = tools.daemon()?;
    let item = daemon.get(&format!("/v1/models/{}", in_path(&args.name))).await?;
    let name = text(&item["extensions"]["logical_id"]);
    let mut progress = Progress::begin();
    progress.state(&format!("{name} is asked without the image"));
    let without = ask(&daemon, &name, None, args.max_wait, &mut progress).await?;
    progress.state(&format!("{name} is asked with the image"));
    let with = match ask(&daemon, &name, Some(&image), args.max_wait, &mut progress).await {
        Ok(answer) => Ok(answer),
        Err(CliError::Refused(refusal)) if is_of_backend(&refusal) => Err(refusal.message),
        Err(error) => return Err(error),
    };
    drop(progress);
    let probe = Probe { name, without, with };
    let written = registry.is_some();
    if let Some(registry) = registry {
        write(&registry, &probe, tools)?;
    }
    if tools.out.json {
        return tools.out.value(&probe.to_json(written));
    }
    tools.out.text(&probe.render(written))
}

/// The daemon hears of it by itself.
fn write(registry: &Registry, probe: &Probe, tools: &Tools) -> Result<(), CliError> {
    let named = registry.named(tools, &probe.name)?;
    named.refuse_if_curated(&[&["probes", "vision", "vision_ok"]])?;
    let fields = probe.entry().as_object().cloned().unwrap_or_default();
    registry.set(&named.name, fields).map(|_| ())
}

/// The backend itself will not have the image; anything else says nothing about the model.
fn is_of_backend(refusal: &Refusal) -> bool {
    let ours = refusal.code.starts_with("err_") && refusal.code != "err_backend_error";
    !ours && matches!(refusal.status, 400 | 415 | 422 | 500 | 501)
}

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    prompt_tokens: u64,
    completion_tokens: u64,
    text: String,
}

/// See the module.
struct Probe {
    name: String,
    without: Answer,
    with: Result<Answer, String>,
}

impl Probe {
    fn sees(&self) -> bool {
        self.with.as_ref().is_ok_and(|with| with.prompt_tokens > self.without.prompt_tokens)
    }

    /// What belongs into the model's entry.
    fn entry(&self) -> Value {
        json!({"probes": {"vision": {"vision_ok": self.sees()}}})
    }

    fn to_json(&self, written: bool) -> Value {
        let of = |answer: &Answer| {
            json!({"prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens, "answer": answer.text})
        };
        let with = match &self.with {
            Ok(answer) => of(answer),
            Err(why) => json!({"refused": why}),
        };
        json!({"model": self.name, "vision_ok": self.sees(), "without_image": of(&self.without),
            "with_image": with, "entry": self.entry(), "written": written})
    }

    fn render(&self, written: bool) -> String {
        let of = |answer: &Answer| {
            let Answer { prompt_tokens, completion_tokens, text } = answer;
            format!(
                "{prompt_tokens} tokens of prompt, {completion_tokens} of answer: {}",
                shown(text.trim())
            )
        };
        let with = match &self.with {
            Ok(answer) => of(answer),
            Err(why) => format!("refused: {}", shown(why)),
        };
        let verdict = if self.sees() { "it sees images" } else { "it does not see images" };
        let table = Table::of_pairs(vec![
            ("model", self.name.clone()),
            ("without the image", of(&self.without)),
            ("with the image", with),
            ("verdict", verdict.to_owned()),
        ]);
        let where_to = if written { "Written into" } else { "In" };
        format!(
            "{}\n{where_to} its entry of the registry:\n{}\n",
            table.render(false),
            self.entry()
        )
    }
}

async fn ask(
    daemon: &Daemon,
    name: &str,
    image: Option<&str>,
    within: Duration,
    progress: &mut Progress,
) -> Result<Answer, CliError> {
    let mut content = vec![json!({"type": "text", "text": QUESTION})];
    content.extend(image.map(|url| json!({"type": "image_url", "image_url": {"url": url}})));
    let body = json!({"model": name, "max_tokens": MAX_TOKENS, "temperature": 0,
        "messages": [{"role": "user", "content": content}]});
    let answer = daemon.post_with("/v1/chat/completions", PROBE, &body, within);
    tokio::pin!(answer);
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return read_answer(&answer?),
            _ = beat.tick() => progress.tick(),
        }
    }
}

fn read_answer(answer: &Value) -> Result<Answer, CliError> {
    let message = &answer["choices"][0]["message"];
    let (usage, said) = (&answer["usage"], ["content", "reasoning", "reasoning_content"]);
    let Some(prompt_tokens) = usage["prompt_tokens"].as_u64().filter(|_| message.is_object())
    else {
        let message = "the answer does not tell how many tokens the prompt had";
        return Err(CliError::failed(message, "without that nothing can be said about images"));
    };
    Ok(Answer {
        prompt_tokens,
        completion_tokens: usage["completion_tokens"].as_u64().unwrap_or_default(),
        text: said
            .iter()
            .filter_map(|key| message[*key].as_str())
            .find(|text| !text.is_empty())
            .unwrap_or_default()
            .to_owned(),
    })
}

/// The file as a `data:` URL.
fn read_image(path: &Path) -> Result<String, CliError> {
    let failed = |why: String| CliError::Failed {
        message: format!("{}: {why}", path.display()),
        hint: None,
    };
    let meta = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !meta.is_file() {
        return Err(failed("it is no file".to_owned()));
    }
    if meta.len() > LARGEST {
        let message =
            format!("{} has {}, more than {}", path.display(), bytes(meta.len()), bytes(LARGEST));
        return Err(CliError::failed(
            message,
            "a smaller picture shows as well whether it is seen",
        ));
    }
    let mut read = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut read));
    file.map_err(|error| failed(error.to_string()))?;
    let Some(kind) = kind_of(&read) else {
        let message = format!("{} is no picture that models take", path.display());
        return Err(CliError::failed(message, "PNG, JPEG, WebP, GIF and BMP are"));
    };
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(&read)))
}

/// By the bytes that such files begin with.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("gif"),
        [b'B', b'M', ..] => Some("bmp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(prompt_tokens: u64) -> Answer {
        Answer { prompt_tokens, completion_tokens: 3, text: "A\ncat. ".to_owned() }
    }

    #[test]
    fn the_verdict_hangs_on_the_tokens_of_the_prompt() {
        let probe = |with| Probe { name: "q".to_owned(), without: answer(20), with };
        assert!(probe(Ok(answer(21))).sees());
        assert!(!probe(Ok(answer(20))).sees());
        insta::assert_snapshot!(probe(Ok(answer(278))).render(false), @r#"
        model              q
        without the image  20 tokens of prompt, 3 of answer: A cat.
        with the image     278 tokens of prompt, 3 of answer: A cat.
        verdict            it sees images

        In its entry of the registry:
        {"probes":{"vision":{"vision_ok":true}}}
        "#);
        let refused = probe(Err("q is not a multimodal model".to_owned()));
        insta::assert_snapshot!(refused.render(false), @r#"
        model              q
        without the image  20 tokens of prompt, 3 of answer: A cat.
        with the image     refused: q is not a multimodal model
        verdict            it does not see images

        In its entry of the registry:
        {"probes":{"vision":{"vision_ok":false}}}
        "#);
        insta::assert_snapshot!(refused.to_json(false), @r#"
        {"model":"q","vision_ok":false,"without_image":{"prompt_tokens":20,"completion_tokens":3,"answer":"A\ncat. "},"with_image":{"refused":"q is not a multimodal model"},"entry":{"probes":{"vision":{"vision_ok":false}}},"written":false}
        "#);
    }

    #[test]
    fn only_the_backends_own_refusal_is_a_verdict() {
        let refusal = |status, code: &str| {
            let (message, param, hint) = ("m".to_owned(), None, None);
            is_of_backend(&Refusal { status, code: code.to_owned(), message, param, hint })
        };
        assert!(refusal(400, "BadRequestError") && refusal(500, "err_backend_error"));
        for (status, code) in [
            (400, "err_invalid_request"),
            (409, "err_capability_mismatch"),
            (413, "err_payload_too_large"),
            (502, "err_backend_unavailable"),
            (503, "err_backend_error"),
        ] {
            assert!(!refusal(status, code), "{status} {code}");
        }
    }

    #[test]
    fn pictures_are_known_by_their_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("picture.txt");
        for (begin, kind) in [
            (&b"\x89PNG\r\n\x1a\nx"[..], "png"),
            (b"\xff\xd8\xff\xe0", "jpeg"),
            (b"RIFF1234WEBPVP8 ", "webp"),
            (b"GIF89a", "gif"),
            (b"BM6", "bmp"),
        ] {
            std::fs::write(&path, begin).unwrap();
            let url = read_image(&path).unwrap();
            assert!(url.starts_with(&format!("data:image/{kind};base64,")), "{url}");
        }
        std::fs::write(&path, "%PDF-1.7").unwrap();
        let error = read_image(&path).unwrap_err();
        assert!(error.to_string().ends_with("is no picture that models take"), "{error}");
        File::create(&path).unwrap().set_len(LARGEST + 100_000).unwrap();
        let error = read_image(&path).unwrap_err();
        assert!(error.to_string().ends_with("has 20.1 MB, more than 20.0 MB"), "{error}");
        read_image(dir.path()).unwrap_err();
    }

    #[test]
    fn answers_are_read_from_thoughts_too_and_need_a_count() {
        let read =
            read_answer(&json!({"choices": [{"message": {"content": null, "reasoning": "hm"}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 2}}));
        let want = Answer { prompt_tokens: 9, completion_tokens: 2, text: "hm".to_owned() };
        assert_eq!(read.unwrap(), want);
        read_answer(&json!({"choices": [{"message": {"content": "x"}}]})).unwrap_err();
    }
}
