//! GPUs, as drivers and tools tell of them.
//!
//! Owns: what `nvidia-smi` prints, which cards `CUDA_VISIBLE_DEVICES` leaves, and what a card
//! without a size means. Must never do: run anything, or take a size for granted.

use serde::Serialize;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its number at the driver.
    pub index: u32,
    /// Its model.
    pub name: String,
    /// Its memory (MB); `None`: not known.
    #[serde(rename = "total_vram_mb")]
    pub total_mb: Option<u64>,
    /// What of it was free when it was looked at (MB).
    #[serde(rename = "free_vram_mb")]
    pub free_mb: Option<u64>,
}

impl Gpu {
    /// What models may have of it (MB): all but a sixteenth, which drivers, displays and contexts keep.
    pub fn usable_mb(&self) -> Option<u64> {
        self.total_mb.filter(|total| *total > 0).map(|total| total - total / 16)
    }
}

/// A card as it was told of, before it is known whether we may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its number at the driver; of a slice, that of the card which it is cut from.
    pub index: u32,
    /// Its model.
    pub name: String,
    /// Its name for ever, such as `GPU-…`, or `MIG-…` of a slice.
    pub uuid: String,
    /// Its memory.
    pub total: Reading,
    /// What of it is free (MB).
    pub free_mb: Option<u64>,
}

/// How much memory a card has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// So much (MB).
    Mb(u64),
    /// It says that it has none to tell of.
    NotReported,
    /// It could not be asked; why.
    Failed(String),
}

/// The columns that [`parse_nvidia_smi`] reads, for `--query-gpu`.
pub const QUERY: &str = "index,name,memory.total,memory.free,memory.used,uuid";

/// Reads what `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` prints. The error says what
/// was found instead.
pub fn parse_nvidia_smi(text: &str) -> Result<Vec<Card>, String> {
    let text = text.trim_start_matches('\u{feff}');
    if text.to_ascii_lowercase().contains("no devices were found") {
        return Ok(Vec::new());
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| card(line).ok_or_else(|| unreadable(line))).collect()
}

fn unreadable(line: &str) -> String {
    let shown: String = line.chars().take(200).collect();
    format!("expected \"{QUERY}\", found {shown:?}")
}

/// A line; the name may have commas in it, nothing else has.
fn card(line: &str) -> Option<Card> {
    let (index, rest) = line.split_once(',')?;
    let mut fields = rest.rsplitn(5, ',').map(str::trim);
    let (uuid, used, free, total) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next()?;
    let (total, used) = (reading(total), megabytes(used));
    let free_mb = megabytes(free).or_else(|| match total {
        Reading::Mb(total) => total.checked_sub(used?),
        _ => None,
    });
    Some(Card {
        index: index.trim().parse().ok()?,
        name: name.to_owned(),
        uuid: uuid.to_owned(),
        total,
        free_mb,
    })
}

fn megabytes(field: &str) -> Option<u64> {
    field.trim_end_matches("MiB").trim_end().parse().ok()
}

fn reading(field: &str) -> Reading {
    if let Some(total) = megabytes(field) {
        return Reading::Mb(total);
    }
    let words = field.trim_matches(['[', ']']);
    match words.to_ascii_lowercase().as_str() {
        "n/a" | "not supported" => Reading::NotReported,
        _ => Reading::Failed(words.to_owned()),
    }
}

/// The GPUs that we may use, and what there is to say about those that we may not, or not fully.
///
/// `visible` is `CUDA_VISIBLE_DEVICES`: numbers or beginnings of UUIDs, which count up to the first
/// that is no card's, as with CUDA; unset: all. Numbers are taken as the driver's; CUDA counts so
/// too with `CUDA_DEVICE_ORDER=PCI_BUS_ID`, else the fastest card first, which nobody else can know.
///
/// `system_mb` is the machine's memory. A card that says it has no memory of its own has all of that
/// if it is the only one and of a kind that is known to share it (DGX Spark, Jetson). A card in a
/// server that hides its size keeps it unknown: a slice of 10 GB in a machine of 500 GB is no GPU
/// of 500 GB.
pub fn settle(
    cards: Vec<Card>,
    visible: Option<&str>,
    system_mb: Option<u64>,
) -> (Vec<Gpu>, Vec<String>) {
    let mut notes = Vec::new();
    let cards = match visible {
        Some(list) => chosen(&cards, list, &mut notes),
        None => without_further_slices(cards, &mut notes),
    };
    let alone = cards.len() == 1;
    let shared = system_mb.filter(|_| alone);
    let gpus = cards.into_iter().map(|card| gpu(card, shared, &mut notes)).collect();
    (gpus, notes)
}

fn chosen(cards: &[Card], list: &str, notes: &mut Vec<String>) -> Vec<Card> {
    let mut found: Vec<Card> = Vec::new();
    for word in list.split(',').map(str::trim) {
        let Some(card) = meant(cards, word) else {
            if !matches!(word, "" | "-1" | "NoDevFiles") {
                let kind = if word.starts_with("MIG-") {
                    " (a slice whose size cannot be asked for; name a hardware profile by hand)"
                } else {
                    ""
                };
                let shown: String = word.chars().take(100).collect();
                notes.push(format!(
                    "CUDA_VISIBLE_DEVICES names {shown:?}, which is no GPU here{kind}"
                ));
            }
            break;
        };
        if !found.contains(card) {
            found.push(card.clone());
        }
    }
    if found.is_empty() && !cards.is_empty() {
        notes.push("CUDA_VISIBLE_DEVICES leaves no GPU".to_owned());
    }
    found
}

/// The card of that number, or the only one whose UUID begins so.
fn meant<'a>(cards: &'a [Card], word: &str) -> Option<&'a Card> {
    if let Ok(index) = word.parse::<u32>() {
        return cards.iter().find(|card| card.index == index);
    }
    if !word.starts_with("GPU-") && !word.starts_with("MIG-") {
        return None;
    }
    let mut found = cards.iter().filter(|card| card.uuid.starts_with(word));
    found.next().filter(|_| found.next().is_none())
}

/// CUDA uses one slice, the first, and then no other card.
fn without_further_slices(cards: Vec<Card>, notes: &mut Vec<String>) -> Vec<Card> {
    match cards.iter().find(|card| card.uuid.starts_with("MIG-")) {
        Some(slice) if cards.len() > 1 => {
            notes.push(format!("CUDA uses one slice of a card alone: {}", slice.name));
            vec![slice.clone()]
        }
        _ => cards,
    }
}

/// Words in the names of GPUs that have no memory but the machine's.
const SHARING: &[&str] = &["gb10", "orin", "thor", "xavier", "tegra", "jetson"];

fn gpu(card: Card, system_mb: Option<u64>, notes: &mut Vec<String>) -> Gpu {
    let lower = card.name.to_ascii_lowercase();
    let shares = lower.split(|c: char| !c.is_alphanumeric()).any(|word| SHARING.contains(&word));
    let (total_mb, free_mb) = match (card.total, system_mb) {
        (Reading::Mb(total), _) => (Some(total), card.free_mb),
        (Reading::NotReported, Some(system)) if shares => {
            notes.push(format!("{} shares the machine's {system} MB", card.name));
            (Some(system), None)
        }
        (Reading::NotReported, _) => {
            notes.push(format!("{} does not say how much memory it has", card.name));
            (None, None)
        }
        (Reading::Failed(why), _) => {
            notes.push(format!("how much memory {} has cannot be asked: {why}", card.name));
            (None, None)
        }
    };
    Gpu { index: card.index, name: card.name, total_mb, free_mb }
}
