//! Every file of every corpus, through its body: what once broke a law, or might, never does again.

use std::panic::catch_unwind;

use fuzz_bodies::BODIES;

#[test]
fn every_law_holds_on_every_file_of_its_corpus() {
    let mut broken = Vec::new();
    for body in &BODIES {
        let files = body.corpus().unwrap_or_default();
        assert!(!files.is_empty(), "the corpus of {} is empty", body.name);
        for file in files {
            let bytes = std::fs::read(&file).expect("a file that can be read");
            if catch_unwind(|| body.check(&bytes)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "laws are broken (see above) by {broken:#?}");
}

#[test]
fn nothing_but_corpora_lies_among_them() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in folder.read_dir().expect("the corpora") {
        let name = entry.expect("a folder").file_name();
        let known = BODIES.iter().any(|body| name == body.name);
        assert!(known || name == ".gitattributes", "{name:?} is no body's");
    }
}
