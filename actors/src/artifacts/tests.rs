//! Downloads in directories of their own.

use std::os::unix::fs::symlink;

use chat_proxy_core::artifacts::record::Hashed;

use super::*;

fn write(dir: &Path, path: &str, bytes: &[u8]) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn weights() -> Vec<u8> {
    let json = br#"{"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;
    [&(json.len() as u64).to_le_bytes()[..], json, &[0; 8]].concat()
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.files.iter().map(|file| file.path.as_str()).collect()
}

fn paths(download: &Path) -> Paths {
    Paths { download: Some(download.display().to_string()), model: None }
}

#[test]
fn a_directory_is_listed_without_what_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let (model, outside) = (dir.path().join("m"), dir.path().join("outside"));
    write(&model, "model.safetensors", b"123");
    write(&model, "sub/deep/x.txt", b"1");
    write(&model, ".cache/huggingface/x", b"1");
    write(&outside, "secret", b"1");
    symlink(outside.join("secret"), model.join("secret")).unwrap();
    symlink(&outside, model.join("outside")).unwrap();
    symlink(&model, model.join("loop")).unwrap();
    symlink("nowhere", model.join("dead")).unwrap();
    symlink("model.safetensors", model.join("same.safetensors")).unwrap();
    let listing = list(&model).unwrap();
    assert_eq!(names(&listing), ["model.safetensors", "same.safetensors", "sub/deep/x.txt"]);
    let want = [
        "left out, links to elsewhere: outside, secret",
        "left out, links to nothing: dead",
        "left out, no regular files: loop",
    ];
    assert_eq!(listing.oddities, want);
}

/// The hub's cache, with a model of one version.
fn hub(dir: &Path) -> PathBuf {
    let model = dir.join("models--org--tiny");
    write(&model, "blobs/aaaa", &weights());
    write(&model, "blobs/bbbb", b"{\"torch_dtype\": \"bfloat16\"}");
    write(&model, "refs/main", b"0123\n");
    let version = model.join("snapshots/0123");
    fs::create_dir_all(&version).unwrap();
    symlink("../../blobs/aaaa", version.join("model.safetensors")).unwrap();
    symlink("../../blobs/bbbb", version.join("config.json")).unwrap();
    model
}

#[test]
fn the_hubs_cache_is_read_through_its_links() {
    let dir = tempfile::tempdir().unwrap();
    let model = hub(dir.path());
    for path in [model.join("snapshots/0123"), model] {
        let listing = list(&path).unwrap();
        assert_eq!(names(&listing), ["config.json", "model.safetensors"]);
        assert_eq!(listing.oddities, [""; 0]);
        let sight = sight(&path).unwrap();
        assert_eq!(sight.found.quantization.as_deref(), Some("BF16"));
    }
    let places = Places { cwd: None, hub: Some(dir.path().to_owned()) };
    let by_name = |name: &str| places.find(&Paths { download: None, model: Some(name.into()) });
    assert!(
        matches!(by_name("org/tiny"), Whereabouts::At(path) if path.ends_with("snapshots/0123"))
    );
    assert!(matches!(by_name("org/other"), Whereabouts::Unclear(_)));
}

#[test]
fn what_is_gone_is_told_from_what_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places { cwd: Some(dir.path().to_owned()), hub: Some(dir.path().join("hub")) };
    write(dir.path(), "here/model.safetensors", &weights());
    let find = |download: Option<&str>, model: Option<&str>| {
        places
            .find(&Paths { download: download.map(str::to_owned), model: model.map(str::to_owned) })
    };
    assert_eq!(find(Some("/no/such"), None), Whereabouts::Gone);
    assert_eq!(find(Some("no-such"), Some("./no/such")), Whereabouts::Gone);
    assert_eq!(find(Some("/no/such"), Some("here")), Whereabouts::At(dir.path().join("here")));
    for unclear in ["~/models/x", "s3://bucket/x"] {
        assert!(matches!(find(Some(unclear), None), Whereabouts::Unclear(_)), "{unclear}");
    }
    assert!(matches!(find(None, Some("org/name")), Whereabouts::Unclear(_)));
}

#[test]
fn a_file_brings_its_parts_and_its_eyes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf", "notes.txt"] {
        write(dir.path(), name, b"GGUF");
    }
    let first = dir.path().join("m-00001-of-00002.gguf");
    let want = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-m.gguf"];
    assert_eq!(names(&list(&first).unwrap()), want);
    write(dir.path(), "other.gguf", b"GGUF");
    assert_eq!(names(&list(&first).unwrap()), want[..2]);
    let link = dir.path().join("shelf/link.gguf");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(dir.path().join("other.gguf"), &link).unwrap();
    assert_eq!(names(&list(&link).unwrap()), ["other.gguf"]);
}

#[test]
fn a_look_says_what_is_there_and_where_its_template_is() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    write(&model, "model.safetensors", &weights());
    write(&model, "chat_template.jinja", b"abc");
    let broken = dir.path().join("broken");
    write(&broken, "README.md", b"x");
    let gone = dir.path().join("gone");
    let all = [paths(&model), paths(&broken), paths(&gone), paths(&model)];
    let looks = look_at(all, &Places::default());
    assert_eq!(looks.len(), 3);
    let Look::Found(sight) = &looks[&paths(&model)] else { panic!("{looks:?}") };
    let template = sight.template.clone().unwrap();
    assert_eq!(template["path"], json!(model.join("chat_template.jinja")));
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(template["sha256"], abc);
    assert!(matches!(&looks[&paths(&broken)], Look::Unclear(why) if why.contains("no weights")));
    assert_eq!(looks[&paths(&gone)], Look::Gone);
}

#[test]
fn heads_that_promise_too_much_are_read_to_the_end_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.safetensors", &[&(20u64 << 20).to_le_bytes()[..], b"{}"].concat());
    let odd = sight(dir.path()).unwrap().found.oddities;
    assert!(odd[0].contains("head ends too soon"), "{odd:?}");
    let endless = [b"GGUF\x03\0\0\0".to_vec(), vec![0xff; 2 << 20]].concat();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.gguf", &endless);
    let odd = sight(dir.path()).unwrap().found.oddities;
    assert!(odd[0].contains("a.gguf: "), "{odd:?}");
}

#[test]
fn checksums_are_those_of_the_definition() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b", b"abc");
    write(dir.path(), "a/x", b"");
    let (mut done, mut told) = (0, Vec::new());
    let mut tell = |at: Hashing<'_>| told.push((at.path.to_owned(), at.done));
    let files: Vec<Hashed> =
        ["b", "a/x"].iter().map(|p| hash(dir.path(), p, &mut done, &mut tell).unwrap()).collect();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!((files[0].size, files[0].sha256.as_str()), (3, abc));
    assert_eq!((files[1].size, files[1].sha256.as_str(), done), (0, nothing, 3));
    assert_eq!(told, [("b".into(), 0), ("b".into(), 3), ("a/x".into(), 3)]);
    let lines = format!("a/x\0{}\0{nothing}\nb\0{}\0{abc}\n", 0, 3);
    assert_eq!(directory_checksum(&files), digest::whole(lines.as_bytes()));
    hash(dir.path(), "no-such", &mut done, &mut |_| {}).unwrap_err();
}
