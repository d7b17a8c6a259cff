#![allow(clippy::unwrap_used)]
use std::time::Duration;

use crate::profiles::{Bias, Detect, Profiles, Strategy};

const SHIPPED: &str = include_str!("../../../../configs/deployment_profiles.toml");

fn problems(text: &str) -> Vec<String> {
    let problems = Profiles::load(Some(("p.toml", text))).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_shipped_is_what_is_built_in() {
    let built_in = Profiles::built_in();
    assert_eq!(Profiles::load(Some(("p.toml", SHIPPED))).unwrap(), built_in);
    assert_eq!(Profiles::load(None).unwrap(), built_in);
    let names =
        |names: Vec<&String>| names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(built_in.deployments.keys().collect()), "production staging testing");
    assert_eq!(
        names(built_in.hardware.keys().collect()),
        "balanced_24gb constrained_16gb development generous_96gb multi_gpu_2x16gb"
    );
    let exposing: Vec<&str> = built_in
        .deployments
        .values()
        .filter(|profile| profile.include_test_models)
        .map(|profile| profile.name.as_str())
        .collect();
    assert_eq!(exposing, ["testing"]);
    let small = &built_in.hardware["constrained_16gb"];
    assert_eq!((small.max_vram_mb, small.bias), (15_000, Bias::Efficiency));
    assert_eq!(small.autostart_timeout, Some(Duration::from_secs(300)));
    assert_eq!(built_in.roles["caption"].required_capabilities, ["vision"]);
    for profile in built_in.hardware.values() {
        assert!(profile.max_concurrent_models >= 1 && !profile.preferred_quantizations.is_empty());
        assert!(profile.name == "development" || profile.detect.is_some(), "{}", profile.name);
    }
}

#[test]
fn a_file_replaces_wholly_what_it_names_and_leaves_the_rest() {
    let text = r#"
        [hardware.constrained_16gb]
        max_vram_mb = 12_000
        [hardware.mine]
        max_vram_mb = 45_000
        max_concurrent_models = 2
        strategy = "side_by_side"
        model_selection_bias = "speed"
        grace_period_seconds = 0
        detect = { gpu_mb = 46_000 }
        [deployment.production]
        include_test_models = true
        [roles.ocr]
        required_capabilities = ["VL", "multimodal", "tool_use"]
    "#;
    let profiles = Profiles::load(Some(("p.toml", text))).unwrap();
    let small = &profiles.hardware["constrained_16gb"];
    assert_eq!((small.max_vram_mb, small.max_concurrent_models), (12_000, 1));
    assert_eq!((small.bias, small.strategy), (Bias::Balanced, Strategy::OneAtATime));
    assert_eq!((small.detect, small.autostart_timeout), (None, None));
    assert!(small.preferred_quantizations.is_empty());
    let mine = &profiles.hardware["mine"];
    assert_eq!(mine.detect, Some(Detect { gpus: 1, gpu_mb: 46_000, total_mb: 0 }));
    assert_eq!((mine.bias, mine.strategy), (Bias::Speed, Strategy::SideBySide));
    assert_eq!(mine.grace_period, Some(Duration::ZERO));
    assert!(profiles.deployments["production"].include_test_models);
    assert_eq!(profiles.roles["ocr"].required_capabilities, ["tools", "vision"]);
    let built_in = Profiles::built_in();
    assert_eq!(profiles.hardware["balanced_24gb"], built_in.hardware["balanced_24gb"]);
    assert_eq!(profiles.roles["caption"], built_in.roles["caption"]);
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_line() {
    let text = r#"[hardwares.x]
max_vram_mb = 1

[hardware.a]
max_vram = 15_000
strategy = "one_at_time"
model_selection_bias = 3
preferred_quantizations = ["awq", 4, " "]

[hardware.b]
max_vram_mb = "15000"
max_concurrent_models = 2
autostart_timeout_seconds = -1
detect = { gpu = 1 }

[deployment.c]
include_test_models = "yes"

[hardware.production]
max_vram_mb = 1

[hardware.auto]
max_vram_mb = 1

[roles]
caption = "vision"
"Big" = {}
"#;
    let expected = [
        "p.toml:1: there is no section [hardwares]; did you mean hardware?",
        "p.toml:5: [hardware.a] has no key max_vram; did you mean max_vram_mb?",
        "p.toml:4: [hardware.a] needs max_vram_mb: what a model may need, in MB",
        "p.toml:6: strategy of [hardware.a]: expected one of one_at_a_time, side_by_side, spread, found \"one_at_time\"; did you mean one_at_a_time?",
        "p.toml:8: preferred_quantizations of [hardware.a]: expected a list of texts, found in it integer",
        "p.toml:8: preferred_quantizations of [hardware.a]: expected a list of texts, found in it an empty one",
        "p.toml:7: model_selection_bias of [hardware.a]: expected one of balanced, quality, efficiency, speed, found integer",
        "p.toml:12: max_concurrent_models of [hardware.b] is 2, and its strategy one_at_a_time: use 1, or strategy side_by_side or spread",
        "p.toml:11: max_vram_mb of [hardware.b]: expected a whole number from 1 to 16777216, found string",
        "p.toml:13: autostart_timeout_seconds of [hardware.b]: expected a whole number from 1 to 86400, found -1",
        "p.toml:14: [hardware.b.detect] has no key gpu; did you mean gpus?",
        "p.toml:17: include_test_models of [deployment.c]: expected true or false, found string",
        "p.toml:22: [hardware.auto]: auto means a choice by the GPUs; use another name",
        "p.toml:26: roles.caption must be a table: [roles.NAME]",
        "p.toml:27: [roles.Big]: use lower-case letters, digits, _, - and . in names",
        "p.toml:19: [hardware.production]: production is a deployment profile; use another name",
    ];
    let mut found = problems(text);
    let mut expected: Vec<String> = expected.iter().map(|&line| line.to_owned()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_is_no_toml_or_no_table_says_so() {
    for (text, want) in [
        ("[hardware.a\n", "p.toml:1: not TOML"),
        ("\nhardware = 3", "p.toml:2: hardware must be tables: [hardware.NAME]"),
        (
            "\n\n[zzz]\n",
            "p.toml:3: there is no section [zzz]; there are deployment, hardware and roles",
        ),
        (
            "[hardware.a]\nmax_vram_mb = 1\nqqqq = 1",
            "p.toml:3: [hardware.a] has no key qqqq; there are description, ",
        ),
        (
            "[hardware.a]\nmax_vram_mb = 1\ndetect = 1",
            "p.toml:3: [hardware.a.detect] must be a table",
        ),
        ("[hardware.a]\nmax_vram_mb = 1\nmax_vram_mb = 2", "p.toml:3: not TOML"),
        ("hardware.a.max_vram_mb = 0", "p.toml:1: max_vram_mb of [hardware.a]"),
    ] {
        let found = problems(text);
        assert!(found.len() == 1 && found[0].starts_with(want), "{text:?}: {found:?}");
    }
    assert_eq!(Profiles::load(Some(("p.toml", ""))).unwrap(), Profiles::built_in());
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in r#"(\[|\]|hardware|roles|\.|a|=|"|1|\n|\{|\}|,|detect|max_vram_mb){0,40}"#) {
        if let Err(problems) = Profiles::load(Some(("p.toml", &text))) {
            proptest::prop_assert!(!problems.is_empty());
        }
    }
}
