//! How much of each GPU is in use, for whoever scrapes.
//!
//! Owns: the thread `gpu-gauges`, which is started by the first question and ends with the last
//! [`Gauges`], and the driver's library, which only that thread touches and keeps open. There is
//! one question at a time; its answer is for all who wait then. Must never do: let anybody wait
//! longer than they want to: a driver that hangs holds that thread, and nobody else.

use std::collections::HashSet;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use chat_proxy_core::engine::lifecycle::Moment;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use prometheus::GaugeVec;
use prometheus::core::Collector;
use prometheus::proto::LabelPair;
use tokio::sync::watch;

use super::{Unusable, open, slices, usual_libraries};
use crate::clock;

/// A driver that failed is not troubled again before.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// Where there is no library, none is looked for before.
const AFTER_ABSENCE: Duration = Duration::from_secs(60);

/// Memory and use of one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Its number, as `nvidia-smi` counts; of a slice (MIG) the card's and its own: `0/1`.
    pub gpu: String,
    /// What the driver calls it.
    pub name: String,
    /// All of its memory.
    pub total_bytes: u64,
    /// What programs have taken, without what the driver keeps for itself.
    pub used_bytes: u64,
    /// What programs may still take.
    pub free_bytes: u64,
    /// The part of the time in which it worked, 0 to 1; `None`: it does not say, as slices never do.
    pub utilization: Option<f64>,
}

/// `None`: the driver does not answer, or there is none.
type Answer = Option<Vec<Usage>>;

/// Asks the driver for memory and use of each GPU, whenever somebody scrapes.
///
/// It tells of all GPUs of the machine, also of those that engines may not use.
#[derive(Debug, Clone)]
pub struct Gauges {
    libraries: Arc<[OsString]>,
    /// Where the thread takes its questions from; with the last sender it ends.
    thread: Arc<Mutex<Option<mpsc::Sender<()>>>>,
    board: Arc<Board>,
}

/// What askers and the thread share.
#[derive(Debug)]
struct Board {
    /// A question is under way.
    asked: Mutex<bool>,
    answers: watch::Sender<Answer>,
}

impl Default for Gauges {
    fn default() -> Self {
        Gauges::new(usual_libraries())
    }
}

impl Gauges {
    /// With these names of NVML's library, of which the first that can be opened counts. Starts
    /// nothing.
    pub fn new(libraries: Vec<OsString>) -> Gauges {
        let board = Board { asked: Mutex::new(false), answers: watch::Sender::new(None) };
        let thread = Arc::new(Mutex::new(None));
        Gauges { libraries: libraries.into(), thread, board: Arc::new(board) }
    }

    /// Each GPU that answers; `None`: there is no driver, or it does not answer within that.
    pub async fn sample(&self, within: Duration) -> Option<Vec<Usage>> {
        let mut answers = self.ask()?;
        let answered = tokio::time::timeout(within, answers.changed()).await;
        answered.ok()?.ok()?;
        answers.borrow().clone()
    }

    /// Joins the question that is under way, or asks. The next answer to come is its own, since
    /// none can be told while both are locked.
    fn ask(&self) -> Option<watch::Receiver<Answer>> {
        let mut thread = lock(&self.thread);
        let mut asked = lock(&self.board.asked);
        let answers = self.board.answers.subscribe();
        if !*asked {
            let awake = thread.as_ref().is_some_and(|thread| thread.send(()).is_ok());
            if !awake {
                *thread = Some(self.start()?);
            }
            *asked = true;
        }
        Some(answers)
    }

    /// A thread that has been asked once. `None`: the system gives us none.
    fn start(&self) -> Option<mpsc::Sender<()>> {
        let (ask, questions) = mpsc::channel();
        let board = self.board.clone();
        let mut driver = Driver::new(self.libraries.clone());
        let serves = move || {
            // Outlives the receiver: a question that was put to a thread that dies is answered too.
            let _last = Question { board: &board, answer: None };
            let questions = questions;
            while questions.recv().is_ok() {
                let mut question = Question { board: &board, answer: None };
                question.answer = driver.look(clock::now());
            }
        };
        ask.send(()).ok()?;
        std::thread::Builder::new().name("gpu-gauges".to_owned()).spawn(serves).ok()?;
        Some(ask)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A question that is answered in any case, even by a panic: with nothing.
struct Question<'a> {
    board: &'a Board,
    answer: Answer,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut asked = lock(&self.board.asked);
        *asked = false;
        self.board.answers.send_replace(self.answer.take());
    }
}

/// The library, and when it may be looked for again.
struct Driver {
    libraries: Arc<[OsString]>,
    state: State,
}

enum State {
    Open(Box<Nvml>),
    /// Not touched before that moment.
    Shut(Moment),
}

