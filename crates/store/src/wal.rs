//! The write-ahead log of a SQLite file, read as it lies on the disk: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// How a database file begins: <https://www.sqlite.org/fileformat2.html#the_database_header>
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
pub(crate) const HEADER: usize = 32;
const FRAME: usize = 24;

/// A checksum as SQLite has it: of everything from the header up to a place.
pub(crate) type Sum = (u32, u32);

/// SQLite puts the write-ahead log beside the file, under its name and `-wal`.
pub(crate) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// The folder that a database's files lie in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The header of a log; `None` where there is none yet.
pub(crate) fn header(wal: &File) -> io::Result<Option<[u8; HEADER]>> {
    let mut header = [0; HEADER];
    match wal.read_exact_at(&mut header, 0) {
        Ok(()) => Ok(Some(header)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Goes through the frames of a log.
pub(crate) struct Frames<'a> {
    wal: &'a File,
    salt: [u8; 8],
    big: bool,
    /// Of everything before the next frame.
    pub(crate) sum: Sum,
    /// Where the next frame begins.
    pub(crate) offset: u64,
    bytes: Vec<u8>,
}

/// A frame that was written as part of this log, after the one before it.
pub(crate) struct Frame {
    pub(crate) page: u32,
    /// Pages of the database, where a commit ends with this frame; else 0.
    pub(crate) pages: u32,
    /// Where its page lies.
    pub(crate) at: u64,
}

impl<'a> Frames<'a> {
    /// `None` where the header is not whole.
    pub(crate) fn of(wal: &'a File, header: &[u8; HEADER]) -> Option<Self> {
        let big = match word(header, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let sum = checksum((0, 0), &header[..24], big);
        let page = usize::try_from(word(header, 8)).ok()?;
        if sum != (word(header, 24), word(header, 28)) || !page.is_power_of_two() || !(512..=65_536).contains(&page) {
            return None;
        }
        let mut salt = [0; 8];
        salt.copy_from_slice(&header[16..24]);
        Some(Self { wal, salt, big, sum, offset: HEADER as u64, bytes: vec![0; FRAME + page] })
    }

    /// Bytes of a page of the database.
    pub(crate) fn page_size(&self) -> usize {
        self.bytes.len() - FRAME
    }

    /// What the log is told from the one before it in the same file by.
    pub(crate) fn salt(&self) -> [u8; 8] {
        self.salt
    }

    /// The next frame; `None` where it is not whole, or belongs to an earlier log: SQLite reads no further.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame>> {
        if !self.read()? || !self.is_ours() {
            return Ok(None);
        }
        let sum = self.sum_after(self.sum);
        if sum != self.stored() {
            return Ok(None);
        }
        let frame = Frame { page: word(&self.bytes, 0), pages: word(&self.bytes, 4), at: self.offset + FRAME as u64 };
        self.pass(sum);
        Ok(Some(frame))
    }

    /// Whether something was committed behind the place where SQLite reads no further, and then more was written.
    ///
    /// A commit is synced before the next one begins. So what a power cut left half written is the last transaction, and
    /// holds one commit at most, at its end: whole frames behind that prove that a frame before was whole once. Each one's
    /// checksum follows from that of the one before, so it can be told again behind a bad one.
    pub(crate) fn goes_on(mut self) -> io::Result<bool> {
        // of everything before the next frame, as far as that is known
        let mut before = [self.sum; 2];
        let mut committed = false;
        while self.read()? {
            let stored = self.stored();
            if !self.is_ours() {
                (before, committed) = ([stored; 2], false);
            } else if let Some(whole) = before.into_iter().find(|sum| self.sum_after(*sum) == stored) {
                if committed {
                    return Ok(true);
                }
                before = [self.sum_after(whole); 2];
                committed = word(&self.bytes, 4) > 0;
            } else {
                (before, committed) = ([stored, self.sum_after(before[0])], false);
            }
            self.pass(stored);
        }
        Ok(false)
    }

    /// Reads the next frame; false where the file ends.
    fn read(&mut self) -> io::Result<bool> {
        match self.wal.read_exact_at(&mut self.bytes, self.offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn pass(&mut self, sum: Sum) {
        self.sum = sum;
        self.offset += self.bytes.len() as u64;
    }

    fn is_ours(&self) -> bool {
        self.bytes[8..16] == self.salt
    }

    fn stored(&self) -> Sum {
        (word(&self.bytes, 16), word(&self.bytes, 20))
    }

    fn sum_after(&self, before: Sum) -> Sum {
        checksum(checksum(before, &self.bytes[..8], self.big), &self.bytes[FRAME..], self.big)
    }
}

pub(crate) fn checksum((mut a, mut b): Sum, bytes: &[u8], big: bool) -> Sum {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let bytes = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    (a, b)
}
