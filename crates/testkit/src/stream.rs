//! The six guarantees of a live stream, each with a judge of its own.
//!
//! A judge is a pure function: what was committed (the log) and what a follower was told, in; the first breach, out. A
//! guarantee is broken by what breaks it and by nothing else, so a report names the guarantee that failed.
//!
//! | | |
//! |---|---|
//! | [`ordered`] | items come in the order of the log |
//! | [`unique`] | no item comes twice in one session |
//! | [`reliable`] | if a and c came, b between them came before c |
//! | [`atomic`] | what was committed together is not divided, except where the message says that more follows |
//! | [`resumable`] | a session that resumes behind a cursor goes on with the very next item, or is refused |
//! | [`bookmarkable`] | a bookmark says that everything up to it was shown, and comes while nothing else does |

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// A place in the log: a commit, and a place among what was committed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    /// The commit it belongs to.
    pub commit: u64,
    /// Its place in the commit, from 0.
    pub index: u32,
}

/// One thing that a stream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Items; `more` of the same commit follow in the next message.
    Message {
        /// What was shown.
        items: Vec<Item>,
        /// The last commit goes on.
        more: bool,
    },
    /// Everything up to and including this commit was shown.
    Bookmark(u64),
}

/// What a follower was told over one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The commit it asked to go on behind; `None` = whatever arrives from now on.
    pub after: Option<u64>,
    /// The cursor was refused with the earliest that would do; nothing was said.
    pub refused: bool,
    /// What came, each with the time since the session began.
    pub said: Vec<(Duration, Said)>,
    /// How long it was open.
    pub lasted: Duration,
}

/// How a guarantee was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The guarantee.
    pub guarantee: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}: {}", self.guarantee, self.what)
    }
}

impl std::error::Error for Breach {}

impl Session {
    /// All items in the order in which they came.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        self.said
            .iter()
            .flat_map(|(_, said)| match said {
                Said::Message { items, .. } => items.as_slice(),
                Said::Bookmark(_) => &[],
            })
            .copied()
    }

    /// The last commit that was shown whole: what a follower resumes behind.
    pub fn cursor(&self) -> Option<u64> {
        let reached = self.said.iter().rev().find_map(|(_, said)| match said {
            Said::Bookmark(at) => Some(*at),
            Said::Message { items, more: false } => items.last().map(|item| item.commit),
            Said::Message { items, more: true } => {
                items.iter().rev().map(|i| i.commit).find(|c| Some(*c) != items.last().map(|l| l.commit))
            }
        });
        reached.or(self.after)
    }
}

fn broken(guarantee: &'static str, what: String) -> Result<(), Breach> {
    Err(Breach { guarantee, what })
}

/// Items come in the order of the log.
pub fn ordered(session: &Session) -> Result<(), Breach> {
    let items: Vec<Item> = session.items().collect();
    match items.windows(2).find(|pair| pair[1] < pair[0]) {
        Some(pair) => broken("ordered", format!("{:?} came behind {:?}", pair[1], pair[0])),
        None => Ok(()),
    }
}

/// No item comes twice in one session.
pub fn unique(session: &Session) -> Result<(), Breach> {
    let mut seen = HashSet::new();
    match session.items().find(|item| !seen.insert(*item)) {
        Some(item) => broken("unique", format!("{item:?} came twice")),
        None => Ok(()),
    }
}

/// If a and c came, every b of the log between them came before c.
pub fn reliable(session: &Session, log: &[Item]) -> Result<(), Breach> {
    let mut shown = HashSet::new();
    let Some(first) = session.items().min() else { return Ok(()) };
    let mut next = log.partition_point(|item| *item < first);
    for item in session.items() {
        shown.insert(item);
        while next < log.len() && log[next] < item {
            if !shown.contains(&log[next]) {
                return broken("reliable", format!("{item:?} came and {:?} before it did not", log[next]));
            }
            next += 1;
        }
    }
    Ok(())
}

