//! A driver's library for tests, each with files of its own (see `fake_nvml.rs`).

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The library in a directory of its own; each is another one to the process, with its own answers.
pub(super) struct Fake {
    dir: TempDir,
}

impl Fake {
    /// A driver with these GPUs.
    pub(super) fn with(gpus: &str) -> Fake {
        let fake = Fake { dir: tempfile::tempdir().unwrap() };
        fake.say(gpus);
        fs::write(fake.path(), library()).unwrap();
        fake
    }

    /// From now on other GPUs, or none that answers.
    pub(super) fn say(&self, gpus: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, gpus).unwrap();
        fs::rename(new, self.dir.path().join("gpus")).unwrap();
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    pub(super) fn libraries(&self) -> Vec<OsString> {
        vec![self.path().into()]
    }

    /// How often it was called so: `init`, `count`.
    pub(super) fn calls(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().filter(|line| *line == name).count()
    }
}

/// Compiled once, for a copy has another inode, and is thus another library.
fn library() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gpus/fake_nvml.rs");
        let made = dir.path().join("fake.so");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(&rustc)
            .args([
                "--crate-type",
                "cdylib",
                "--edition",
                "2024",
                "-C",
                "panic=abort",
                source,
                "-o",
            ])
            .arg(&made)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", rustc.display()));
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        fs::read(made).unwrap()
    })
}
