//! Random edits of a registry, as editors, tools, people and config maps make them, and what the
//! daemon must make of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::expected::{Rng, Shown, merge, shown};

const FILES: [&str; 2] = ["model_registry.curated.json", "model_registry.discovered.json"];
/// Entries that every good version of either layer has.
pub const STABLE: usize = 10;
/// Entries that come and go.
pub const VOLATILE: usize = 8;

/// What a layer's file is.
#[derive(Clone)]
enum Layer {
    Absent,
    /// Not a list of entries.
    Bad,
    Good(Vec<Value>),
}

/// What must become visible.
pub enum Want {
    Good(Shown),
    /// The error, or a part of it.
    Bad(&'static str),
}

/// See the module.
pub struct Editor {
    dir: PathBuf,
    base_url: String,
    rng: Rng,
    layers: [Layer; 2],
    /// The last good entries, from which the next version is made.
    entries: [Vec<Value>; 2],
    /// What the daemon may have read since the burst before this one; a bad file is not in it.
    seen: [Vec<Option<Vec<Value>>>; 2],
    /// Where this burst begins in it.
    begin: [usize; 2],
    serial: usize,
    /// The kinds of edits made, for the report.
    pub made: BTreeMap<&'static str, usize>,
}

pub fn stable(n: usize) -> String {
    format!("stable-{n}")
}

pub fn volatile(n: usize) -> String {
    format!("volatile-{n}")
}

fn entry(name: &str, base_url: &str) -> Value {
    json!({
        "name": name, "backend": "openai", "display_name": format!("Display of {name}"),
        "served_model_id": format!("served/{name}"), "backend_config": {"base_url": base_url},
    })
}

/// The stable entries as they are at first.
pub fn first(base_url: &str) -> Vec<Value> {
    (0..STABLE).map(|n| entry(&stable(n), base_url)).collect()
}

impl Editor {
    /// Over a directory whose curated layer is [`first`], without a discovered one.
    pub fn new(dir: PathBuf, base_url: &str, rng: Rng) -> Self {
        let first = first(base_url);
        Editor {
            dir,
            base_url: base_url.to_owned(),
            rng,
            layers: [Layer::Good(first.clone()), Layer::Absent],
            seen: [vec![Some(first.clone())], vec![None]],
            entries: [first.clone(), first],
            begin: [0, 0],
            serial: 0,
            made: BTreeMap::new(),
        }
    }

    /// What must become visible now that nobody edits.
    pub fn want(&self) -> Want {
        let [curated, discovered] = &self.layers;
        match (curated, discovered) {
            (Layer::Bad, _) => Want::Bad("model_registry.curated.json"),
            (_, Layer::Bad) => Want::Bad("model_registry.discovered.json"),
            (Layer::Absent, Layer::Absent) => Want::Bad("no registry in"),
            _ => Want::Good(shown(&self.merged())),
        }
    }

    /// The merged layers, if both can be read.
    pub fn merged(&self) -> Vec<Value> {
        let list = |layer: &Layer| match layer {
            Layer::Good(entries) => entries.clone(),
            Layer::Absent | Layer::Bad => Vec::new(),
        };
        merge(&list(&self.layers[0]), &list(&self.layers[1]))
    }

    /// Whether good layers of this and the last burst, in whatever pairs they were read, give this.
    pub fn may_have_shown(&self, seen: &Shown) -> bool {
        let empty = Vec::new();
        self.seen[0].iter().any(|above| {
            self.seen[1].iter().any(|below| {
                (above.is_some() || below.is_some())
                    && shown(&merge(
                        above.as_ref().unwrap_or(&empty),
                        below.as_ref().unwrap_or(&empty),
                    )) == *seen
            })
        })
    }

    /// The state is visible: what was before this burst is over.
    pub fn settled(&mut self) {
        for (seen, begin) in self.seen.iter_mut().zip(&mut self.begin) {
            seen.drain(..*begin);
            *begin = seen.len().saturating_sub(1);
        }
    }

    fn path(&self, side: usize) -> PathBuf {
        self.dir.join(FILES[side])
    }

    fn is(&mut self, side: usize, layer: Layer) {
        match &layer {
            Layer::Absent => self.seen[side].push(None),
            Layer::Good(entries) => self.seen[side].push(Some(entries.clone())),
            Layer::Bad => {}
        }
        self.layers[side] = layer;
    }

