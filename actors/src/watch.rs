//! Hearing that something in a directory may have changed.
//!
//! Owns: the kernel watch on a directory and on the one above it (the directory itself
//! may be replaced). Must never do: read the files, or believe an event: every event is only a
//! reason to look. A watch on a file would be dead after the first editor's rename, so
//! directories are watched.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{Message, Recipient};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Something may have changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Changed;

/// See the module.
pub struct Watch {
    dir: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched, so that a new one of the same name is noticed.
    inode: Option<u64>,
    hears: Recipient<Changed>,
    /// Files that we write ourselves.
    is_ours: fn(&Path) -> bool,
    /// The directory was made, removed or renamed: a number of an inode is used again.
    replaced: Arc<AtomicBool>,
}

impl Watch {
    /// A watch that is not armed yet.
    pub fn new(dir: &Path, is_ours: fn(&Path) -> bool, hears: Recipient<Changed>) -> Self {
        // Events name absolute paths, and a relative one has no parent to watch.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Watch { dir, watcher: None, inode: None, hears, is_ours, replaced: Arc::default() }
    }

    /// Arms the watch, or arms it anew if the directory is another one. Where the kernel cannot
    /// watch, the regular look at the files has to do.
    pub fn rearm(&mut self) {
        let replaced = self.replaced.swap(false, Ordering::SeqCst);
        let inode = std::fs::metadata(&self.dir).ok().map(|meta| meta.ino());
        if self.watcher.is_some() && !replaced && inode == self.inode {
            return;
        }
        self.inode = inode;
        match self.arm() {
            Ok((watcher, is_watched)) => {
                self.watcher = Some(watcher);
                if !is_watched {
                    self.inode = None;
                }
            }
            Err(error) => {
                self.watcher = None;
                tracing::warn!(%error, dir = %self.dir.display(), "a directory is not watched, only looked at now and then");
            }
        }
    }

    /// A new watcher; the flag says whether it watches the directory itself. One that is being
    /// replaced at this very moment may not be there: the watch on the directory above it, which
    /// is armed first, hears of the new one.
    fn arm(&self) -> notify::Result<(RecommendedWatcher, bool)> {
        let (dir, hears, is_ours) = (self.dir.clone(), self.hears.clone(), self.is_ours);
        let replaced = self.replaced.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| replaces(event, &dir)) {
                replaced.store(true, Ordering::SeqCst);
            }
            // An error is a reason to look as well.
            if event.is_ok_and(|event| !concerns(&event, &dir, is_ours)) {
                return;
            }
            // One waiting look is enough; a mailbox that is full holds one.
            let _ = hears.try_send(Changed);
        })?;
        if let Some(parent) = self.dir.parent() {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        let is_watched = match watcher.watch(&self.dir, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            Err(error) if is_absence(&error) => false,
            Err(error) => return Err(error),
        };
        Ok((watcher, is_watched))
    }
}

fn is_absence(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Whether an event can mean that a file changed. Reading a file makes events too, and so do the
/// files that we write: neither may lead to a reload, or there would be no end of them.
fn concerns(event: &Event, dir: &Path, is_ours: fn(&Path) -> bool) -> bool {
    // The kernel's queue overflowed: what was lost may have been anything.
    if event.need_rescan() {
        return true;
    }
    let reading = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    !reading
        && event
            .paths
            .iter()
            .any(|path| path == dir || (path.parent() == Some(dir) && !is_ours(path)))
}

fn replaces(event: &Event, dir: &Path) -> bool {
    use notify::event::ModifyKind;
    let kind = matches!(
        event.kind,
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    event.need_rescan() || (kind && event.paths.iter().any(|path| path == dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, ModifyKind};

    /// Hears, and says so.
    struct Ear(tokio::sync::mpsc::UnboundedSender<()>);

    impl actix::Actor for Ear {
        type Context = actix::Context<Self>;
    }

    impl actix::Handler<Changed> for Ear {
        type Result = ();

        fn handle(&mut self, _: Changed, _: &mut Self::Context) {
            let _ = self.0.send(());
        }
    }

    #[actix_rt::test]
    async fn a_directory_that_vanishes_while_it_is_being_watched_is_heard_when_it_comes_back() {
        use actix::Actor;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("configs");
        let (heard_in, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut watch = Watch::new(&dir, |_| false, Ear(heard_in).start().recipient());
        // Seen a moment ago, gone when it is to be watched.
        watch.inode = Some(1);
        let (watcher, is_watched) = watch.arm().unwrap();
        (watch.watcher, watch.inode) = (Some(watcher), None);
        assert!(!is_watched);
        std::fs::create_dir(&dir).unwrap();
        let soon = std::time::Duration::from_secs(4);
        tokio::time::timeout(soon, heard.recv())
            .await
            .expect("the new directory is heard")
            .unwrap();
        watch.rearm();
        assert!(watch.inode.is_some());
        while heard.try_recv().is_ok() {}
        std::fs::write(dir.join("model_registry.curated.json"), "[]").unwrap();
        tokio::time::timeout(soon, heard.recv()).await.expect("its files are heard").unwrap();
    }

    #[test]
    fn only_what_can_change_a_layer_is_a_reason_to_look() {
        let dir = Path::new("/r/configs");
        let is_ours = crate::registry::is_ours;
        let concerned = |kind: EventKind, path: &str| {
            concerns(&Event::new(kind).add_path(path.into()), dir, is_ours)
        };
        let create = EventKind::Create(CreateKind::Any);
        let modify = EventKind::Modify(ModifyKind::Any);
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(concerned(create, "/r/configs/model_registry.curated.json"));
        assert!(concerned(create, "/r/configs/..data"), "config maps swap a link");
        assert!(concerned(written, "/r/configs/model_registry.curated.json"));
        assert!(concerned(create, "/r/configs"), "the directory itself");
        assert!(!concerned(open, "/r/configs/model_registry.curated.json"));
        assert!(!concerned(modify, "/r/configs/model_registry.json"), "our own file");
        assert!(!concerned(create, "/r/configs/model_registry.json.new"));
        assert!(!concerned(modify, "/r/other"));
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert!(
            concerns(&overflow, dir, is_ours) && replaces(&overflow, dir),
            "anything may be lost"
        );
    }
}
