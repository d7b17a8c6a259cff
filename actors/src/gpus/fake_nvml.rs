//! A driver's library for tests: `libnvidia-ml.so.1` without a GPU.
//!
//! Owns: the functions of NVML that the daemon calls. They tell what the file `gpus` beside the
//! library says, which is read anew at each call. It is no module: tests compile it with
//! `rustc --crate-type cdylib --edition 2024`, and so does `deploy/prometheus/check.sh`.
//! Must never do: keep anything, but for the file `calls`, which gets a line for each
//! initialisation (`init`) and each question how many cards there are (`count`).
//!
//! Lines of `gpus` (sizes in MB; `!N` in place of a size or a use: that question fails with NVML's
//! code N, such as 3, not supported, or 15, fallen off the bus):
//!
//! ```text
//! init !9                       NVML cannot be used
//! count !999                    nobody knows how many cards there are
//! hang                          initialisation, and the question for memory, take until this line is gone
//! card NAME,TOTAL,FREE,USED,USE     a card; use in percent
//! lost !15                      a card that cannot even be addressed
//! slice NAME,TOTAL,FREE,USED,USE    a slice (MIG) of the card above
//! hole                          the number of a slice that is not there
//! ```

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const SUCCESS: c_int = 0;
const INVALID_ARGUMENT: c_int = 2;
const NOT_SUPPORTED: c_int = 3;
const NOT_FOUND: c_int = 6;
/// Handles are numbers: of a card hundreds, of its slices what follows.
const CARD: usize = 100;

/// NVML's structure of the second version.
#[repr(C)]
pub struct Memory {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// The directory of this library, as the process's map names it.
fn beside(name: &str) -> Option<PathBuf> {
    let here = nvmlInit_v2 as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let holds = |line: &&str| {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        range.is_some_and(|(from, to)| {
            number(from).is_some_and(|from| from <= here) && number(to).is_some_and(|to| here < to)
        })
    };
    let line = maps.lines().find(holds)?;
    Some(PathBuf::from(&line[line.find('/')?..]).with_file_name(name))
}

fn lines() -> Vec<(String, String)> {
    let text = beside("gpus").and_then(|path| std::fs::read_to_string(path).ok());
    let split = |line: &str| {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        (kind.to_owned(), rest.trim().to_owned())
    };
    text.unwrap_or_default().lines().map(split).collect()
}

/// A figure, or the code that stands in its place.
fn figure(text: Option<&str>) -> Result<u64, c_int> {
    let text = text.unwrap_or("!3");
    match text.strip_prefix('!') {
        Some(code) => Err(code.parse().unwrap_or(999)),
        None => text.parse().map_err(|_| 999),
    }
}

/// Whether a line of that kind orders a failure.
fn ordered(kind: &str) -> c_int {
    let found = lines().into_iter().find(|line| line.0 == kind);
    found.and_then(|line| figure(Some(&line.1)).err()).unwrap_or(SUCCESS)
}

fn hang() {
    while lines().iter().any(|line| line.0 == "hang") {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of the cards, each with those of its slices.
fn cards() -> Vec<Vec<(String, String)>> {
    let mut cards: Vec<Vec<(String, String)>> = Vec::new();
    for line in lines() {
        match (line.0.as_str(), cards.last_mut()) {
            ("card" | "lost", _) => cards.push(vec![line]),
            ("slice" | "hole", Some(card)) => card.push(line),
            _ => {}
        }
    }
    cards
}

/// The fields of a handle's line.
fn fields(device: usize) -> Result<Vec<String>, c_int> {
    let card = (device / CARD).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    let cards = cards();
    let line = cards.get(card).and_then(|lines| lines.get(device % CARD)).ok_or(15)?;
    Ok(line.1.split(',').map(|field| field.trim().to_owned()).collect())
}

/// Somebody has called.
fn note(call: &str) {
    let file = beside("calls")
        .and_then(|path| std::fs::File::options().create(true).append(true).open(path).ok());
    if let Some(mut file) = file {
        let _ = writeln!(file, "{call}");
    }
}

fn code(outcome: Result<(), c_int>) -> c_int {
    outcome.err().unwrap_or(SUCCESS)
}

/// # Safety
/// `to` has room for `length` bytes.
unsafe fn write(text: &str, to: *mut c_char, length: c_uint) -> Result<(), c_int> {
    let text = &text.as_bytes()[..text.len().min(length as usize - 1)];
    // SAFETY: as above; the last byte is for the end.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_int {
    note("init");
    hang();
    ordered("init")
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(_: c_int) -> *const c_char {
    c"an error of the fake".as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    code(unsafe { write("550.54.15", to, length) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    note("count");
    // SAFETY: the caller's promise.
    unsafe { count.write(cards().len() as c_uint) };
    ordered("count")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut usize) -> c_int {
    let cards = cards();
    match cards.get(index as usize) {
        None => INVALID_ARGUMENT,
        Some(lines) if lines[0].0 == "lost" => code(figure(Some(&lines[0].1)).map(|_| ())),
        Some(_) => {
            // SAFETY: the caller's promise.
            unsafe { to.write((index as usize + 1) * CARD) };
            SUCCESS
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, to: *mut Memory) -> c_int {
    hang();
    code(fields(device).and_then(|fields| {
        let mb = |at: usize| figure(fields.get(at).map(String::as_str)).map(|mb| mb << 20);
        let (total, free, used) = (mb(1)?, mb(2)?, mb(3)?);
        // SAFETY: the caller's promise.
        unsafe {
            (*to).total = total;
            (*to).free = free;
            (*to).used = used;
            (*to).reserved = total.saturating_sub(free + used);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    device: usize,
    to: *mut c_char,
    length: c_uint,
) -> c_int {
    // SAFETY: the caller's promise.
    code(fields(device).and_then(|fields| unsafe { write(&fields[0], to, length) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(
    device: usize,
    to: *mut c_char,
    length: c_uint,
) -> c_int {
    let kind = if device.is_multiple_of(CARD) { "GPU" } else { "MIG" };
    // SAFETY: the caller's promise.
    code(unsafe { write(&format!("{kind}-{device}"), to, length) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: usize,
    to: *mut Utilization,
) -> c_int {
    code(fields(device).and_then(|fields| {
        let gpu = figure(fields.get(4).map(String::as_str))?;
        // SAFETY: the caller's promise.
        unsafe { to.write(Utilization { gpu: gpu as c_uint, memory: 0 }) };
        Ok(())
    }))
}

/// A card is cut if there are slices of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: usize,
    now: *mut c_uint,
    next: *mut c_uint,
) -> c_int {
    let cards = cards();
    let cut = cards.get((device / CARD).wrapping_sub(1)).is_some_and(|lines| lines.len() > 1);
    if !cut {
        return NOT_SUPPORTED;
    }
    // SAFETY: the caller's promise.
    unsafe {
        now.write(1);
        next.write(1);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(_: usize, count: *mut c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { count.write(7) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: usize,
    index: c_uint,
    to: *mut usize,
) -> c_int {
    let cards = cards();
    let lines = cards.get((device / CARD).wrapping_sub(1));
    let line = lines.and_then(|lines| lines.get(index as usize + 1));
    if line.is_none_or(|line| line.0 == "hole") {
        return NOT_FOUND;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(device + index as usize + 1) };
    SUCCESS
}
