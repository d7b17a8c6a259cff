//! What an entry has recorded of its files, and what to say when they are looked at again.
//!
//! Owns: reading and writing `artifacts` and `version_lock`, ours and those of earlier tools. Must
//! never do: call a difference none, or one what another tool has counted in another way.

use serde_json::{Map, Value, json};

/// A file that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Below the download's directory.
    pub path: String,
    /// The bytes that were read.
    pub size: u64,
    /// SHA-256 of them, in hexadecimal digits.
    pub sha256: String,
}

/// A file as an entry has recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedFile {
    /// Below the download's directory.
    pub path: String,
    /// In bytes; earlier tools do not say.
    pub size: Option<u64>,
    /// In hexadecimal digits.
    pub sha256: Option<String>,
}

/// A checksum over several files as an entry has recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Where it stands.
    pub field: &'static str,
    /// In lower case.
    pub value: String,
}

/// `version_lock.directory_checksum`, which we alone write.
pub const OWN: &str = "version_lock.directory_checksum";

/// What an entry has recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Of single files.
    pub files: Vec<RecordedFile>,
    /// Over all of them.
    pub checksums: Vec<Checksum>,
}

impl Recorded {
    /// Reads it off an entry.
    pub fn of(entry: &Map<String, Value>) -> Recorded {
        let field = |one: &str, two: &str| entry.get(one).and_then(|value| value.get(two));
        let files = field("artifacts", "files").and_then(Value::as_array);
        let checksums = [
            (OWN, field("version_lock", "directory_checksum")),
            ("artifacts.aggregate_sha256", field("artifacts", "aggregate_sha256")),
            (
                "version_lock.expected_aggregate_sha256",
                field("version_lock", "expected_aggregate_sha256"),
            ),
            ("download_directory_checksum", entry.get("download_directory_checksum")),
        ];
        let checksums = checksums.into_iter().filter_map(|(field, value)| {
            let value = digits(value?)?;
            Some(Checksum { field, value })
        });
        Recorded {
            files: files.into_iter().flatten().filter_map(RecordedFile::of).collect(),
            checksums: checksums.collect(),
        }
    }

    /// Whether there is nothing to compare with.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.checksums.is_empty()
    }

    /// Whether every file of the download is recorded, so that another one is a difference.
    pub fn is_complete(&self) -> bool {
        self.checksums.iter().any(|checksum| checksum.field == OWN)
    }

    /// The checksum that we have written.
    pub fn own(&self) -> Option<&str> {
        let own = self.checksums.iter().find(|checksum| checksum.field == OWN);
        own.map(|checksum| checksum.value.as_str())
    }
}

impl RecordedFile {
    fn of(value: &Value) -> Option<RecordedFile> {
        let path = value.get("path")?.as_str()?;
        Some(RecordedFile {
            path: path.to_owned(),
            size: value.get("size").or(value.get("size_bytes")).and_then(Value::as_u64),
            sha256: value.get("sha256").and_then(digits),
        })
    }

    /// Whether its path is one within the download.
    pub fn is_within(&self) -> bool {
        !self.path.starts_with('/')
            && self.path.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !self.path.contains('\0')
    }
}

/// A checksum's text; empty ones say nothing.
fn digits(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim().to_ascii_lowercase();
    let text = text.strip_prefix("sha256:").unwrap_or(&text);
    (!text.is_empty()).then(|| text.to_owned())
}

/// What a second look at a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it was.
    Same,
    /// It is not there.
    Missing,
    /// It has another size.
    Size {
        /// As it was.
        recorded: u64,
        /// As it is.
        found: u64,
    },
    /// It has other bytes.
    Content,
    /// It was not there, or nobody has recorded it.
    Unrecorded,
    /// It cannot be read, and so nothing is known.
    Unreadable(String),
}

impl Verdict {
    /// Of a file that was read.
    pub fn of(recorded: &RecordedFile, found: &Hashed) -> Verdict {
        match (recorded.size, &recorded.sha256) {
            (Some(size), _) if size != found.size => {
                Verdict::Size { recorded: size, found: found.size }
            }
            (_, Some(sha256)) if *sha256 != found.sha256 => Verdict::Content,
            _ => Verdict::Same,
        }
    }

    /// Whether that is well.
    pub fn is_good(&self) -> bool {
        *self == Verdict::Same
    }

