//! A power cut, played after the program was killed: of what `tools/powercut.c` saw written and not synced, some is undone.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use sensormesh_testkit::chance::Chance;
use sensormesh_testkit::system::System;

/// A disk writes a sector whole or not at all.
const SECTOR: u64 = 512;

/// What is written and not synced under a system.
pub struct PowerCut {
    folder: PathBuf,
    journal: PathBuf,
}

/// A record of the journal.
struct Record {
    kind: char,
    inode: u64,
    offset: u64,
    size: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// What is left of the writes to a file that were not synced.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// None of them.
    Nothing,
    /// The first ones.
    Some,
    /// Any of their sectors.
    Sectors,
    /// All of them.
    All,
}

impl PowerCut {
    /// Looks at the directory of a system from its next start on. `deceive` names the database whose syncs do nothing.
    pub fn prepare(system: &mut System, work: &Path, deceive: Option<&str>) -> Self {
        let library = work.join("powercut.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/powercut.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(compile.status().expect("a C compiler, cc").success(), "{compile:?}");
        let cut = Self { folder: system.data_dir(), journal: work.join("journal") };
        cut.forget();
        system.set("LD_PRELOAD", library.to_string_lossy());
        system.set("POWERCUT_DIR", cut.folder.to_string_lossy());
        system.set("POWERCUT_JOURNAL", cut.journal.to_string_lossy());
        system.set("POWERCUT_DELAY", "10000");
        if let Some(name) = deceive {
            system.set("POWERCUT_DECEIVE", name);
        }
        cut
    }

    fn side(&self) -> PathBuf {
        self.journal.with_extension("d")
    }

    /// What is on the disk now is durable.
    fn forget(&self) {
        fs::remove_file(&self.journal).ok();
        fs::remove_dir_all(self.side()).ok();
        fs::create_dir_all(self.side()).expect("a folder");
    }

    /// Cuts the power of a system that was killed; answers how many writes were not synced.
    pub fn cut(&self, chance: &mut Chance, left: Left) -> usize {
        let records = self.records();
        self.undo_names(&records, chance, left);
        let files = files(&[&self.folder, &self.side()]);
        let mut unsynced: HashMap<u64, Vec<&Record>> = HashMap::new();
        for (index, record) in records.iter().enumerate().filter(|(_, record)| "WT".contains(record.kind)) {
            let durable =
                |other: &Record| other.kind == 'S' && other.inode == record.inode && other.offset > index as u64;
            if !records[index..].iter().any(durable) {
                unsynced.entry(record.inode).or_default().push(record);
            }
        }
        let mut count = 0;
        for (inode, writes) in &unsynced {
            // one that is gone for good needs no repair
            let Some(path) = files.get(inode) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(path).expect("a file of the system");
            writes.iter().rev().for_each(|record| undo(&file, record));
            let kept = match left {
                Left::Nothing => 0,
                Left::Some => chance.below(writes.len() + 1),
                Left::Sectors | Left::All => writes.len(),
            };
            for record in &writes[..kept] {
                redo(&file, record, |_| !matches!(left, Left::Sectors) || chance.below(2) == 0);
            }
            count += writes.len();
        }
        for path in files.values().filter(|path| path.to_string_lossy().ends_with("-shm")) {
            fs::remove_file(path).ok();
        }
        self.forget();
        count
    }

    /// Names that were given and taken since the folder was synced: the last of them are undone.
    fn undo_names(&self, records: &[Record], chance: &mut Chance, left: Left) {
        let mut pending = Vec::new();
        for (index, record) in records.iter().enumerate().filter(|(_, record)| "CUR".contains(record.kind)) {
            let name = if record.kind == 'R' { &record.after } else { &record.before };
            let parent = name.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default();
            let durable = |other: &Record| other.kind == 'D' && other.before == parent && other.offset > index as u64;
            if !records[index..].iter().any(durable) {
                pending.push(record);
            }
        }
        let kept = match left {
            Left::Nothing => 0,
            Left::Some | Left::Sectors => chance.below(pending.len() + 1),
            Left::All => pending.len(),
        };
        for record in pending[kept..].iter().rev() {
            let (one, two) = (text(&record.before), text(&record.after));
            // fails where a later change, which is durable, has taken the name away
            match record.kind {
                'C' => fs::remove_file(one).ok(),
                'U' => fs::hard_link(two, one).ok(),
                _ => fs::rename(two, one).ok(),
            };
        }
    }

    fn records(&self) -> Vec<Record> {
        let Ok(bytes) = fs::read(&self.journal) else { return Vec::new() };
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while let Some((head, body)) = rest.split_first_chunk::<48>() {
            let [kind, inode, offset, size, before, after] =
                [0, 1, 2, 3, 4, 5].map(|i| u64::from_ne_bytes(head[i * 8..i * 8 + 8].try_into().expect("eight")));
            let (before, after) = (usize::try_from(before).expect("small"), usize::try_from(after).expect("small"));
            // the program was killed while it wrote the last one, and did not do what it says
            let (Some(old), Some(new)) = (body.get(..before), body.get(before..before + after)) else { break };
            let kind = char::from_u32(u32::try_from(kind).expect("a letter")).expect("a letter");
            records.push(Record { kind, inode, offset, size, before: old.to_vec(), after: new.to_vec() });
            rest = &body[before + after..];
        }
        records
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("a path in UTF-8")
}

fn undo(file: &File, record: &Record) {
    file.write_all_at(&record.before, record.offset).expect("written");
    file.set_len(record.size).expect("its size before");
}

/// Does a write again, in so far as its sectors reached the disk.
fn redo(file: &File, record: &Record, mut reached: impl FnMut(u64) -> bool) {
    if record.kind == 'T' {
        if reached(record.offset) {
            file.set_len(record.offset).expect("its new size");
        }
        return;
    }
    let (mut from, end) = (record.offset, record.offset + record.after.len() as u64);
    while from < end {
        let to = (from / SECTOR + 1).saturating_mul(SECTOR).min(end);
        let part = |at: u64| usize::try_from(at - record.offset).expect("small");
        if reached(from) {
            file.write_all_at(&record.after[part(from)..part(to)], from).expect("written");
        }
        from = to;
    }
}

/// Where each inode is.
fn files(folders: &[&Path]) -> HashMap<u64, PathBuf> {
    let mut found = HashMap::new();
    let mut left: Vec<PathBuf> = folders.iter().rev().map(|folder| folder.to_path_buf()).collect();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let metadata = entry.metadata().expect("metadata");
            if metadata.is_dir() {
                left.push(entry.path());
            } else {
                found.entry(metadata.ino()).or_insert_with(|| entry.path());
            }
        }
    }
    found
}
