#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use crate::profiles::{Axis, Gpu, Profiles, choose};

fn gpus(sizes: &[u64]) -> Vec<Gpu> {
    let gpu = |(index, size): (u32, &u64)| Gpu {
        index,
        name: "Card".to_owned(),
        total_mb: (*size > 0).then_some(*size),
        free_mb: None,
    };
    (0..).zip(sizes).map(gpu).collect()
}

#[test]
fn the_gpus_choose_the_largest_profile_that_fits() {
    let profiles = Profiles::built_in();
    for (sizes, name, max_vram_mb) in [
        (&[][..], "development", 8_000),
        (&[0], "development", 8_000),
        (&[4_096], "constrained_16gb", 3_840),
        (&[8_192, 12_288], "constrained_16gb", 11_520),
        (&[15_360], "constrained_16gb", 14_400),
        (&[16_376], "constrained_16gb", 15_000),
        (&[20_475], "constrained_16gb", 15_000),
        (&[23_028], "balanced_24gb", 21_589),
        (&[24_564], "balanced_24gb", 23_000),
        (&[24_564, 8_192], "balanced_24gb", 23_000),
        (&[49_140], "balanced_24gb", 23_000),
        (&[16_376, 16_376], "multi_gpu_2x16gb", 30_000),
        (&[24_564, 24_564], "multi_gpu_2x16gb", 30_000),
        (&[81_559], "generous_96gb", 76_462),
        (&[97_887], "generous_96gb", 90_000),
        (&[143_771], "generous_96gb", 90_000),
        (&[49_140, 49_140], "generous_96gb", 90_000),
        (&[16_376, 16_376, 16_376, 16_376, 16_376, 16_376], "multi_gpu_2x16gb", 30_000),
        (&[0, 16_376], "constrained_16gb", 15_000),
    ] {
        let chosen = choose(&profiles, "auto", &gpus(sizes)).unwrap();
        let found = (chosen.profile.name.as_str(), chosen.profile.max_vram_mb);
        assert_eq!(found, (name, max_vram_mb), "{sizes:?}: {}", chosen.reason);
        assert!(!chosen.manual_override && chosen.reason.contains(name), "{}", chosen.reason);
    }
}

#[test]
fn reasons_are_words_that_a_person_understands() {
    let profiles = Profiles::built_in();
    for (wanted, sizes, reason) in [
        ("auto", &[][..], "no GPU was found: development"),
        (
            "auto",
            &[0],
            "how much memory Card has is not known: development; name a hardware profile by hand",
        ),
        (
            "auto",
            &[24_564],
            "1 GPU (Card, 24564 MB): balanced_24gb is the largest profile that fits",
        ),
        (
            "auto",
            &[8_192, 8_192],
            "2 GPUs (Card, 8192 MB; Card, 8192 MB): less than any profile asks for, so the smallest, \
             constrained_16gb; its max_vram_mb is lowered from 15000 to the 7680 that are there",
        ),
        ("balanced_24gb", &[24_564], "balanced_24gb is named"),
        (
            "Generous_96gb ",
            &[16_384],
            "generous_96gb is named; it allows 90000 MB, but the GPUs that were found have 15360 MB for models",
        ),
    ] {
        assert_eq!(choose(&profiles, wanted, &gpus(sizes)).unwrap().reason, reason);
    }
}

#[test]
fn a_profile_that_is_named_holds_as_it_is_written() {
    let profiles = Profiles::built_in();
    let chosen = choose(&profiles, "generous_96gb", &gpus(&[16_384, 16_384])).unwrap();
    assert!(chosen.manual_override);
    assert_eq!(chosen.profile, profiles.hardware["generous_96gb"]);
    assert_eq!(chosen.total_usable_vram_mb, 30_720);
    assert_eq!(chosen.budget().residents, 3);
    // Where nobody knows how big the GPUs are, one is enough.
    for sizes in [&[][..], &[0]] {
        let chosen = choose(&profiles, "generous_96gb", &gpus(sizes)).unwrap();
        assert_eq!((chosen.budget().residents, chosen.total_usable_vram_mb), (1, 0));
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_list() {
    let profiles = Profiles::built_in();
    let error = choose(&profiles, "balanced_24", &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no hardware profile \"balanced_24\"; there are auto, balanced_24gb, constrained_16gb, \
         development, generous_96gb, multi_gpu_2x16gb; did you mean balanced_24gb?"
    );
    let error = choose(&profiles, "production", &[]).unwrap_err().to_string();
    assert!(error.ends_with("; production is a deployment profile"), "{error}");
    let error = profiles.deployment("development").unwrap_err().to_string();
    assert!(error.ends_with("; development is a hardware profile"), "{error}");
    assert_eq!(profiles.deployment(" Testing").unwrap().name, "testing");
    assert_eq!(profiles.axis("testing"), Ok(Axis::Deployment));
    assert_eq!(profiles.axis("development"), Ok(Axis::Hardware));
    assert_eq!(profiles.axis("AUTO"), Ok(Axis::Hardware));
    let error = profiles.axis("stagging").unwrap_err().to_string();
    assert!(
        error.contains("there is no profile") && error.ends_with("did you mean staging?"),
        "{error}"
    );
}

#[test]
fn a_profile_of_ones_own_is_chosen_too() {
    let text = "[hardware.big]\nmax_vram_mb = 45_000\ndetect = { gpu_mb = 48_000 }";
    let profiles = Profiles::load(Some(("p.toml", text))).unwrap();
    let name = |sizes: &[u64]| choose(&profiles, "auto", &gpus(sizes)).unwrap().profile.name;
    assert_eq!(name(&[49_140]), "big");
    assert_eq!(name(&[24_564]), "balanced_24gb");
}

proptest! {
    #[test]
    fn what_the_gpus_choose_fits_them(sizes in prop::collection::vec(0_u64..200_000, 0..5)) {
        let profiles = Profiles::built_in();
        let gpus = gpus(&sizes);
        let chosen = choose(&profiles, "auto", &gpus).unwrap();
        let written = &profiles.hardware[&chosen.profile.name];
        prop_assert!((1..=written.max_vram_mb).contains(&chosen.profile.max_vram_mb));
        prop_assert!(chosen.budget().residents >= 1);
        if chosen.total_usable_vram_mb > 0 {
            prop_assert!(chosen.profile.max_vram_mb <= chosen.total_usable_vram_mb.max(1));
            prop_assert!(chosen.profile.name != "development");
        } else {
            prop_assert_eq!(&chosen.profile.name, "development");
        }
        // The order in which GPUs are found decides nothing.
        let mut turned = gpus.clone();
        turned.reverse();
        prop_assert_eq!(choose(&profiles, "auto", &turned).unwrap().profile, chosen.profile);
    }

    #[test]
    fn more_memory_never_allows_less(size in 2_u64..100_000, more in 0_u64..100_000) {
        let profiles = Profiles::built_in();
        let allows = |size| choose(&profiles, "auto", &gpus(&[size])).unwrap().profile.max_vram_mb;
        // Profiles begin a little below the size that they are named for.
        prop_assert!(allows(size + more) + 1_000 >= allows(size));
    }
}
