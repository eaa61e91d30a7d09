//! A clock that is wrong, for one process: `tools/clockshift.c`, loaded before libc. Needs a C compiler, `cc`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// How wrong the clock of the processes that were started with it is. It can be changed while they run.
pub struct ClockShift {
    library: PathBuf,
    name: PathBuf,
    file: File,
}

impl ClockShift {
    /// A clock that is right until it is moved; its files lie in `folder`.
    pub fn prepare(folder: &Path) -> Result<Self> {
        let library = folder.join("clockshift.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/clockshift.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        anyhow::ensure!(compile.status().context("a C compiler, cc")?.success(), "{compile:?}");
        let name = folder.join("clockshift");
        let file = File::create(&name)?;
        let shift = Self { library, name, file };
        shift.ahead(0)?;
        Ok(shift)
    }

    /// What a process is started with, so that this is its clock.
    pub fn environment(&self) -> [(String, String); 2] {
        [
            ("LD_PRELOAD".to_owned(), self.library.to_string_lossy().into_owned()),
            ("CLOCKSHIFT_FILE".to_owned(), self.name.to_string_lossy().into_owned()),
        ]
    }

    /// From now on it is so many seconds ahead, or behind.
    pub fn ahead(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.saturating_mul(1_000_000).to_ne_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_another_time_of_day() {
        let folder = tempfile::tempdir().expect("a folder");
        let shift = ClockShift::prepare(folder.path()).expect("a library");
        let year = || {
            let mut date = Command::new("date");
            let output = date.arg("+%Y").envs(shift.environment()).output().expect("date");
            String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().expect("a year")
        };
        let now = year();
        shift.ahead(10 * 366 * 86_400).expect("moved");
        assert_eq!(year() - now, 10);
        shift.ahead(-(now - 1975) * 365 * 86_400).expect("moved");
        assert!((1975..1977).contains(&year()), "{}", year());
        shift.ahead(0).expect("moved");
        assert_eq!(year(), now);
    }
}
