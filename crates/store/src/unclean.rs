//! A SQLite file that was not closed: whether all that was committed can still be read.
//!
//! SQLite reads its write-ahead log up to the first frame whose checksum is wrong and forgets the rest, silently: that is how a
//! transaction that was not finished ends. A bit that flips in a frame ends the log there too, and with it acknowledged
//! commits; pages that lie in the file already may even be replaced by older ones.
//!
//! What was committed is known from the index of the log (`-shm`), which lies in the same folder. SQLite writes there, after
//! the commit is synced, how many frames there are and their checksum. A process that is killed leaves it as it is; the next
//! one makes it anew, so it must be looked at before. A power cut may leave it older, never newer, or not at all. Then the log
//! itself tells of a loss, unless it is that of the last thing in it ([`Frames::goes_on`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sensormesh_types::{Code, Error, Result};

use crate::wal::{self, Frames, HEADER, MAGIC, Sum, beside, checksum, wal_of};

/// <https://www.sqlite.org/walformat.html#the_wal_index_file_format>
const INDEX_HEADER: usize = 48;
const INDEX_VERSION: u32 = 3_007_000;
/// A log that began this many logs before another in the same file is told as older than it.
const OLDER: u32 = 1 << 16;
/// The file may be in use, by another process: what looks wrong is looked at again where it changed meanwhile.
const ATTEMPTS: usize = 5;

/// Refuses a database whose log lost something that was committed. Call it before anything opens the file: SQLite makes the
/// index anew, and closing a file that it has open in the same process takes its locks away.
pub(crate) fn verify(path: &Path) -> Result<()> {
    verify_file(path)?;
    for _ in 0..ATTEMPTS {
        let claim = Claim::read(path).map_err(Error::internal)?;
        let Some(problem) = problem(path, claim).map_err(Error::internal)? else { return Ok(()) };
        if Claim::read(path).map_err(Error::internal)? == claim {
            let wal = wal_of(path);
            let message = format!(
                "{} is damaged: {problem}, so that something acknowledged would be lost. Restore a backup",
                wal.display()
            );
            return Err(Error::new(Code::Corrupt, "DATABASE_CORRUPT", message).with("file", wal.display().to_string()));
        }
    }
    Ok(())
}

/// Refuses a database whose file is gone or empty while its log has something: SQLite would begin anew, and remove the log.
/// A file is given its header before anything is logged.
pub(crate) fn verify_file(path: &Path) -> Result<()> {
    let logged = std::fs::metadata(wal_of(path)).map_or(0, |log| log.len());
    let has_header = || {
        let mut first = [0; MAGIC.len()];
        File::open(path).and_then(|file| file.read_exact_at(&mut first, 0)).is_ok() && first == *MAGIC
    };
    if logged <= HEADER as u64 || has_header() {
        return Ok(());
    }
    let (file, log) = (path.display().to_string(), wal_of(path));
    let what = if path.exists() { "has no header" } else { "is gone" };
    let message = format!(
        "{file} {what}, and {} holds what was written to it since: it would be lost. Restore a backup",
        log.display()
    );
    Err(Error::new(Code::Corrupt, "DATABASE_CORRUPT", message).with("file", file))
}

/// What the index says of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    /// Frames up to the end of the last commit.
    frames: u32,
    /// The checksum of the last of them.
    sum: Sum,
    salt: [u8; 8],
    /// Frames whose pages are in the file, which is synced.
    moved: u32,
}

impl Claim {
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut index = [0; 2 * INDEX_HEADER + 4];
        match File::open(beside(path, "-shm")).and_then(|file| file.read_exact_at(&mut index, 0)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let moved = number(&index, 2 * INDEX_HEADER);
        // SQLite writes the second copy first
        let copies = [&index[INDEX_HEADER..2 * INDEX_HEADER], &index[..INDEX_HEADER]];
        Ok(copies.into_iter().find_map(|copy| Self::of(copy, moved)))
    }

    fn of(copy: &[u8], moved: u32) -> Option<Self> {
        let sum = checksum((0, 0), &copy[..40], cfg!(target_endian = "big"));
        let whole = number(copy, 0) == INDEX_VERSION && copy[12] == 1 && sum == (number(copy, 40), number(copy, 44));
        let salt = copy[32..40].try_into().ok()?;
        whole.then(|| Self { frames: number(copy, 16), sum: (number(copy, 24), number(copy, 28)), salt, moved })
    }
}

/// The index is in the machine's own order of bytes.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn problem(path: &Path, claim: Option<Claim>) -> io::Result<Option<String>> {
    let claim = claim.filter(|claim| claim.frames > 0);
    let wal = match File::open(wal_of(path)) {
        Ok(wal) => Some(wal),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let header = wal.as_ref().map(wal::header).transpose()?.flatten();
    let (Some(wal), Some(header)) = (wal, header) else {
        let missing = claim.filter(|claim| claim.frames > claim.moved);
        return Ok(missing.map(|claim| format!("its {} frames are gone", claim.frames)));
    };
    let Some(mut frames) = Frames::of(&wal, &header) else {
        // a log is no longer than its header until that is synced; it may have been nothing but room
        let begun = wal.metadata()?.len() > HEADER as u64 && (claim.is_some() || header != [0; HEADER]);
        return Ok(begun.then(|| "its header is not what was written".to_owned()));
    };
    let first = |salt: [u8; 8]| u32::from_be_bytes([salt[0], salt[1], salt[2], salt[3]]);
    let claim = match claim {
        Some(claim) if claim.salt == frames.salt() => Some(claim),
        Some(claim) if (1..OLDER).contains(&first(claim.salt).wrapping_sub(first(frames.salt()))) => {
            return Ok(Some("it is older than its index".to_owned()));
        }
        _ => None,
    };
    let mut number = 0;
    while frames.next()?.is_some() {
        number += 1;
        if claim.is_some_and(|claim| claim.frames == number && claim.sum != frames.sum) {
            return Ok(Some(format!("frame {number} is not the one that its index tells of")));
        }
    }
    let at = frames.offset;
    if let Some(claim) = claim.filter(|claim| claim.frames > number) {
        let bad = number + 1;
        return Ok(Some(format!("frame {bad} of {}, at byte {at}, is not what was written", claim.frames)));
    }
    let bad = number + 1;
    Ok(frames.goes_on()?.then(|| format!("frame {bad}, at byte {at}, is not what was written, and others follow")))
}
