//! Templates are found where they are, in their order.
#![allow(clippy::unwrap_used)]

use super::*;

/// A directory with a model, a template directory, a hub's cache and a place to extract to.
struct Place {
    root: tempfile::TempDir,
    templates: Templates,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let templates = Templates::new(root.path().join("staging/chat_templates"));
        Place { root, templates }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn places(&self) -> TemplatePlaces {
        let source = self.path("model").display().to_string();
        TemplatePlaces {
            model: "org/m".to_owned(),
            named: Some(self.path("t/named.jinja")),
            files: Some(ModelFiles { source, hub: None, cwd: None }),
            by_name: Some(self.path("t/m.jinja")),
            declared: false,
        }
    }

    fn extracted(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.path("staging/chat_templates"));
        all.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn better_places_go_before_others() {
    let place = Place::new();
    let places = place.places();
    assert_eq!(place.templates.find(&places), Found::Missing);
    assert!(!place.templates.has_seen(&places));
    let by_name = place.write("t/m.jinja", "n");
    assert_eq!(place.templates.find(&places), Found::File(by_name));
    assert!(place.templates.has_seen(&places));
    place.write("model/tokenizer_config.json", r#"{"chat_template": "{{ a }}"}"#);
    let Found::File(extracted) = place.templates.find(&places) else { panic!("no file") };
    assert_eq!(fs::read_to_string(&extracted).unwrap(), "{{ a }}");
    assert_eq!(place.extracted(), [extracted]);
    let own = place.write("model/chat_template.jinja", "o");
    assert_eq!(place.templates.find(&places), Found::File(own));
    let named = place.write("t/named.jinja", "x");
    assert_eq!(place.templates.find(&places), Found::File(named));
}

#[test]
fn templates_are_extracted_once_and_anew_when_they_change() {
    let place = Place::new();
    let file = "model/tokenizer_config.json";
    place.write(file, r#"{"chat_template": "a"}"#);
    let first = place.templates.find(&place.places());
    assert_eq!(place.templates.find(&place.places()), first);
    assert_eq!(place.extracted().len(), 1);
    place.write(file, r#"{"chat_template": "b"}"#);
    assert_ne!(place.templates.find(&place.places()), first);
    assert_eq!(place.extracted().len(), 2);
}

#[test]
fn what_the_engine_chooses_from_is_left_to_it() {
    let place = Place::new();
    let several = r#"{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}"#;
    place.write("model/tokenizer_config.json", several);
    assert_eq!(place.templates.find(&place.places()), Found::WithTheModel);
    let place = Place::new();
    place.write("model/chat_template.jinja", "a");
    place.write("model/additional_chat_templates/tool_use.jinja", "b");
    assert_eq!(place.templates.find(&place.places()), Found::WithTheModel);
    let place = Place::new();
    let declared = TemplatePlaces { declared: true, ..place.places() };
    assert_eq!(place.templates.find(&declared), Found::WithTheModel);
}

#[test]
fn what_cannot_be_read_is_passed_over() {
    let place = Place::new();
    place.write("model/chat_template.json", "no json");
    place.write("model/tokenizer_config.json", r#"{"chat_template": "a"}"#);
    assert!(matches!(place.templates.find(&place.places()), Found::File(_)));
    let blocked = Templates::new(place.write("file", "").join("below"));
    assert_eq!(blocked.find(&place.places()), Found::Missing);
}

#[test]
fn models_of_the_hub_are_found_in_its_cache_and_files_by_their_directory() {
    let place = Place::new();
    let hub = place.path("hub");
    place.write("hub/models--org--m/refs/main", "abc\n");
    let own = place.write("hub/models--org--m/snapshots/abc/chat_template.jinja", "a");
    let files = ModelFiles { source: "org/m".to_owned(), hub: Some(hub), cwd: None };
    let places = TemplatePlaces { files: Some(files), ..place.places() };
    assert_eq!(place.templates.find(&places), Found::File(own));
    let gguf = place.write("model/m.gguf", "");
    let beside = place.write("model/x.jinja", "a");
    let files = ModelFiles { source: gguf.display().to_string(), hub: None, cwd: None };
    let places = TemplatePlaces { files: Some(files), ..place.places() };
    assert_eq!(place.templates.find(&places), Found::File(beside));
    // Relative to the engine's directory.
    let cwd = Some(place.root.path().to_owned());
    let files = ModelFiles { source: "model".to_owned(), hub: None, cwd };
    let places = TemplatePlaces { files: Some(files), ..place.places() };
    assert_eq!(place.templates.find(&places), Found::File(place.path("model/x.jinja")));
}
