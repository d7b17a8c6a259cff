//! Which GPUs there are (SPEC 8).
//!
//! Asks NVML, whose library comes with the driver and is opened only now; where that cannot be, the
//! program `nvidia-smi`; where neither can, there is no GPU. Neither is waited for longer than its
//! limit: a broken driver answers never. How much of each is in use while the daemon runs:
//! [`Gauges`].
//!
//! Owns: asking. Must never do: decide what a card is good for; [`gpus`] does. All of it blocks:
//! call it where that may be.

#[cfg(test)]
mod fake;
pub mod gauges;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use chat_proxy_core::profiles::Gpu;
use chat_proxy_core::profiles::gpus::{self, Card, Reading};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::Serialize;

use crate::process::brief;
pub use gauges::{Gauges, Usage};

/// The name of NVML's library that drivers bring; the one without a number comes with developers' packages.
const LIBRARIES: &[&str] = &["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// Each way of asking may take so long.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a megabyte, as drivers count.
const MB: u64 = 1 << 20;

/// How GPUs are looked for.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Names of NVML's library, the first that can be opened counts.
    pub libraries: Vec<OsString>,
    /// The program to ask where there is no library; looked for on `PATH`.
    pub nvidia_smi: PathBuf,
    /// Each way of asking may take so long.
    pub limit: Duration,
    /// `CUDA_VISIBLE_DEVICES` of the engines; `None`: not set.
    pub visible: Option<String>,
}

impl Probe {
    /// The usual places, for engines with that `CUDA_VISIBLE_DEVICES`.
    pub fn new(visible: Option<String>) -> Probe {
        Probe {
            libraries: usual_libraries(),
            nvidia_smi: PathBuf::from("nvidia-smi"),
            limit: LIMIT,
            visible,
        }
    }

    /// Looks. Blocking, for twice the limit and a moment at most.
    pub fn detect(&self) -> Detection {
        let nvml = match self.by_nvml() {
            Ok(cards) => return self.settle(cards, By::Nvml, Vec::new()),
            Err(why) => format!("NVML: {why}"),
        };
        match self.by_nvidia_smi() {
            Ok(cards) => self.settle(cards, By::NvidiaSmi, vec![nvml]),
            Err(why) => {
                let note = format!("{nvml}; {}: {why}", self.nvidia_smi.display());
                Detection { gpus: Vec::new(), by: By::None, note }
            }
        }
    }

    fn settle(&self, cards: Vec<Card>, by: By, mut said: Vec<String>) -> Detection {
        let unsized_card = cards.iter().any(|card| card.total == Reading::NotReported);
        let system_mb = unsized_card.then(system_mb).flatten();
        let (gpus, notes) = gpus::settle(cards, self.visible.as_deref(), system_mb);
        said.extend(notes);
        Detection { gpus, by, note: said.join("; ") }
    }

    /// In a thread of its own: a driver that does not answer holds that thread, and not us.
    fn by_nvml(&self) -> Result<Vec<Card>, String> {
        let (tell, told) = mpsc::sync_channel(1);
        let libraries = self.libraries.clone();
        let asks = move || {
            // Nobody listens any more if it took too long.
            let _ = tell.send(nvml_cards(&libraries));
        };
        let thread = std::thread::Builder::new().name("nvml".to_owned()).spawn(asks);
        thread.map_err(|error| format!("no thread to ask it in: {error}"))?;
        told.recv_timeout(self.limit)
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", self.limit.as_millis())))
    }

    fn by_nvidia_smi(&self) -> Result<Vec<Card>, String> {
        let query = format!("--query-gpu={}", gpus::QUERY);
        let arguments = [query.as_str(), "--format=csv,noheader,nounits"];
        let asked = brief::ask(&self.nvidia_smi, &arguments, self.limit);
        let answer = asked.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "not found".to_owned(),
            _ => error.to_string(),
        })?;
        if answer.status.success() {
            return gpus::parse_nvidia_smi(&answer.stdout);
        }
        // Without a card it may say so and fail.
        if let Ok(cards) = gpus::parse_nvidia_smi(&answer.stdout)
            && !answer.stdout.trim().is_empty()
        {
            return Ok(cards);
        }
        let words = [answer.stdout, answer.stderr].concat();
        let words: Vec<&str> = words.split_whitespace().collect();
        let words: String = words.join(" ").chars().take(300).collect();
        Err(format!("{}: {words}", answer.status))
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detection {
    /// The GPUs that engines may use.
    pub gpus: Vec<Gpu>,
    /// Who told of them.
    pub by: By,
    /// What failed, and what is odd; empty: nothing.
    pub note: String,
}

