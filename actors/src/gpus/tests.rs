#![allow(clippy::unwrap_used)]
use super::*;
use crate::gpus::fake::Fake;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

/// A probe that asks a script, and no library.
fn probe(dir: &tempfile::TempDir, script: &str) -> Probe {
    let path = dir.path().join("nvidia-smi");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Probe {
        libraries: vec!["/no/such/libnvidia-ml.so.1".into()],
        nvidia_smi: path,
        limit: Duration::from_secs(20),
        visible: None,
    }
}

const LINE: &str = "echo '0, NVIDIA GeForce RTX 4090, 24564, 23000, 1564, GPU-1'";

/// What a library tells that has these GPUs, where the program would tell of another.
fn by_library(gpus: &str, visible: Option<&str>) -> Detection {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::with(gpus);
    let libraries = [vec!["/no/such/library".into()], fake.libraries()].concat();
    let visible = visible.map(str::to_owned);
    let found = Probe { libraries, visible, ..probe(&dir, LINE) }.detect();
    assert_eq!(found.by, By::Nvml, "{}", found.note);
    found
}

#[test]
fn the_library_is_asked_first() {
    let cards = "card H100,81559,80000,1000,0\nlost !15\ncard GB10,!3,0,0,0\n";
    let found = by_library(cards, None);
    let told: Vec<_> = found.gpus.iter().map(|it| (it.name.as_str(), it.total_mb)).collect();
    assert_eq!(told, [("H100", Some(81_559)), ("GPU 1", None), ("GB10", None)]);
    assert_eq!(found.gpus[0].free_mb, Some(80_000));
    assert!(found.note.contains("GPU 1 has cannot be asked: device fell off"), "{}", found.note);
    let numbers = |visible| -> Vec<u32> {
        by_library(cards, Some(visible)).gpus.iter().map(|gpu| gpu.index).collect()
    };
    assert_eq!(numbers("2,0"), [2, 0]);
    assert_eq!(numbers("GPU-100"), [0]);
    assert!(numbers("").is_empty() && by_library("", None).gpus.is_empty());
}

#[test]
fn a_card_in_slices_is_its_slices() {
    let cards = "card H100,81559,80000,1000,0\ncard A100,40960,40000,100,!3\n\
                 hole\nslice A100 1g,4864,4000,800,!3\nslice A100 2g,9984,9000,900,!3\n";
    for (visible, name, total) in
        [(None, "A100 1g", 4864), (Some("MIG-203"), "A100 2g", 9984), (Some("0"), "H100", 81_559)]
    {
        let found = by_library(cards, visible);
        let told: Vec<_> = found.gpus.iter().map(|it| (it.name.as_str(), it.total_mb)).collect();
        assert_eq!(told, [(name, Some(total))], "{}", found.note);
    }
}

#[test]
fn where_the_library_refuses_or_hangs_the_program_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let asks = |fake: &Fake| Probe { libraries: fake.libraries(), ..probe(&dir, LINE) };
    let refuses = asks(&Fake::with("init !9\n")).detect();
    assert_eq!(
        (refuses.by, refuses.note.as_str()),
        (By::NvidiaSmi, "NVML: NVIDIA driver is not loaded")
    );
    let hangs = Fake::with("hang\n");
    let late = Probe { limit: Duration::from_millis(200), ..asks(&hangs) }.by_nvml();
    assert_eq!(late.unwrap_err(), "no answer within 200 ms");
}

#[test]
fn the_program_is_asked_where_there_is_no_library() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "[ \"$1 $2\" = '--query-gpu={} --format=csv,noheader,nounits' ] && {LINE}",
        gpus::QUERY
    );
    let found = probe(&dir, &script).detect();
    assert_eq!(found.by, By::NvidiaSmi, "{}", found.note);
    assert_eq!(found.gpus.len(), 1);
    assert_eq!((found.gpus[0].total_mb, found.gpus[0].free_mb), (Some(24_564), Some(23_000)));
    assert!(found.note.starts_with("NVML: /no/such/libnvidia-ml.so.1"), "{}", found.note);
}

#[test]
fn what_engines_may_not_use_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{LINE}; echo '1, NVIDIA T4, 15360, 15000, 360, GPU-2'");
    let all = probe(&dir, &script);
    let of = |visible: &str| {
        let found = Probe { visible: Some(visible.to_owned()), ..all.clone() }.detect();
        found.gpus.iter().map(|gpu| gpu.index).collect::<Vec<_>>()
    };
    assert_eq!(all.detect().gpus.len(), 2);
    assert_eq!(of("GPU-2"), [1]);
    assert!(of("").is_empty() && of("-1").is_empty());
}

#[test]
fn whatever_fails_is_said_in_words() {
    let dir = tempfile::tempdir().unwrap();
    for (script, words) in [
        (
            "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
            "version mismatch",
        ),
        ("echo 'no driver' >&2; exit 9", "no driver"),
        ("echo nonsense", "expected \"index,name"),
        ("exit 1", "exit status: 1"),
    ] {
        let found = probe(&dir, script).detect();
        assert_eq!((found.by, found.gpus.len()), (By::None, 0), "{script}");
        assert!(found.note.contains(words), "{script}: {}", found.note);
    }
    let gone = Probe { nvidia_smi: "/no/such/nvidia-smi".into(), ..probe(&dir, "") };
    let note = gone.detect().note;
    assert!(note.ends_with("; /no/such/nvidia-smi: not found"), "{note}");
    let none = probe(&dir, "echo 'No devices were found'; exit 6").detect();
    assert_eq!((none.by, none.gpus.len()), (By::NvidiaSmi, 0), "{}", none.note);
}

#[test]
fn a_program_that_hangs_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let hangs = Probe { limit: Duration::from_millis(200), ..probe(&dir, "sleep 600") };
    let begun = Instant::now();
    let found = hangs.detect();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        found.by == By::None && found.note.contains("no answer within 200 ms"),
        "{}",
        found.note
    );
}

#[test]
fn a_machine_without_a_driver_and_one_with_it_are_both_looked_at() {
    let found = Probe::new(None).detect();
    assert!(found.by != By::None || (found.gpus.is_empty() && found.note.contains("NVML: ")));
    assert!(system_mb().unwrap() > 100);
}

#[test]
fn the_sources_have_their_names() {
    for (by, name) in [(By::Nvml, "nvml"), (By::NvidiaSmi, "nvidia-smi"), (By::None, "none")] {
        assert_eq!(serde_json::to_value(by).unwrap(), name);
        assert_eq!(by.to_string(), name);
    }
}
