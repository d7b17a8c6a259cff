#![allow(clippy::unwrap_used)]
use std::collections::HashSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::profiles::Bias;
use crate::registry::EndpointRules;
use crate::registry::listing::{Activity, Disk, LayerTimes, ListingRules};

/// A disk on which only what begins with `/here` exists.
struct Here;

impl Disk for Here {
    fn exists(&self, path: &Path) -> bool {
        path.starts_with("/here")
    }

    fn names(&self, _: &Path) -> Vec<String> {
        Vec::new()
    }
}

struct World {
    snapshot: Snapshot,
    listing: Listing,
    profiles: Profiles,
    hardware: HardwareProfile,
}

impl World {
    fn new(entries: &Value) -> World {
        World::listed_by(entries, &ListingRules::default())
    }

    fn listed_by(entries: &Value, rules: &ListingRules) -> World {
        let endpoints = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
        let snapshot = Snapshot::load("r", entries.to_string().as_bytes(), &endpoints).unwrap();
        assert_eq!(snapshot.problems(), []);
        let listing = snapshot.list(rules, LayerTimes::default(), &Here, &Activity::default());
        let profiles = Profiles::built_in();
        let hardware = HardwareProfile {
            bias: Bias::Balanced,
            max_vram_mb: 20_000,
            ..profiles.hardware["constrained_16gb"].clone()
        };
        World { snapshot, listing, profiles, hardware }
    }

    fn roles(&self) -> Roles<'_> {
        let World { snapshot, listing, profiles, hardware } = self;
        Roles { snapshot, listing, profiles, hardware }
    }

    fn select(&self, ask: &Ask<'_>) -> Selection {
        self.roles().select(ask).unwrap()
    }

    /// Names of the models for `tag`, best first.
    fn names(&self) -> Vec<String> {
        let ask = Ask { role: "tag", top_n: 10, ..Ask::default() };
        self.select(&ask).models.into_iter().map(|model| model.name).collect()
    }

    fn reason(&self, role: &str, name: &str) -> String {
        let ask = Ask { role, top_n: 10, explain: true, ..Ask::default() };
        let verdicts = self.select(&ask).explain.unwrap();
        verdicts.into_iter().find(|verdict| verdict.name == name).unwrap().reason
    }
}

/// An entry for the role `tag`.
fn entry(name: &str, score: f64, quantization: Option<&str>, vram: Option<u64>) -> Value {
    json!({
        "name": name, "backend": "vllm", "backend_config": {"model_path": format!("/here/{name}")},
        "role_priority": {"tag": score}, "quantization": quantization, "vram_estimate_mb": vram,
    })
}

#[test]
fn the_answer_has_exactly_the_fields_of_the_specification() {
    let mut model = entry("q", 90.0, Some("q4-K-m"), Some(9_000));
    model["display_name"] = json!("Q");
    let world = World::new(&json!([model]));
    let ask = Ask { role: " Tag ", top_n: 3, ..Ask::default() };
    assert_eq!(
        serde_json::to_string(&world.select(&ask)).unwrap(),
        r#"{"role":"tag","profile":"constrained_16gb","max_vram_mb":20000,"model_selection_bias":"balanced","top_n":3,"models":[{"id":"Q","name":"q","backend":"vllm","quantization":"q4-K-m","vram_estimate_mb":9000,"role_priority":90}]}"#
    );
    let explained = Ask { explain: true, ..ask };
    assert_eq!(
        serde_json::to_value(world.select(&explained)).unwrap()["explain"],
        json!([{"id": "Q", "name": "q", "taken": true, "role_priority": 90, "weighted_priority": 90,
            "reason": "place 1: score 90, q4_k_m is preferred, needs 9000 of 20000 MB"}])
    );
}