/// What was committed together is not divided, except where the message says that more follows.
pub fn atomic(session: &Session, log: &[Item]) -> Result<(), Breach> {
    let size = |commit: u64| log.iter().filter(|item| item.commit == commit).count();
    let mut open: Option<(u64, usize)> = None;
    for (_, said) in &session.said {
        let Said::Message { items, more } = said else {
            if let Some((commit, _)) = open {
                return broken("atomic", format!("a bookmark came within commit {commit}"));
            }
            continue;
        };
        let commits = items.chunk_by(|a, b| a.commit == b.commit);
        let last = items.last().map(|item| item.commit);
        for part in commits {
            let commit = part[0].commit;
            let mut count = part.len();
            if let Some((begun, shown)) = open.take() {
                if begun != commit {
                    return broken("atomic", format!("commit {begun} ended after {shown} of {}", size(begun)));
                }
                count += shown;
            }
            if *more && Some(commit) == last {
                open = Some((commit, count));
            } else if count < size(commit) {
                return broken("atomic", format!("{count} of {} of commit {commit} came", size(commit)));
            }
        }
    }
    // a session may end within a commit: nothing was said to be whole
    Ok(())
}

/// A session goes on with the very next item behind its cursor, which is where the one before it ended, or is refused
/// because the log no longer reaches so far back (`earliest` is the first commit that is kept).
pub fn resumable(sessions: &[Session], log: &[Item], earliest: u64) -> Result<(), Breach> {
    let mut reached: Option<u64> = None;
    for session in sessions {
        if let Some(after) = session.after {
            if reached.is_some_and(|reached| after != reached) {
                return broken("resumable", format!("went on behind {after} where {reached:?} was reached"));
            }
            if session.refused {
                if after + 1 >= earliest {
                    return broken("resumable", format!("cursor {after} was refused, and {earliest} is kept"));
                }
                reached = None;
                continue;
            }
            let next = log.iter().find(|item| item.commit > after);
            if let (Some(next), Some(first)) = (next, session.items().next())
                && first != *next
            {
                return broken("resumable", format!("behind {after} comes {next:?}, and {first:?} came"));
            }
        }
        reached = session.cursor();
    }
    Ok(())
}

/// A bookmark says that everything up to it was shown and nothing up to it comes later; and something is said at least
/// every `interval`.
pub fn bookmarkable(session: &Session, log: &[Item], interval: Duration) -> Result<(), Breach> {
    let mut shown = HashSet::new();
    let (mut marked, mut spoke) = (None, Duration::ZERO);
    let start = session.after.or_else(|| session.items().next().map(|item| item.commit.saturating_sub(1)));
    for (at, said) in &session.said {
        if at.saturating_sub(spoke) > interval {
            return broken("bookmarkable", format!("nothing was said from {spoke:?} to {at:?}"));
        }
        spoke = *at;
        match said {
            Said::Message { items, .. } => {
                if let Some(item) = items.iter().find(|item| marked.is_some_and(|marked| item.commit <= marked)) {
                    return broken("bookmarkable", format!("{item:?} came behind the bookmark {marked:?}"));
                }
                shown.extend(items.iter().copied());
            }
            Said::Bookmark(to) => {
                let covered = |item: &&Item| start.is_some_and(|start| item.commit > start) && item.commit <= *to;
                if let Some(item) = log.iter().filter(covered).find(|item| !shown.contains(*item)) {
                    return broken("bookmarkable", format!("the bookmark {to} came before {item:?}"));
                }
                marked = Some(*to);
            }
        }
    }
    if session.lasted.saturating_sub(spoke) > interval && !session.refused {
        return broken("bookmarkable", format!("nothing was said from {spoke:?} to the end at {:?}", session.lasted));
    }
    Ok(())
}

/// All six, over all sessions of one follower.
pub fn judge(sessions: &[Session], log: &[Item], earliest: u64, interval: Duration) -> Result<(), Breach> {
    for session in sessions {
        ordered(session)?;
        unique(session)?;
        reliable(session, log)?;
        atomic(session, log)?;
        bookmarkable(session, log, interval)?;
    }
    resumable(sessions, log, earliest)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
