#![allow(clippy::unwrap_used)]
use crate::profiles::gpus::{Card, Reading, parse_nvidia_smi, settle};

fn card(index: u32, name: &str, uuid: &str, total: Reading) -> Card {
    Card { index, name: name.to_owned(), uuid: uuid.to_owned(), total, free_mb: None }
}

#[test]
fn lines_of_nvidia_smi_are_read_with_all_that_they_leave_open() {
    let failed = |why: &str| Reading::Failed(why.to_owned());
    for (line, name, total, free) in [
        (
            "0, NVIDIA GeForce RTX 4090, 24564, 23000, 1564, GPU-1",
            "NVIDIA GeForce RTX 4090",
            Reading::Mb(24_564),
            Some(23_000),
        ),
        (
            "0,NVIDIA T4,15360 MiB,15000 MiB,360 MiB,GPU-1",
            "NVIDIA T4",
            Reading::Mb(15_360),
            Some(15_000),
        ),
        (
            "0, Odd, with, commas, 8192, [N/A], 192, GPU-1",
            "Odd, with, commas",
            Reading::Mb(8_192),
            Some(8_000),
        ),
        ("0, NVIDIA GB10, [N/A], [N/A], [N/A], GPU-1", "NVIDIA GB10", Reading::NotReported, None),
        (
            "0, Orin (nvgpu), [Not Supported], [Not Supported], [Not Supported], GPU-1",
            "Orin (nvgpu)",
            Reading::NotReported,
            None,
        ),
        (
            "0, NVIDIA A100, 40960, [Insufficient Permissions], [Insufficient Permissions], GPU-1",
            "NVIDIA A100",
            Reading::Mb(40_960),
            None,
        ),
        (
            "0, NVIDIA A100, [Insufficient Permissions], [N/A], [N/A], GPU-1",
            "NVIDIA A100",
            failed("Insufficient Permissions"),
            None,
        ),
        (
            "0, NVIDIA A100, [GPU is lost], [GPU is lost], [GPU is lost], GPU-1",
            "NVIDIA A100",
            failed("GPU is lost"),
            None,
        ),
        (
            "0, NVIDIA A100, [Unknown Error], 1, 1, GPU-1",
            "NVIDIA A100",
            failed("Unknown Error"),
            Some(1),
        ),
    ] {
        let cards = parse_nvidia_smi(line).unwrap();
        let want = Card { free_mb: free, ..card(0, name, "GPU-1", total) };
        assert_eq!(cards, [want], "{line}");
    }
}

#[test]
fn several_lines_none_and_what_is_no_list() {
    let two = "0, A, 1000, 900, 100, GPU-a\r\n\n3, B, 2000, 1900, 100, GPU-b\n";
    let indices: Vec<u32> = parse_nvidia_smi(two).unwrap().iter().map(|card| card.index).collect();
    assert_eq!(indices, [0, 3]);
    assert_eq!(parse_nvidia_smi("").unwrap(), []);
    assert_eq!(parse_nvidia_smi("No devices were found\n").unwrap(), []);
    for text in [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        "0, A, 1000",
        "x, A, 1000, 900, 100, GPU-a",
    ] {
        let error = parse_nvidia_smi(text).unwrap_err();
        assert!(error.starts_with("expected \"index,name,memory.total"), "{error}");
        assert!(error.contains(text), "{error}");
    }
}

fn three() -> Vec<Card> {
    let sized = |index, uuid, size| card(index, "Card", uuid, Reading::Mb(size));
    vec![sized(0, "GPU-aa11", 1_000), sized(1, "GPU-aa22", 2_000), sized(2, "GPU-bb33", 3_000)]
}