#[test]
fn score_goes_before_quantisation_before_size_before_name() {
    let world = World::new(&json!([
        entry("unsized", 100.0, Some("q4_k_m"), None),
        entry("b", 50.0, Some("AWQ"), Some(9_000)),
        entry("a", 50.0, Some("AWQ"), Some(9_000)),
        entry("small", 50.0, Some("awq"), Some(8_000)),
        entry("preferred", 50.0, Some("Q4-K-M"), Some(9_500)),
        entry("odd", 50.0, Some("exotic"), Some(10)),
        entry("plain", 50.0, None, Some(10)),
        entry("good", 60.0, None, Some(19_000)),
        entry("also-unsized", 10.0, None, None),
        entry("worst", -1.0, Some("q4_k_m"), Some(10)),
    ]));
    assert_eq!(
        world.names(),
        [
            "good",
            "preferred",
            "small",
            "a",
            "b",
            "odd",
            "plain",
            "worst",
            "unsized",
            "also-unsized"
        ]
    );
}

#[test]
fn a_bias_changes_who_wins() {
    let entries = json!([
        entry("big", 80.0, Some("q4_k_m"), Some(20_000)),
        entry("small", 81.0, Some("bf16"), Some(2_000)),
        entry("middle", 82.0, Some("fp8"), Some(10_000)),
    ]);
    for (bias, want) in [
        (Bias::Balanced, ["middle", "small", "big"]),
        (Bias::Quality, ["big", "middle", "small"]),
        (Bias::Efficiency, ["small", "middle", "big"]),
        (Bias::Speed, ["big", "middle", "small"]),
    ] {
        let mut world = World::new(&entries);
        world.hardware.bias = bias;
        assert_eq!(world.names(), want, "{bias:?}");
    }
    let mut world = World::new(&entries);
    world.hardware.bias = Bias::Quality;
    let reason = world.reason("tag", "big");
    assert_eq!(
        reason,
        "place 1: score 80, 100 by quality, q4_k_m is preferred, needs 20000 of 20000 MB"
    );
}

fn troubled() -> Value {
    let with = |mut entry: Value, more: Value| {
        for (key, value) in more.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    };
    let at = |name: &str| entry(name, 50.0, None, Some(1_000));
    json!([
        at("good"),
        with(at("old"), json!({"deprecated": true})),
        with(at("away"), json!({"backend_config": {"model_path": "/gone"}})),
        with(at("fixture"), json!({"metadata": {"testing": true}})),
        with(at("twin"), json!({"backend": "ollama", "served_model_id": "t:1"})),
        with(at("tw"), json!({"backend": "ollama", "served_model_id": "t:1", "role_priority": {}})),
        entry("huge", 99.0, None, Some(30_000)),
        with(
            at("both"),
            json!({"deprecated": true, "vram_estimate_mb": 30_000,
            "backend_config": {"model_path": "/gone"}})
        ),
        with(at("blind"), json!({"roles": ["Caption"], "role_priority": null})),
        with(
            at("eye"),
            json!({"roles": ["caption"], "role_priority": {"caption": 1}, "capabilities": ["vl"]})
        ),
        with(
            at("probed"),
            json!({"role_priority": {"caption": 9}, "capabilities": {"vision": true},
            "probes": {"vision": {"vision_ok": false}}})
        ),
        with(at("hidden"), json!({"role_priority": {"secret": 1}, "metadata": {"testing": true}})),
        with(
            at("absent"),
            json!({"role_priority": {"rare": 1}, "backend_config": {"model_path": "/gone"}})
        ),
    ])
}

#[test]
fn whoever_is_left_is_told_why() {
    let world = World::new(&troubled());
    assert_eq!(world.names(), ["good"]);
    for (role, name, reason) in [
        ("tag", "old", "deprecated"),
        ("tag", "away", "not installed"),
        ("tag", "fixture", "a fixture for tests"),
        ("tag", "twin", "the same model as tw, which is the one that is listed"),
        ("tag", "huge", "needs 30000 MB, the profile has 20000"),
        ("tag", "both", "deprecated, not installed, needs 30000 MB, the profile has 20000"),
        ("caption", "blind", "lacks vision"),
        ("caption", "probed", "lacks vision"),
        ("caption", "eye", "place 1: score 1, needs 1000 of 20000 MB"),
        ("rare", "absent", "not installed"),
    ] {
        assert_eq!(world.reason(role, name), reason, "{role} {name}");
    }
    let ask = Ask { role: "tag", top_n: 0, explain: true, ..Ask::default() };
    let verdict = world.select(&ask).explain.unwrap().remove(0);
    assert!(!verdict.taken && verdict.reason.starts_with("beyond top_n: score 50"), "{verdict:?}");
}

