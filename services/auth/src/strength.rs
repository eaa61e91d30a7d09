//! Which passwords are refused: those that a guesser finds soon (zxcvbn, Wheeler, USENIX Security 2016), and those that stand in a
//! list of breached ones, as NIST SP 800-63B section 5.1.1.2 asks for.

use std::cmp::Ordering;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sensormesh_types::{Error, Result};
use sha1::{Digest as _, Sha1};
use zxcvbn::{Score, zxcvbn};

/// Guesses that a password must withstand: more than 10^8, which a thief of hashes needs months for at our cost of a hash.
const LEAST: Score = Score::Three;
/// Longer than any line of a list: a SHA-1 in hexadecimal, a colon, a count.
const LINE: usize = 64;
const HASH: usize = 40;

/// Judges the passwords that people choose.
#[derive(Debug)]
pub struct Strength {
    breached: Option<Breached>,
}

impl Strength {
    /// With a list of breached passwords, where there is one.
    pub fn new(list: Option<&Path>) -> Result<Self> {
        Ok(Self { breached: list.map(Breached::open).transpose()? })
    }

    /// Refuses a password that is easily guessed, also from what else is known of the user, or known from a breach. INVALID, naming
    /// `field` and what would be better. Takes up to some milliseconds.
    pub fn check(&self, field: &str, password: &str, known: &[&str]) -> Result<()> {
        let mut inputs = vec!["sensormesh"];
        inputs.extend(known);
        let found = zxcvbn(password, &inputs);
        if found.score() < LEAST {
            let mut about = "is easily guessed".to_owned();
            if let Some(feedback) = found.feedback() {
                let words = feedback.warning().map(|warning| warning.to_string()).into_iter();
                let words = words.chain(feedback.suggestions().iter().map(ToString::to_string));
                for (nth, sentence) in words.enumerate() {
                    about += if nth == 0 { ": " } else { " " };
                    about += &sentence;
                }
            }
            return Err(Error::invalid(field, about));
        }
        if self.breached.as_ref().is_some_and(|list| list.has(password)) {
            return Err(Error::invalid(field, "is known from a breach of another system; choose another one"));
        }
        Ok(())
    }
}

/// A file of SHA-1 hashes in hexadecimal, a line each, in order, as <https://haveibeenpwned.com/Passwords> gives them out
/// (`HASH:COUNT`). It is searched on the disk.
#[derive(Debug)]
struct Breached {
    file: File,
    length: u64,
}

impl Breached {
    fn open(path: &Path) -> Result<Self> {
        let unusable = |what: &dyn std::fmt::Display| {
            Error::invalid("auth.breached_passwords", format!("{}: {what}", path.display()))
        };
        let file = File::open(path).map_err(|error| unusable(&error))?;
        let length = file.metadata().map_err(|error| unusable(&error))?.len();
        let list = Self { file, length };
        let first = list.line_behind(0).filter(|line| line.hash.iter().all(u8::is_ascii_hexdigit));
        first.ok_or_else(|| unusable(&"does not begin with a SHA-1 in hexadecimal"))?;
        Ok(list)
    }

    /// Whether a password is in the list.
    fn has(&self, password: &str) -> bool {
        let wanted = Sha1::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        // the hash is behind `low` and not behind `high`, if it is there
        let (mut low, mut high) = (0, self.length);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(line) = self.line_behind(middle) else {
                high = middle;
                continue;
            };
            match wanted.as_bytes().cmp(&line.hash.to_ascii_uppercase()) {
                Ordering::Equal => return true,
                Ordering::Less => high = middle,
                Ordering::Greater => low = line.end,
            }
        }
        false
    }

    /// The first line that begins at or behind an offset. A file that cannot be read has none.
    fn line_behind(&self, offset: u64) -> Option<Line> {
        let mut bytes = [0; 2 * LINE];
        // the byte before tells whether a line begins at the offset
        let from = offset.saturating_sub(1);
        let read = self.file.read_at(&mut bytes, from).ok()?;
        let bytes = &bytes[..read];
        let begin = if offset == 0 { 0 } else { bytes.iter().position(|byte| *byte == b'\n')? + 1 };
        let hash = bytes.get(begin..begin + HASH)?.try_into().ok()?;
        let rest = bytes[begin..].iter().position(|byte| *byte == b'\n').map_or(read - begin, |at| at + 1);
        Some(Line { hash, end: from + (begin + rest) as u64 })
    }
}

struct Line {
    hash: [u8; HASH],
    /// Where the next one begins.
    end: u64,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_guessers_find_soon_is_refused_and_told_why() {
        let strength = Strength::new(None).expect("no list");
        let refused = |password: &str, known: &[&str]| strength.check("password", password, known).err();
        for password in
            ["Password123", "qwertyuiop", "aaaaaaaaaaaa", "sensormesh2026", "iloveyou1", "P@ssw0rd!", "20261128"]
        {
            let error = refused(password, &[]).unwrap_or_else(|| panic!("{password} was taken"));
            assert_eq!(error.fields()[0].field, "password");
            assert!(error.fields()[0].description.starts_with("is easily guessed: "), "{error:?}");
        }
        assert!(refused("ada.lovelace1815", &["ada.lovelace", "Ada"]).is_some(), "what is known of the user helps");
        for password in ["correct horse battery", "gr3en-Tractor-lighthouse", "x7#Lq9!vRt2m"] {
            assert!(refused(password, &["ada"]).is_none(), "{password}");
        }
        assert!(refused(&"long passwords are judged by how they begin ".repeat(6), &[]).is_none());
    }

    #[test]
    fn what_stands_in_the_list_is_refused_wherever_it_stands() {
        let passwords: Vec<String> = (0..500).map(|n| format!("gr3en-Tractor-lighthouse-{n}")).collect();
        let hash = |password: &String| {
            Sha1::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect::<String>()
        };
        let mut hashes: Vec<String> = passwords.iter().map(hash).collect();
        hashes.sort_unstable();
        for (end, last) in [("\r\n", "\r\n"), ("\n", "")] {
            for some in [1, 2, 3, 500] {
                let mut file = tempfile::NamedTempFile::new().expect("file");
                let mut lines = hashes[..some].iter().enumerate().map(|(n, hash)| format!("{hash}:{}", n * n * n));
                write!(file, "{}{last}", lines.by_ref().collect::<Vec<_>>().join(end)).expect("written");
                let strength = Strength::new(Some(file.path())).expect("a list");
                for password in &passwords {
                    let found = strength.check("new_password", password, &[]).is_err();
                    assert_eq!(found, hashes[..some].contains(&hash(password)), "{password} of {some}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_no_list_is_refused_by_name() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        for text in ["", "password\n", "not a hash of forty characters in hexade\n"] {
            file.as_file().set_len(0).expect("emptied");
            write!(file, "{text}").expect("written");
            let refused = Strength::new(Some(file.path())).expect_err("no list");
            assert_eq!(refused.fields()[0].field, "auth.breached_passwords");
        }
        assert!(Strength::new(Some(Path::new("/nowhere"))).is_err());
    }
}