/// Who told of the GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The driver's library.
    Nvml,
    /// The program.
    NvidiaSmi,
    /// Nobody.
    None,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Nvml => "nvml",
            By::NvidiaSmi => "nvidia-smi",
            By::None => "none",
        })
    }
}

fn usual_libraries() -> Vec<OsString> {
    LIBRARIES.iter().map(OsString::from).collect()
}

/// Why NVML cannot be asked.
enum Unusable {
    /// There is no library of any of the names.
    Absent(String),
    /// It is there, and refuses.
    Refused(String),
}

impl Unusable {
    fn words(self) -> String {
        match self {
            Unusable::Absent(words) | Unusable::Refused(words) => words,
        }
    }
}

/// Opens the first library that can be opened. Blocking, for as long as the driver likes.
fn open(libraries: &[OsString]) -> Result<Nvml, Unusable> {
    let mut failed = "no library to ask".to_owned();
    for library in libraries {
        match Nvml::builder().lib_path(library).init() {
            Ok(nvml) => return Ok(nvml),
            Err(NvmlError::LibloadingError(error)) => failed = error.to_string(),
            // It is there, and cannot be used: one of another name is no better.
            Err(error) => return Err(Unusable::Refused(error.to_string())),
        }
    }
    Err(Unusable::Absent(failed))
}

fn nvml_cards(libraries: &[OsString]) -> Result<Vec<Card>, String> {
    let nvml = open(libraries).map_err(Unusable::words)?;
    all_cards(&nvml).map_err(|error| error.to_string())
}

/// A card that cannot be asked is there all the same; an old library cannot be asked for sizes at all.
fn all_cards(nvml: &Nvml) -> Result<Vec<Card>, NvmlError> {
    let mut cards = Vec::new();
    for index in 0..nvml.device_count()? {
        let device = match nvml.device_by_index(index) {
            Ok(device) => device,
            Err(error) => {
                let total = Reading::Failed(error.to_string());
                let name = format!("GPU {index}");
                cards.push(Card { index, name, uuid: String::new(), total, free_mb: None });
                continue;
            }
        };
        let slices = slices(&device);
        if slices.is_empty() {
            cards.push(card(index, &device)?);
        }
        for (_, slice) in slices {
            cards.push(card(index, &slice)?);
        }
    }
    Ok(cards)
}

/// A card that is cut into slices cannot be used as a whole. Numbers may be missing among theirs.
fn slices<'nvml>(device: &Device<'nvml>) -> Vec<(u32, Device<'nvml>)> {
    if device.mig_mode().is_ok_and(|mode| mode.current == 1) {
        let slice = |number| device.mig_device_by_index(number).ok().map(|slice| (number, slice));
        return (0..device.mig_device_count().unwrap_or(0)).filter_map(slice).collect();
    }
    Vec::new()
}

fn card(index: u32, device: &Device<'_>) -> Result<Card, NvmlError> {
    let (total, free_mb) = match device.memory_info() {
        Ok(memory) => (Reading::Mb(memory.total / MB), Some(memory.free / MB)),
        Err(NvmlError::NotSupported) => (Reading::NotReported, None),
        Err(error @ NvmlError::FailedToLoadSymbol(_)) => return Err(error),
        Err(error) => (Reading::Failed(error.to_string()), None),
    };
    let name = device.name().unwrap_or_else(|_| format!("GPU {index}"));
    Ok(Card { index, name, uuid: device.uuid().unwrap_or_default(), total, free_mb })
}

/// The machine's memory (MB).
fn system_mb() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024)
}

#[cfg(test)]
mod tests;