#[test]
fn what_is_not_installed_is_not_chosen_though_it_may_be_listed_and_fixtures_are_if_they_are() {
    let rules = ListingRules {
        include_non_installed: true,
        include_test_models: true,
        ..ListingRules::default()
    };
    let world = World::listed_by(&troubled(), &rules);
    assert_eq!(world.names(), ["fixture", "good"]);
    assert_eq!(world.reason("tag", "away"), "not installed");
    assert!(world.roles().known().contains(&"secret".to_owned()));
}

#[test]
fn a_request_may_need_more_than_the_role() {
    let mut tools = entry("tools", 1.0, None, None);
    tools["capabilities"] = json!({"function_calling": true, "text": true});
    let world = World::new(&json!([entry("plain", 2.0, None, None), tools]));
    let needs = ["Tool-Use".to_owned(), "text".to_owned()];
    let ask = Ask { role: "tag", needs: &needs, top_n: 9, explain: true };
    let selection = world.select(&ask);
    assert_eq!(selection.models.len(), 1);
    assert_eq!(selection.explain.unwrap()[1].reason, "lacks tools");
    let best = world.roles().best("tag", &needs).unwrap();
    assert_eq!(world.snapshot.entries()[best].name, "tools");
}

#[test]
fn an_unknown_role_is_answered_with_those_that_there_are() {
    let world = World::new(&troubled());
    let known = ["caption", "description", "keywords", "narration", "rare", "tag"];
    assert_eq!(world.roles().known(), known);
    for role in ["secret", "captoin", ""] {
        let unknown = world.roles().select(&Ask { role, ..Ask::default() }).unwrap_err();
        assert_eq!(
            (unknown.role.as_str(), unknown.known.as_slice()),
            (role, known.map(str::to_owned).as_slice())
        );
        let error = ApiError::from(unknown);
        assert_eq!((error.status, error.param.as_deref()), (400, Some("role")));
        assert!(
            error.hint.unwrap().ends_with("caption, description, keywords, narration, rare, tag")
        );
    }
    let unknown = world.roles().select(&Ask { role: "captoin", ..Ask::default() }).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no role \"captoin\"; did you mean caption?");
}

#[test]
fn a_role_as_a_models_name_means_the_best_or_says_what_is_wrong() {
    let world = World::new(&troubled());
    let roles = world.roles();
    assert_eq!(role_of("role:caption"), Some("caption"));
    assert_eq!(role_of("caption"), None);
    let best = roles.best("CAPTION", &[]).unwrap();
    assert_eq!(world.snapshot.entries()[best].name, "eye");
    let error = roles.best("rare", &[]).unwrap_err();
    assert_eq!((error.status, error.code), (404, Code::ModelNotFound));
    assert_eq!(error.message, "no model fits the role \"rare\" with the profile constrained_16gb");
    assert_eq!(error.hint.as_deref(), Some("absent: not installed"));
    let error = roles.best("narration", &[]).unwrap_err();
    assert_eq!(
        error.hint.as_deref(),
        Some("no entry of the registry names narration in role_priority")
    );
    let error = roles.best("nothing", &[]).unwrap_err();
    assert_eq!((error.status, error.param.as_deref()), (404, Some("model")));
    assert!(error.hint.unwrap().starts_with("the roles are: caption, "));
    let needs = ["telepathy".to_owned()];
    let error = roles.best("tag", &needs).unwrap_err();
    assert!(error.hint.as_ref().unwrap().ends_with("; and 4 more"), "{error:?}");
}

