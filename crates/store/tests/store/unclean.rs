//! Bits that flip in the write-ahead log of a database that was not closed: nothing acknowledged is lost in silence.

use std::fs;
use std::path::{Path, PathBuf};

use sensormesh_store::{Config, Entry, Store};
use sensormesh_testkit::chance::Chance;
use sensormesh_types::{Clock, Code, Error, Scope};

use super::{MIGRATIONS, Place};

/// How many bits are flipped; `TEST_BITS` says another number.
const BITS: u64 = 400;
const ENDS: [&str; 3] = ["", "-wal", "-shm"];

fn bits() -> u64 {
    std::env::var("TEST_BITS").map_or(BITS, |text| text.parse().expect("a number"))
}

/// Everything in the tables that the tests write, all that a caller could be shown: the end of the log, and a hash.
type Dump = (String, String);

async fn dump(store: &Store) -> Dump {
    let mut read = store.read(&Scope::system()).await.expect("read");
    let things = "SELECT id || ' ' || n || ' ' || HEX(b) AS line FROM thing ORDER BY id";
    let log = "SELECT seq || ' ' || subject || ' ' || HEX(hash) AS line FROM log ORDER BY seq";
    let head = "SELECT seq || ' ' || HEX(hash) AS line FROM log_head";
    let mut lines = Vec::new();
    for query in [things, log, head] {
        let rows = read.query(query).fetch_all().await.expect("rows");
        lines.extend(rows.iter().map(|row| row.get::<String>("line").expect("a line")));
    }
    let hash = blake3::hash(lines.join("\n").as_bytes()).to_hex().to_string();
    (lines.pop().expect("the head"), hash)
}

/// The files of a database as a process that is killed leaves them.
#[derive(Clone)]
struct Files([Option<Vec<u8>>; 3]);

impl Files {
    fn of(path: &Path) -> Self {
        Self(ENDS.map(|end| fs::read(beside(path, end)).ok()))
    }

    fn wal(&mut self) -> &mut Vec<u8> {
        self.0[1].as_mut().expect("a log")
    }