    /// One edit.
    pub fn edit(&mut self) {
        let side = self.rng.below(2);
        let kind = match self.rng.below(22) {
            0..4 => self.in_place(side),
            4..7 => self.in_two_parts(side),
            7 => self.half(side),
            8..12 => self.rename_over(side),
            12..15 => self.swap_links(),
            15 => self.broken(side),
            16 => self.delete(&[side]),
            17 => self.delete(&[0, 1]),
            18 | 19 => self.touch(side),
            _ => self.replace_dir(),
        };
        *self.made.entry(kind).or_default() += 1;
    }

    /// A version that is good and looks like none before, written over both layers.
    pub fn mend(&mut self) {
        let stable = self.entries[0].iter_mut().find(|e| e["name"] == "stable-0");
        stable.expect("it stays")["display_name"] = format!("Mended {}", self.serial).into();
        for side in [1, 0] {
            self.rename_over(side);
        }
    }

    /// The next version of a layer: something is added, removed, renamed or broken.
    fn next_version(&mut self, side: usize) -> (Vec<Value>, String) {
        self.serial += 1;
        let serial = self.serial;
        let name = volatile(self.rng.below(VOLATILE));
        let mut list = std::mem::take(&mut self.entries[side]);
        if self.rng.one_in(2) {
            list.retain(|e| e["mark"] != "bad" && e.is_object());
        }
        let at = list.iter().position(|e| e["name"] == name.as_str());
        match (self.rng.below(6), at) {
            (0 | 1, None) => list.insert(self.rng.below(list.len()), entry(&name, &self.base_url)),
            // Without the layer below, which has its backend, this one is skipped.
            (2, None) => list.push(json!({"name": name, "display_name": format!("Over {serial}")})),
            (0..3, Some(at)) => drop(list.remove(at)),
            (3, _) => {
                let bad = match self.rng.below(3) {
                    0 => json!({"mark": "bad", "backend": "openai"}),
                    1 => json!(7),
                    _ => {
                        json!({"mark": "bad", "name": format!("bad-{serial}"), "backend": "openai",
                        "backend_config": {"base_url": self.base_url, "port": "x"}})
                    }
                };
                list.insert(self.rng.below(list.len()), bad);
            }
            (4, _) => {
                let at = self.rng.below(list.len());
                if let Value::Object(entry) = &mut list[at] {
                    let key = format!("x_field_{}", self.rng.below(4));
                    let values =
                        [json!({"deep": {"n": serial}}), json!([serial, null]), Value::Null];
                    entry.insert(key, values[self.rng.below(3)].clone());
                }
            }
            _ => {
                let at = self.rng.below(list.len());
                if let Value::Object(entry) = &mut list[at] {
                    entry.insert("display_name".into(), format!("Display {serial}").into());
                }
            }
        }
        let value = Value::Array(list.clone());
        let text = if self.rng.one_in(2) { value.to_string() } else { format!("{value:#}\n") };
        self.entries[side].clone_from(&list);
        (list, text)
    }

    /// A link that is written through is a change of another directory's file: a writer of config
    /// maps never does so, and this one puts a file in the link's place.
    fn unlink(&self, side: usize) {
        let path = self.path(side);
        if path.is_symlink() {
            fs::remove_file(path).expect("a link goes");
        }
    }

    fn in_place(&mut self, side: usize) -> &'static str {
        let (list, text) = self.next_version(side);
        self.unlink(side);
        self.is(side, Layer::Absent);
        fs::write(self.path(side), text).expect("a file in place");
        self.is(side, Layer::Good(list));
        "in place"
    }

    fn first_half(&mut self, side: usize, text: &str) -> File {
        self.unlink(side);
        self.is(side, Layer::Absent);
        let mut file = File::create(self.path(side)).expect("a file");
        file.write_all(&text.as_bytes()[..text.len() / 2]).expect("the first half");
        file.flush().expect("flushed");
        file
    }

