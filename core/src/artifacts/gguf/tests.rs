use proptest::prelude::*;

use super::*;

/// Writes the format as its description has it.
#[derive(Clone)]
struct Writer {
    version: u32,
    pairs: Vec<Vec<u8>>,
}

impl Writer {
    fn new(version: u32) -> Self {
        Writer { version, pairs: Vec::new() }
    }

    fn length(&self, length: usize) -> Vec<u8> {
        if self.version == 1 {
            u32::try_from(length).unwrap().to_le_bytes().to_vec()
        } else {
            (length as u64).to_le_bytes().to_vec()
        }
    }

    fn text(&self, text: &str) -> Vec<u8> {
        [self.length(text.len()), text.as_bytes().to_vec()].concat()
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        let pair = [self.text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat();
        self.pairs.push(pair);
        self
    }

    fn string(self, key: &str, value: &str) -> Self {
        let value = self.text(value);
        self.pair(key, 8, &value)
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    fn strings(self, key: &str, values: &[&str]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|value| self.text(value)).collect();
        let all = [8u32.to_le_bytes().to_vec(), self.length(values.len()), items].concat();
        self.pair(key, 9, &all)
    }

    fn bytes(&self) -> Vec<u8> {
        let head = [b"GGUF".to_vec(), self.version.to_le_bytes().to_vec()].concat();
        let counts = [self.length(7), self.length(self.pairs.len())].concat();
        [head, counts, self.pairs.concat()].concat()
    }
}

fn model(version: u32) -> Writer {
    Writer::new(version)
        .string("general.architecture", "llama")
        .u32("llama.context_length", 8192)
        .pair("llama.rope.freq_base", 6, &1e6f32.to_le_bytes())
        .u32("general.file_type", 15)
        .strings("tokenizer.ggml.tokens", &["<s>", "a", "b"])
        .pair("tokenizer.ggml.scores", 9, &{
            let head = [6u32.to_le_bytes().to_vec(), Writer::new(version).length(2)].concat();
            [head, vec![0; 8]].concat()
        })
        .string("tokenizer.chat_template", "{{ messages }}")
}

#[test]
fn a_head_tells_what_the_model_is() {
    let want = Header {
        architecture: Some("llama".into()),
        quantization: Some("Q4_K_M"),
        context_length: Some(8192),
        has_template: true,
        ..Header::default()
    };
    for version in 1..=3 {
        let file = [model(version).bytes(), b"tensors".to_vec()].concat();
        assert_eq!(read(&file), Ok(want.clone()), "version {version}");
    }
}

#[test]
fn bytes_as_they_stand_in_a_real_file() {
    // GGUF, version 3, no tensors, two pairs: general.architecture = "q", general.file_type = 7.
    let file = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\
        \x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\x01\0\0\0\0\0\0\0q\
        \x11\0\0\0\0\0\0\0general.file_type\x04\0\0\0\x07\0\0\0";
    let header = read(file).unwrap();
    assert_eq!((header.architecture.as_deref(), header.quantization), (Some("q"), Some("Q8_0")));
}

#[test]
fn the_order_of_keys_does_not_matter() {
    let file = Writer::new(3)
        .u32("other.context_length", 1)
        .u32("qwen2.context_length", 32_768)
        .string("general.architecture", "qwen2")
        .u32("general.file_type", 1024 + 17)
        .bytes();
    let header = read(&file).unwrap();
    assert_eq!((header.context_length, header.quantization), (Some(32_768), Some("Q5_K_M")));
    assert!(!header.has_template);
}

#[test]
fn projectors_are_known() {
    let yes: &[u8] = &[1];
    let file = Writer::new(3)
        .string("general.architecture", "clip")
        .string("general.type", "mmproj")
        .pair("clip.has_vision_encoder", 7, yes);
    let header = read(&file.bytes()).unwrap();
    assert_eq!((header.kind.as_deref(), header.has_vision), (Some("mmproj"), true));
    let hears = Writer::new(3).string("general.architecture", "clip").pair(
        "clip.has_audio_encoder",
        7,
        yes,
    );
    let header = read(&hears.bytes()).unwrap();
    assert!(header.has_audio && !header.has_vision);
}

#[test]
fn a_cut_head_says_what_it_had() {
    let whole = model(3).bytes();
    let Err(GgufError::Short(header)) = read(&whole[..whole.len() - 1]) else { panic!("short") };
    assert_eq!(header.context_length, Some(8192));
    for length in 4..whole.len() {
        assert!(matches!(read(&whole[..length]), Err(GgufError::Short(_))), "{length}");
    }
}

#[test]
fn what_is_none_is_refused() {
    assert_eq!(read(b"PK\x03\x04"), Err(GgufError::Stranger));
    assert_eq!(read(b"GGUF\x04\0\0\0"), Err(GgufError::Version(4)));
    assert_eq!(read(b"GGUF\0\0\0\x03"), Err(GgufError::Version(0x0300_0000)));
    let unknown = Writer::new(3).pair("a", 13, &[]).bytes();
    assert!(matches!(read(&unknown), Err(GgufError::Broken(_))));
    // 2^63 numbers of 8 bytes.
    let huge = [10u32.to_le_bytes().to_vec(), (1u64 << 63).to_le_bytes().to_vec()].concat();
    let huge = Writer::new(3).pair("a", 9, &huge).bytes();
    assert_eq!(read(&huge), Err(GgufError::Broken("an array is too long")));
    let nested = |depth: usize| {
        let level = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
        Writer::new(3).pair("a", 9, &level.repeat(depth)).bytes()
    };
    assert_eq!(read(&nested(10)), Err(GgufError::Broken("arrays lie in arrays too deep")));
    let endless = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), [0xff; 16].to_vec()].concat();
    assert!(matches!(read(&endless), Err(GgufError::Short(_))));
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 1u32..4) {
        let _ = read(&bytes);
        let _ = read(&[b"GGUF".to_vec(), version.to_le_bytes().to_vec(), bytes].concat());
    }

    #[test]
    fn no_changed_byte_does_harm(at in 0usize..1000, byte in any::<u8>(), version in 1u32..4) {
        let mut file = model(version).bytes();
        let at = at % file.len();
        file[at] = byte;
        let _ = read(&file);
    }
}