impl Driver {
    fn new(libraries: Arc<[OsString]>) -> Driver {
        Driver { libraries, state: State::Shut(Moment::ZERO) }
    }

    /// Open => (Open | Shut): no card answers any more, as after a driver was replaced.
    /// Shut => (Open | Shut): its time has come, and it could be opened or not.
    fn look(&mut self, now: Moment) -> Answer {
        if let State::Shut(until) = &self.state {
            if now < *until {
                return None;
            }
            self.state = match open(&self.libraries) {
                Ok(nvml) => State::Open(Box::new(nvml)),
                Err(Unusable::Absent(_)) => State::Shut(now + AFTER_ABSENCE),
                Err(Unusable::Refused(_)) => State::Shut(now + AFTER_FAILURE),
            };
        }
        let State::Open(nvml) = &self.state else { return None };
        let answer = usages(nvml).ok();
        if answer.is_none() {
            self.state = State::Shut(now + AFTER_FAILURE);
        }
        answer
    }
}

/// Those that answer; an error where there are some, and none does.
fn usages(nvml: &Nvml) -> Result<Vec<Usage>, NvmlError> {
    let mut usages = Vec::new();
    let mut failed = None;
    for index in 0..nvml.device_count()? {
        let parts = nvml.device_by_index(index).map(|card| parts(index, card));
        for (gpu, device) in parts.unwrap_or_else(|error| {
            failed = Some(error);
            Vec::new()
        }) {
            match usage(gpu, &device) {
                Ok(usage) => usages.push(usage),
                Err(error) => failed = Some(error),
            }
        }
    }
    match failed {
        Some(error) if usages.is_empty() && may_pass(&error) => Err(error),
        _ => Ok(usages),
    }
}

/// It may be otherwise when the library is opened anew; not so if the card has no memory of its own
/// to tell of, or the library is too old.
fn may_pass(error: &NvmlError) -> bool {
    !matches!(error, NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_))
}

/// The card itself, or the slices that it is cut into.
fn parts(index: u32, card: Device<'_>) -> Vec<(String, Device<'_>)> {
    let named = |(number, slice)| (format!("{index}/{number}"), slice);
    let mut parts: Vec<_> = slices(&card).into_iter().map(named).collect();
    if parts.is_empty() {
        parts.push((index.to_string(), card));
    }
    parts
}

fn usage(gpu: String, device: &Device<'_>) -> Result<Usage, NvmlError> {
    let memory = device.memory_info()?;
    let utilization = device.utilization_rates().ok();
    Ok(Usage {
        name: device.name().unwrap_or_else(|_| format!("GPU {gpu}")),
        gpu,
        total_bytes: memory.total,
        used_bytes: memory.used,
        free_bytes: memory.free,
        utilization: utilization.map(|rates| f64::from(rates.gpu.min(100)) / 100.0),
    })
}

/// Shows what was told: `memory` has the labels `gpu` and `kind` (`total`, `used`, `free`),
/// `utilization` has `gpu`. What is not told any more is gone from both. It is taken out after the
/// rest was set, and not everything before, so that another who scrapes just now misses nothing.
#[allow(clippy::cast_precision_loss)] // bytes of a GPU are far from where a float could not hold them
pub fn fill(memory: &GaugeVec, utilization: &GaugeVec, usages: Option<&[Usage]>) {
    let (mut sizes, mut uses) = (HashSet::new(), HashSet::new());
    for usage in usages.unwrap_or_default() {
        let gpu = usage.gpu.as_str();
        for (kind, bytes) in
            [("total", usage.total_bytes), ("used", usage.used_bytes), ("free", usage.free_bytes)]
        {
            memory.with_label_values(&[gpu, kind]).set(bytes as f64);
            sizes.insert(vec![gpu, kind]);
        }
        if let Some(part) = usage.utilization {
            utilization.with_label_values(&[gpu]).set(part);
            uses.insert(vec![gpu]);
        }
    }
    keep_only(memory, &["gpu", "kind"], &sizes);
    keep_only(utilization, &["gpu"], &uses);
}

/// Takes out what has other values of its labels.
fn keep_only(gauge: &GaugeVec, labels: &[&str], keep: &HashSet<Vec<&str>>) {
    for family in gauge.collect() {
        for metric in family.get_metric() {
            let value = |label: &&str| {
                let pair = metric.get_label().iter().find(|pair| pair.name() == *label);
                pair.map_or("", LabelPair::value)
            };
            let values: Vec<&str> = labels.iter().map(value).collect();
            if !keep.contains(&values) {
                // An error: another who scrapes has taken it out.
                let _ = gauge.remove_label_values(&values);
            }
        }
    }
}

#[cfg(test)]
mod tests;