fn some_entry() -> impl Strategy<Value = Value> {
    let quantizations =
        prop::sample::select(vec![None, Some("q4_k_m"), Some("Q4-K-M"), Some("fp8"), Some("odd")]);
    let sizes =
        prop::option::of(prop::sample::select(vec![1_000_u64, 9_000, 20_000, 20_001, 90_000]));
    let scores = prop::option::of(prop::sample::select(vec![-5.0, 0.0, 50.0, 50.0, 90.5]));
    (scores, quantizations, sizes, any::<[bool; 4]>(), 0_u8..6).prop_map(
        |(score, quantization, size, [old, here, fixture, eyes], tag)| {
            json!({
                "backend": if tag < 3 { "ollama" } else { "vllm" },
                "backend_config": {"model_path": if here { format!("/here/{tag}") } else { "/gone".to_owned() }},
                "role_priority": {"tag": score}, "quantization": quantization, "vram_estimate_mb": size,
                "deprecated": old, "metadata": {"testing": fixture}, "capabilities": {"vision": eyes},
            })
        },
    )
}

fn registry() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(some_entry(), 1..10).prop_map(|mut entries| {
        for (number, entry) in entries.iter_mut().enumerate() {
            entry["name"] = json!(format!("m{number}"));
        }
        entries
    })
}

proptest! {
    #[test]
    fn each_candidate_is_explained_once_and_nothing_is_taken_that_does_not_fit(
        entries in registry(),
        bias in prop::sample::select(vec![Bias::Balanced, Bias::Quality, Bias::Efficiency, Bias::Speed]),
        top_n in 0_usize..5,
        eyes in any::<bool>(),
    ) {
        let mut world = World::new(&json!(entries));
        world.hardware.bias = bias;
        // So that the role is known, whatever is drawn.
        world.profiles.roles.insert("tag".to_owned(), crate::profiles::RoleRule::default());
        let needs: &[String] = if eyes { &["vision".to_owned()] } else { &[] };
        let ask = Ask { role: "tag", needs, top_n, explain: true };
        let selection = world.select(&ask);
        let verdicts = selection.explain.clone().unwrap();
        let told: Vec<&str> = verdicts.iter().map(|verdict| verdict.name.as_str()).collect();
        let unique: HashSet<&str> = told.iter().copied().collect();
        let candidates: HashSet<&str> = world.snapshot.entries().iter()
            .filter(|entry| entry.role_facts.score("tag").is_some())
            .map(|entry| entry.name.as_str())
            .collect();
        prop_assert_eq!(told.len(), unique.len());
        prop_assert_eq!(&unique, &candidates);
        let taken: Vec<&str> = verdicts.iter().filter(|v| v.taken).map(|v| v.name.as_str()).collect();
        let models: Vec<&str> = selection.models.iter().map(|model| model.name.as_str()).collect();
        prop_assert_eq!(taken, models.clone());
        prop_assert!(models.len() <= top_n);
        for name in &models {
            let at = world.snapshot.entries().iter().position(|entry| entry.name == *name).unwrap();
            let entry = &world.snapshot.entries()[at];
            prop_assert!(entry.role_facts.vram_estimate_mb.is_none_or(|needed| needed <= 20_000));
            prop_assert!(!entry.deprecated && world.listing.items[at].is_installed());
            prop_assert!(world.listing.shown.contains(&at));
            prop_assert!(!eyes || entry.capabilities.get("vision") == Some(true));
        }
        let best = world.roles().best("tag", needs).ok();
        let best = best.map(|at| world.snapshot.entries()[at].name.as_str());
        if top_n > 0 {
            prop_assert_eq!(best, models.first().copied());
        }
    }

    #[test]
    fn the_order_does_not_depend_on_that_of_the_file(
        entries in registry(),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut turned = entries.clone();
        turned.rotate_left(seed.index(entries.len()));
        turned.reverse();
        let names = |entries: &[Value]| {
            let mut world = World::new(&json!(entries));
            world.profiles.roles.insert("tag".to_owned(), crate::profiles::RoleRule::default());
            world.names()
        };
        prop_assert_eq!(names(&entries), names(&turned));
    }
}