    /// For scripts.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Missing => "missing",
            Verdict::Size { .. } => "size",
            Verdict::Content => "content",
            Verdict::Unrecorded => "unrecorded",
            Verdict::Unreadable(_) => "unreadable",
        }
    }

    /// For people.
    pub fn words(&self) -> String {
        match self {
            Verdict::Same => "as recorded".to_owned(),
            Verdict::Missing => "is not there".to_owned(),
            Verdict::Size { recorded, found } => {
                format!("has {found} bytes, recorded are {recorded}")
            }
            Verdict::Content => "has other bytes of the same number".to_owned(),
            Verdict::Unrecorded => "is not among the recorded ones".to_owned(),
            Verdict::Unreadable(why) => format!("cannot be read: {why}"),
        }
    }
}

/// What an entry gets when it is locked: hashes of all files, their checksum and the time.
pub fn lock(
    entry: &Map<String, Value>,
    files: &[Hashed],
    checksum: &str,
    at: &str,
) -> Map<String, Value> {
    let list: Vec<Value> = files
        .iter()
        .map(|file| json!({"path": file.path, "size": file.size, "sha256": file.sha256}))
        .collect();
    let mut lock = json!({"locked": true, "locked_at": at, "directory_checksum": checksum});
    let expected = entry.get("version_lock").and_then(|lock| lock.get("expected_aggregate_sha256"));
    if expected.is_some_and(|expected| !expected.is_null()) {
        // Tools that look for this one would find the old one.
        lock["expected_aggregate_sha256"] = json!(checksum);
    }
    let fields = [
        ("artifacts", json!({"files": list, "aggregate_sha256": checksum})),
        ("version_lock", lock),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What an entry gets when it is unlocked: the hashes stay.
pub fn unlock() -> Map<String, Value> {
    Map::from_iter([("version_lock".to_owned(), json!({"locked": false, "locked_at": null}))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("an object") };
        map
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn hashed(size: u64) -> Hashed {
        Hashed { path: "a".into(), size, sha256: ABC.into() }
    }

    #[test]
    fn what_was_locked_is_what_is_recorded() {
        let entry = map(json!({"name": "m", "version_lock": {"locked": false, "mine": 1}}));
        let fields = lock(&entry, &[hashed(3)], "cafe", "2026-01-02T03:04:05Z");
        let recorded = Recorded::of(&fields);
        assert_eq!(
            recorded.files,
            [RecordedFile { path: "a".into(), size: Some(3), sha256: Some(ABC.into()) }]
        );
        assert_eq!((recorded.own(), recorded.is_complete()), (Some("cafe"), true));
        assert!(fields["version_lock"].get("expected_aggregate_sha256").is_none());
        let old = map(json!({"version_lock": {"expected_aggregate_sha256": "x"}}));
        let fields = lock(&old, &[], "cafe", "");
        assert_eq!(fields["version_lock"]["expected_aggregate_sha256"], "cafe");
        assert_eq!(unlock()["version_lock"], json!({"locked": false, "locked_at": null}));
    }

    #[test]
    fn records_of_earlier_tools_are_read() {
        let entry = map(json!({
            "artifacts": {"aggregate_sha256": "", "files": [{"path": "a", "sha256": ABC.to_uppercase()}, 7, {}]},
            "version_lock": {"locked": true, "expected_aggregate_sha256": null},
            "download_directory_checksum": "0123456789abcdef"}));
        let recorded = Recorded::of(&entry);
        assert_eq!(
            recorded.files,
            [RecordedFile { path: "a".into(), size: None, sha256: Some(ABC.into()) }]
        );
        assert_eq!(recorded.checksums.len(), 1);
        assert!(!recorded.is_complete() && !recorded.is_empty());
        for nothing in [json!({}), json!({"artifacts": null, "version_lock": true})] {
            assert!(Recorded::of(&map(nothing)).is_empty());
        }
    }

    #[test]
    fn differences_are_told_apart() {
        let recorded = |size: Option<u64>, sha256: Option<&str>| RecordedFile {
            path: "a".into(),
            size,
            sha256: sha256.map(str::to_owned),
        };
        for (recorded, want) in [
            (recorded(Some(3), Some(ABC)), Verdict::Same),
            (recorded(None, Some(ABC)), Verdict::Same),
            (recorded(Some(3), None), Verdict::Same),
            (recorded(Some(4), Some(ABC)), Verdict::Size { recorded: 4, found: 3 }),
            (recorded(Some(3), Some("cafe")), Verdict::Content),
        ] {
            assert_eq!(Verdict::of(&recorded, &hashed(3)), want);
        }
    }

    #[test]
    fn recorded_paths_stay_within_the_download() {
        let within =
            |path: &str| RecordedFile { path: path.into(), size: None, sha256: None }.is_within();
        assert!(within("a") && within("a/b.c"));
        for path in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a\0"] {
            assert!(!within(path), "{path:?}");
        }
    }
}