    /// Puts them where they were not yet; answers how to open them.
    fn put(&self) -> (tempfile::TempDir, PathBuf, Config) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("things.db");
        for (file, end) in self.0.iter().zip(ENDS) {
            if let Some(bytes) = file {
                fs::write(beside(&path, end), bytes).expect("written");
            }
        }
        let config = Config::at(format!("sqlite:{}", path.display()));
        (folder, path, config)
    }

    /// What a start shows of them, or why it is refused.
    async fn start(&self) -> Result<Dump, Error> {
        let (_folder, _, config) = self.put();
        let store = Store::open("things", &config, MIGRATIONS, Clock::system()).await?;
        let dump = dump(&store).await;
        store.close().await;
        Ok(dump)
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

/// A database that was written to, checkpointed under a reader, and is still open; what it showed after each commit; its files.
struct Killed {
    files: Files,
    states: Vec<Dump>,
    /// An earlier log of the same file.
    older: Files,
    place: Place,
    _store: Store,
}

impl Killed {
    /// With `moved`, some of what is in the log is in the file already.
    async fn with(moved: bool) -> Self {
        let place = Place::sqlite();
        let store = place.open().await;
        let mut states = vec![dump(&store).await];
        let mut reader = None;
        let mut older = Files::of(&place.file());
        for i in 0..30 {
            let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
            for (id, bytes) in [("same", 9), ("other", i * 613 % 9_000)] {
                let id = if id == "same" { id.to_owned() } else { format!("{id}-{}", i % 7) };
                let write = "INSERT INTO thing (tenant, id, n, b) VALUES ('a', $1, $2, $3) \
                             ON CONFLICT (tenant, id) DO UPDATE SET n = excluded.n, b = excluded.b";
                tx.query(write).bind(id).bind(i).bind(vec![7_u8; bytes as usize]).execute().await.expect("written");
            }
            tx.append(Entry { kind: "thing.made".into(), subject: i.to_string(), ..Entry::default() });
            tx.commit().await.expect("commit");
            states.push(dump(&store).await);
            match i {
                // the log begins anew, over what is left of it
                19 => {
                    older = Files::of(&place.file());
                    store.checkpoint().await.expect("checkpoint");
                }
                22 if moved => {
                    let mut held = store.read(&Scope::system()).await.expect("read");
                    held.query("SELECT COUNT(*) AS n FROM thing").fetch_one().await.expect("it reads");
                    reader = Some(held);
                }
                26 if moved => store.checkpoint().await.expect("checkpoint"),
                _ => {}
            }
        }
        drop(reader);
        let mut files = Files::of(&place.file());
        let ours = files.wal()[16..24].to_vec();
        let salts: Vec<Vec<u8>> = files.wal()[32..].chunks(4096 + 24).map(|frame| frame[8..16].to_vec()).collect();
        assert!(salts.contains(&ours) && salts.iter().any(|salt| *salt != ours), "an earlier log lies behind it");
        Self { files, states, older, place, _store: store }
    }

    fn last(&self) -> &Dump {
        self.states.last().expect("a state")
    }
}

/// A place in the log where a bit flips: mostly in the frames that count.
fn flip(files: &mut Files, chance: &mut Chance) -> String {
    let wal = files.wal();
    let ours = wal[16..24].to_vec();
    let frames = wal[32..].chunks(4096 + 24).take_while(|frame| frame[8..16] == ours).count();
    let at = match chance.below(10) {
        0 => chance.below(32),
        1..4 => 32 + chance.below(wal.len() - 32),
        4 | 5 => 32 + chance.below(frames) * (4096 + 24) + chance.below(24),
        _ => 32 + chance.below(frames * (4096 + 24)),
    };
    let bit = chance.below(8);
    wal[at] ^= 1 << bit;
    format!("bit {bit} of byte {at}")
}

fn is_named(error: &Error) -> bool {
    (error.code(), error.reason()) == (Code::Corrupt, "DATABASE_CORRUPT")
        && error.to_string().contains("things.db-wal is damaged")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_the_log_of_a_killed_system_is_found_or_changes_nothing() {
    let mut chance = Chance::new("bits of logs");
    let (mut found, mut equal) = (0, 0);
    for killed in [Killed::with(false).await, Killed::with(true).await] {
        assert_eq!(&killed.files.start().await.expect("it opens"), killed.last(), "a killed system goes on");
        for _ in 0..bits() / 2 {
            let mut bent = killed.files.clone();
            let what = flip(&mut bent, &mut chance);
            let started = bent.start().await;
            let (_folder, path, config) = bent.put();
            let inspected = Store::inspect("things", &config, Clock::system()).await;
            assert_eq!(inspected.is_ok(), started.is_ok(), "{what}: a check and a start say the same");
            if let Ok(inspected) = inspected {
                assert_eq!(inspected.check().await.expect("checked"), [], "{what}");
                inspected.close().await;
            }
            match started {
                Ok(dump) => {
                    assert_eq!(&dump, killed.last(), "{what} was served");
                    equal += 1;
                }
                Err(error) => {
                    assert!(is_named(&error), "{what}: {error:?}");
                    let copied = sensormesh_store::copy_database(&path, &path.with_extension("copy")).await;
                    assert!(is_named(&copied.expect_err("no copy of it either")), "{what}");
                    found += 1;
                }
            }
        }
    }
    println!("{found} found, {equal} without effect");
    assert!(found > equal && equal > 9);
}

/// A power cut takes the index with it. What it left half written is told from a flipped bit by what follows.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_index_at_most_the_last_two_transactions_of_a_damaged_log_are_missing() {
    let mut chance = Chance::new("bits of logs");
    let mut killed = Killed::with(false).await;
    killed.files.0[2] = None;
    assert_eq!(&killed.files.start().await.expect("it opens"), killed.last());
    let (mut found, mut missing) = (0, 0);
    for _ in 0..bits() / 2 {
        let mut bent = killed.files.clone();
        let what = flip(&mut bent, &mut chance);
        match bent.start().await {
            Ok(dump) => {
                let at = killed.states.iter().rposition(|state| *state == dump).expect("one state of it");
                let behind = killed.states.len() - 1 - at;
                assert!(behind <= 2, "{what}: {behind} transactions are missing and nobody is told");
                missing += usize::from(behind > 0);
            }
            Err(error) => {
                assert!(is_named(&error), "{what}: {error:?}");
                found += 1;
            }
        }
    }
    println!("{found} found, {missing} not");
    assert!(found > missing);
}

/// What a kill or a power cut may leave is no damage, whatever else is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_off_is_no_damage() {
    let killed = Killed::with(true).await;
    let frame = 4096 + 24;
    let ours = |files: &mut Files| {
        let wal = files.wal();
        let salt = wal[16..24].to_vec();
        wal[32..].chunks(frame).take_while(|frame| frame[8..16] == salt).count()
    };
    // a transaction that was on its way when it was killed: half a frame, behind what the index tells of
    let mut files = killed.files.clone();
    let end = 32 + ours(&mut files) * frame;
    let salt = files.wal()[16..24].to_vec();
    files.wal()[end + 8..end + 16].copy_from_slice(&salt);
    assert_eq!(&files.start().await.expect("it opens"), killed.last(), "half a frame behind the last commit");
    // a power cut left an older index, or none that is whole
    for damage in [16..20, 40..44, 0..100] {
        let mut files = killed.files.clone();
        let index = files.0[2].as_mut().expect("an index");
        index[damage.clone()].iter_mut().for_each(|byte| *byte ^= 1);
        assert_eq!(&files.start().await.expect("it opens"), killed.last(), "{damage:?} of the index");
    }
    // the last transaction was not synced: any of its frames may be missing, as may the index
    let mut killed = Killed::with(false).await;
    killed.files.0[2] = None;
    let count = ours(&mut killed.files);
    let commits: Vec<usize> =
        (0..count).filter(|i| killed.files.wal()[32 + i * frame + 4..32 + i * frame + 8] != [0; 4]).collect();
    let [.., before, last] = commits[..] else { panic!("some commits") };
    for torn in before + 1..=last {
        let mut files = killed.files.clone();
        files.wal()[32 + torn * frame + 512..][..512].iter_mut().for_each(|byte| *byte ^= 0x55);
        let dump = files.start().await.expect("it opens");
        assert_eq!(dump, killed.states[killed.states.len() - 2], "all but the last transaction");
        files.wal().truncate(32 + torn * frame + 100);
        assert_eq!(files.start().await.expect("it opens"), dump);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_cut_short_or_another_is_found() {
    for moved in [false, true] {
        let mut killed = Killed::with(moved).await;
        let refused = async |files: &Files| {
            let error = files.start().await.expect_err("refused");
            assert!(is_named(&error), "{error:?}");
        };
        let mut files = killed.files.clone();
        files.0[1] = None;
        refused(&files).await;
        for length in [0, 20, 32, 5_000, 40_000] {
            let mut files = killed.files.clone();
            files.wal().truncate(length);
            refused(&files).await;
        }
        let mut files = killed.files.clone();
        files.0[1].clone_from(&killed.older.0[1]);
        refused(&files).await;
        // all of it is in the file: nothing is missing when the log is
        let store = killed.place.open().await;
        store.checkpoint().await.expect("checkpoint");
        killed.files = Files::of(&killed.place.file());
        killed.files.0[1] = None;
        assert_eq!(&killed.files.start().await.expect("it opens"), killed.last());
    }
}

/// SQLite would begin anew, and remove the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_empty_beside_its_log_is_found_and_the_log_is_kept() {
    let killed = Killed::with(false).await;
    for file in [None, Some(Vec::new()), Some(vec![0; 4096])] {
        let mut files = killed.files.clone();
        files.0[0] = file;
        let (_folder, path, config) = files.put();
        let started = Store::open("things", &config, MIGRATIONS, Clock::system()).await.expect_err("no start");
        let copied = sensormesh_store::copy_database(&path, &path.with_extension("copy")).await.expect_err("no copy");
        let inspected = Store::inspect("things", &config, Clock::system()).await.expect_err("no look");
        for error in [started, copied, inspected] {
            assert_eq!((error.code(), error.reason()), (Code::Corrupt, "DATABASE_CORRUPT"), "{error}");
            assert!(error.to_string().contains("things.db"), "{error}");
        }
        assert_eq!(&fs::read(beside(&path, "-wal")).expect("it is there"), files.wal(), "the log is as it was");
    }
}
