//! `Keeper`: the one who reads certificate and key again while the daemon runs.
//!
//! Owns: the watches on their directories (certbot replaces links in one, Kubernetes swaps a link
//! `..data`: both are heard there), and the warning of a certificate that ends. Accepts: [`Look`], and
//! what the watches hear. Emits: the new certificate, to every handshake after it, or what is wrong
//! with the new files, in the log and for `/v1/readyz`; the old one stays then. Stops: with the
//! daemon. Must never do: read files on the control thread.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use chat_proxy_actors::clock;
use chat_proxy_actors::metrics::Metrics;
use chat_proxy_actors::watch::{Changed, Watch};
use chat_proxy_core::config::Problem;

use super::files::{self, Pair};
use super::{Files, Tls};

/// Two files are replaced one after the other; this much quiet ends it.
const QUIET: Duration = Duration::from_millis(200);
/// How often the files are looked at when nothing was heard.
const REGULAR: Duration = Duration::from_secs(10);
/// Who watches over certificates wants to know by then that one was not renewed.
const SOON: i64 = 14 * 86_400;
/// How often that is said.
const REMIND: Duration = Duration::from_secs(86_400);

/// See the module.
pub(crate) struct Keeper {
    tls: Tls,
    metrics: Metrics,
    watches: Vec<Watch>,
    heard: Option<Instant>,
    /// A look is under way: one is enough.
    looking: bool,
    /// When the certificate's end was told last.
    reminded: Option<Instant>,
}

/// Read the files again, whatever was heard.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Look;

impl Keeper {
    pub(crate) fn new(tls: Tls, metrics: Metrics) -> Self {
        warn_if_open(&tls.files);
        let watches = Vec::new();
        Keeper { tls, metrics, watches, heard: None, looking: false, reminded: None }
    }

    /// Looks at the files when it has been quiet for a moment.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let Some(heard) = self.heard else { return };
        let quiet = heard.elapsed();
        if quiet < QUIET {
            ctx.run_later(QUIET.saturating_sub(quiet), Self::settle);
            return;
        }
        self.heard = None;
        self.look(ctx);
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.watches.iter_mut().for_each(Watch::rearm);
        if std::mem::replace(&mut self.looking, true) {
            // What changes meanwhile is looked at right after.
            self.heard = self.heard.or(Some(Instant::now()));
            return;
        }
        let files = self.tls.files.clone();
        let reading = actix_rt::task::spawn_blocking(move || files::read(&files));
        ctx.spawn(reading.into_actor(self).map(|read, actor, ctx| {
            actor.looking = false;
            match read {
                Ok(read) => actor.take(read),
                Err(error) => tracing::error!(%error, "the certificate was not looked at"),
            }
            actor.settle(ctx);
        }));
    }

    fn take(&mut self, read: Result<Pair, Problem>) {
        match read {
            Ok(pair) => {
                if self.tls.problem().is_some() {
                    tracing::info!("certificate and key are good again");
                }
                self.tls.problem.store(None);
                if pair.digest != self.tls.pair.load().digest {
                    self.put_in_force(pair);
                }
            }
            Err(problem) => {
                if self.tls.problem().as_ref() != Some(&problem) {
                    tracing::error!(%problem, "the new certificate cannot be used; the one in force stays");
                }
                self.tls.problem.store(Some(problem));
            }
        }
        self.remind();
    }

    fn put_in_force(&mut self, pair: Pair) {
        let ends = pair.ends.map(date);
        tracing::info!(ends, "new certificate: handshakes get it from now on");
        warn_if_open(&self.tls.files);
        self.tls.pair.store(pair);
        self.reminded = None;
        self.show();
    }

    fn show(&self) {
        if let Some(ends) = self.tls.pair.load().ends {
            self.metrics.tls_certificate_expires.with_label_values::<&str>(&[]).set(ends);
        }
    }

    /// Says once a day that the certificate ends soon, or has ended.
    fn remind(&mut self) {
        let Some(ends) = self.tls.pair.load().ends else { return };
        let left = ends - i64::try_from(clock::unix_now()).unwrap_or(i64::MAX);
        if left > SOON || self.reminded.is_some_and(|at| at.elapsed() < REMIND) {
            return;
        }
        self.reminded = Some(Instant::now());
        let (file, ends) = (self.tls.files.cert.display(), date(ends));
        if left > 0 {
            let days = left / 86_400;
            tracing::warn!(%file, ends, days, "the certificate ends soon, and nobody has renewed it");
        } else {
            tracing::warn!(%file, ends, "the certificate has ended: clients will refuse it");
        }
    }
}

fn warn_if_open(files: &Files) {
    if files::is_open_to_others(files) {
        tracing::warn!(
            file = %files.key.display(),
            "others than its owner can read the private key; take that right away with chmod 600, \
             or, where it is root's and the daemon reads it by its own group, with chmod 640"
        );
    }
}

/// A moment for people.
fn date(unix: i64) -> String {
    let since = Duration::from_secs(u64::try_from(unix).unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

impl Actor for Keeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Files { cert, key } = &self.tls.files;
        let dir = |file: &PathBuf| {
            let named = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            named.unwrap_or(Path::new(".")).to_owned()
        };
        let dirs = [dir(cert), dir(key)];
        let dirs = if dirs[0] == dirs[1] { &dirs[..1] } else { &dirs[..] };
        let hears = ctx.address().recipient();
        self.watches = dirs.iter().map(|dir| Watch::new(dir, |_| false, hears.clone())).collect();
        ctx.run_interval(REGULAR, Self::look);
        self.show();
        // What changed between the start's reading and the watch is not lost.
        self.look(ctx);
    }
}

impl Handler<Changed> for Keeper {
    type Result = ();

    fn handle(&mut self, _: Changed, ctx: &mut Self::Context) {
        if self.heard.replace(Instant::now()).is_none() {
            ctx.run_later(QUIET, Self::settle);
        }
    }
}

impl Handler<Look> for Keeper {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}