#[test]
fn cuda_visible_devices_leaves_what_cuda_would_use() {
    for (visible, want) in [
        (None, &[0, 1, 2][..]),
        (Some(""), &[]),
        (Some("-1"), &[]),
        (Some("NoDevFiles"), &[]),
        (Some("2"), &[2]),
        (Some("2, 0"), &[2, 0]),
        (Some("1,1"), &[1]),
        (Some("0,-1,1"), &[0]),
        (Some("0,7,1"), &[0]),
        (Some("GPU-bb"), &[2]),
        (Some("GPU-aa22,0"), &[1, 0]),
        (Some("GPU-aa"), &[]),
        (Some("GPU-zz,0"), &[]),
        (Some("A100"), &[]),
    ] {
        let (gpus, notes) = settle(three(), visible, None);
        let indices: Vec<u32> = gpus.iter().map(|gpu| gpu.index).collect();
        assert_eq!(indices, want, "{visible:?}");
        assert!(
            !want.is_empty() || notes.contains(&"CUDA_VISIBLE_DEVICES leaves no GPU".to_owned())
        );
    }
    let (_, notes) = settle(three(), Some("0,9"), None);
    assert_eq!(notes, ["CUDA_VISIBLE_DEVICES names \"9\", which is no GPU here"]);
    let (_, notes) = settle(three(), Some("MIG-1"), None);
    assert!(notes[0].contains("name a hardware profile by hand"), "{notes:?}");
    assert_eq!(settle(Vec::new(), Some(""), None), (Vec::new(), Vec::new()));
}

#[test]
fn a_slice_is_used_alone_and_found_by_its_name() {
    let slices = || {
        let slice = |uuid: &str| card(0, "NVIDIA A100 MIG 1g.10gb", uuid, Reading::Mb(9_728));
        let mut cards = vec![slice("MIG-1"), slice("MIG-2")];
        cards.push(card(1, "NVIDIA A100", "GPU-1", Reading::Mb(81_920)));
        cards
    };
    let (gpus, notes) = settle(slices(), None, None);
    assert_eq!((gpus.len(), gpus[0].total_mb), (1, Some(9_728)));
    assert!(notes[0].contains("one slice"), "{notes:?}");
    let (gpus, notes) = settle(slices(), Some("MIG-2"), None);
    assert_eq!((gpus.len(), notes.len()), (1, 0));
}

#[test]
fn the_machines_memory_counts_for_a_gpu_that_is_known_to_share_it_and_is_alone() {
    let none = Reading::NotReported;
    let spark = || card(0, "NVIDIA GB10", "GPU-1", Reading::NotReported);
    let total = |cards: Vec<Card>| settle(cards, None, Some(122_000)).0[0].total_mb;
    assert_eq!(total(vec![spark()]), Some(122_000));
    assert_eq!(total(vec![card(0, "Orin (nvgpu)", "GPU-1", none.clone())]), Some(122_000));
    assert_eq!(total(vec![card(0, "NVIDIA A100-SXM4-80GB", "GPU-1", none)]), None);
    assert_eq!(total(vec![card(0, "NVIDIA GB10", "GPU-1", Reading::Failed("x".into()))]), None);
    assert_eq!(total(vec![spark(), card(1, "Card", "GPU-2", Reading::Mb(8_000))]), None);
    assert_eq!(settle(vec![spark()], None, None).0[0].total_mb, None);
    let (_, notes) = settle(vec![spark()], None, Some(122_000));
    assert_eq!(notes, ["NVIDIA GB10 shares the machine's 122000 MB"]);
}

#[test]
fn a_gpu_is_shown_under_the_names_that_clients_know() {
    let (gpus, _) = settle(three(), Some("2"), None);
    assert_eq!(
        serde_json::to_value(&gpus).unwrap(),
        serde_json::json!([{"index": 2, "name": "Card", "total_vram_mb": 3_000, "free_vram_mb": null}])
    );
}

proptest::proptest! {
    #[test]
    fn no_output_breaks_the_parser(text in r"([0-9]{1,3}|, |\[N/A\]|GPU-|NVIDIA|\n|é|\[|\]|,){0,40}") {
        if let Ok(cards) = parse_nvidia_smi(&text) {
            let count = cards.len();
            let (gpus, _) = settle(cards, None, Some(1));
            proptest::prop_assert!(gpus.len() <= count);
        }
    }
}
