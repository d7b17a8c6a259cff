//! Fuzz bodies over the pure cores: each takes any bytes and asserts laws on what the core makes of
//! them. A law that is broken is a panic.
//!
//! Owns: the list of the bodies, and where their corpora lie. Must never do: anything in a body that
//! two runs of the same bytes could do differently; or reach into the core past what it shows.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

mod client;
mod images;
mod input;
mod json;
pub mod mutate;
mod ollama;
mod policies;
mod relay;
mod request;
mod rules;
mod script;
mod sse;
mod tool_stream;
mod tool_text;

/// No input may take longer, not even in a build without optimisation.
const MAX_TIME: Duration = Duration::from_secs(20);

/// One body.
#[derive(Debug, Clone, Copy)]
pub struct Body {
    /// Its name: also that of its corpus.
    pub name: &'static str,
    run: fn(&[u8]),
}

/// All of them.
pub const BODIES: [Body; 7] = [
    Body { name: "sse", run: sse::run },
    Body { name: "tool_text", run: tool_text::run },
    Body { name: "tool_stream", run: tool_stream::run },
    Body { name: "images", run: images::run },
    Body { name: "request", run: request::run },
    Body { name: "relay", run: relay::run },
    Body { name: "ollama", run: ollama::run },
];

impl Body {
    /// The body of this name.
    pub fn named(name: &str) -> Option<&'static Body> {
        BODIES.iter().find(|body| body.name == name)
    }

    /// Tries its laws on these bytes.
    ///
    /// # Panics
    ///
    /// Where one is broken.
    pub fn check(&self, bytes: &[u8]) {
        let begun = Instant::now();
        (self.run)(bytes);
        let took = begun.elapsed();
        assert!(took < MAX_TIME, "{} bytes took {took:?}", bytes.len());
    }

    /// The files of its corpus, sorted.
    pub fn corpus(&self) -> io::Result<Vec<PathBuf>> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name);
        let mut files = Vec::new();
        for entry in folder.read_dir()? {
            files.push(entry?.path());
        }
        files.sort();
        Ok(files)
    }
}