    fn in_two_parts(&mut self, side: usize) -> &'static str {
        let (list, text) = self.next_version(side);
        let mut file = self.first_half(side, &text);
        // Sometimes so long that the half file is looked at.
        let pause = if self.rng.one_in(5) { 110 } else { self.rng.below(8) };
        thread::sleep(Duration::from_millis(pause as u64));
        file.write_all(&text.as_bytes()[text.len() / 2..]).expect("the rest");
        drop(file);
        self.is(side, Layer::Good(list));
        "in two parts"
    }

    fn half(&mut self, side: usize) -> &'static str {
        let text = self.next_version(side).1;
        drop(self.first_half(side, &text));
        self.is(side, Layer::Bad);
        "half"
    }

    fn rename_over(&mut self, side: usize) -> &'static str {
        let (list, text) = self.next_version(side);
        let beside = self.dir.join(format!(".{}.swp", FILES[side]));
        fs::write(&beside, text).expect("a file beside");
        fs::rename(&beside, self.path(side)).expect("renamed over");
        self.is(side, Layer::Good(list));
        "renamed over"
    }

    /// `..data` leads to the directory of a version; the files lead through `..data`.
    fn swap_links(&mut self) -> &'static str {
        let version = format!("..version-{}", self.serial);
        let data = self.dir.join("..data");
        let old = fs::read_link(&data).ok();
        fs::create_dir(self.dir.join(&version)).expect("a version");
        let lists = [0, 1].map(|side| {
            let (list, text) = self.next_version(side);
            fs::write(self.dir.join(&version).join(FILES[side]), text).expect("a file");
            list
        });
        put_link(&version, &data);
        for (side, list) in lists.into_iter().enumerate() {
            if !self.path(side).is_symlink() {
                put_link(&format!("..data/{}", FILES[side]), &self.path(side));
            }
            self.is(side, Layer::Good(list));
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.dir.join(old)).expect("the old version goes");
        }
        "links swapped"
    }

    fn broken(&mut self, side: usize) -> &'static str {
        let texts: [&[u8]; 6] = [
            b"[{\"name\": \"stable-0\",\n  oops",
            b"{}",
            b"",
            b"[\"\xff\xfe\"]",
            b"[{\"name\": \"stable-1\", \"backend\": \"openai\"},]",
            b"<<<<<<< HEAD\n[]\n",
        ];
        self.unlink(side);
        self.is(side, Layer::Absent);
        fs::write(self.path(side), texts[self.rng.below(6)]).expect("a bad file");
        self.is(side, Layer::Bad);
        "broken"
    }

    fn delete(&mut self, sides: &[usize]) -> &'static str {
        for side in sides {
            // It may be away already.
            let _ = fs::remove_file(self.path(*side));
            self.is(*side, Layer::Absent);
        }
        if sides.len() == 2 { "both deleted" } else { "one deleted" }
    }

    fn touch(&mut self, side: usize) -> &'static str {
        if let Ok(file) = File::options().append(true).open(self.path(side)) {
            file.set_modified(SystemTime::now()).expect("touched");
        }
        "touched"
    }

    /// Another directory under the same name, in three ways; both layers are good in it.
    fn replace_dir(&mut self) -> &'static str {
        let (new, old) = (self.dir.with_extension("next"), self.dir.with_extension("away"));
        let versions = [0, 1].map(|side| self.next_version(side));
        let way = self.rng.below(3);
        let fill = |dir: &Path| {
            fs::create_dir(dir).expect("a directory");
            for (file, (_, text)) in FILES.iter().zip(&versions) {
                fs::write(dir.join(file), text).expect("a file");
            }
        };
        if way == 0 {
            fill(&new);
        }
        if way == 2 {
            remove_dir(&self.dir);
        } else {
            fs::rename(&self.dir, &old).expect("renamed away");
        }
        if way == 0 {
            fs::rename(&new, &self.dir).expect("renamed in place");
        } else {
            fill(&self.dir);
        }
        remove_dir(&old);
        for (side, (list, _)) in versions.into_iter().enumerate() {
            self.is(side, Layer::Absent);
            self.is(side, Layer::Good(list));
        }
        ["directory swapped", "directory made anew", "directory removed and made anew"][way]
    }
}

/// The daemon may write its file into a directory that is being removed.
fn remove_dir(dir: &Path) {
    while dir.exists() {
        let _ = fs::remove_dir_all(dir);
    }
}

fn put_link(target: &str, link: &Path) {
    let beside = link.with_file_name("..link");
    symlink(target, &beside).expect("a link");
    fs::rename(&beside, link).expect("a link in place");
}
