//! The bodies under LLVM's libFuzzer: `FUZZ_BODY` names the one; all else is libFuzzer's command line.
//!
//! Owns: the way in, and that only a panic which leaves the body ends the process: what the core catches
//! is its own business, and is not told. Must never do: anything that the bodies do not do elsewhere.
#![no_main]

use std::io::Write;
use std::panic::catch_unwind;
use std::sync::{Mutex, OnceLock, PoisonError};

use fuzz_bodies::Body;
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<&'static Body> = OnceLock::new();
/// What the last panic said.
static SAID: Mutex<String> = Mutex::new(String::new());

fuzz_target!(init: choose(), |bytes: &[u8]| {
    if let Some(body) = CHOSEN.get()
        && catch_unwind(|| body.check(bytes)).is_err()
    {
        // Nothing is left to do if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{}", said(None));
        std::process::abort();
    }
});

fn choose() {
    let name = std::env::var("FUZZ_BODY").unwrap_or_default();
    let body = Body::named(&name);
    assert!(body.is_some(), "FUZZ_BODY={name} names no body");
    if let Some(body) = body {
        CHOSEN.get_or_init(|| body);
    }
    // libfuzzer-sys ends the process at any panic.
    std::panic::set_hook(Box::new(|info| drop(said(Some(info.to_string())))));
}

/// Replaces what the last panic said; answers what that was before.
fn said(new: Option<String>) -> String {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut said, new.unwrap_or_default())
}
