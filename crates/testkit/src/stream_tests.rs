//! Every judge passes what is right, and finds what breaks its guarantee and no other.

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

/// Commits 1 to 6; the third has three items, the others one.
fn log() -> Vec<Item> {
    (1..=6).flat_map(|commit| (0..if commit == 3 { 3 } else { 1 }).map(move |index| Item { commit, index })).collect()
}

fn item(commit: u64, index: u32) -> Item {
    Item { commit, index }
}

fn said(items: &[(u64, u32)], more: bool) -> Said {
    Said::Message { items: items.iter().map(|(commit, index)| item(*commit, *index)).collect(), more }
}

/// A session in which one thing is said each second.
fn session(after: Option<u64>, said: &[Said]) -> Session {
    let said: Vec<_> = (1..).zip(said).map(|(second, said)| (Duration::from_secs(second), said.clone())).collect();
    Session { after, refused: false, lasted: Duration::from_secs(said.len() as u64 + 1), said }
}

fn whole() -> Vec<Session> {
    vec![
        session(None, &[said(&[(1, 0), (2, 0)], false), Said::Bookmark(2), said(&[(3, 0), (3, 1), (3, 2)], false)]),
        // the same commit in two messages, and the end of the session within it: it comes again from its start
        session(Some(3), &[said(&[(4, 0)], false)]),
        session(Some(4), &[said(&[(5, 0)], false), said(&[(6, 0)], false), Said::Bookmark(6)]),
    ]
}

/// The guarantees that these sessions break.
fn broken_by(sessions: &[Session]) -> Vec<&'static str> {
    let log = log();
    let mut broken = Vec::new();
    for session in sessions {
        let verdicts = [
            ordered(session),
            unique(session),
            reliable(session, &log),
            atomic(session, &log),
            bookmarkable(session, &log, INTERVAL),
        ];
        broken.extend(verdicts.into_iter().filter_map(|verdict| verdict.err().map(|breach| breach.guarantee)));
    }
    broken.extend(resumable(sessions, &log, 1).err().map(|breach| breach.guarantee));
    assert_eq!(judge(sessions, &log, 1, INTERVAL).is_err(), !broken.is_empty());
    broken
}

#[test]
fn what_is_right_is_found_right() {
    assert_eq!(broken_by(&whole()), [""; 0]);
    let divided = [said(&[(2, 0), (3, 0)], true), said(&[(3, 1), (3, 2), (4, 0)], false)];
    assert_eq!(broken_by(&[session(Some(1), &divided)]), [""; 0], "more was announced");
    let cut = session(Some(1), &[said(&[(2, 0), (3, 0)], true)]);
    assert_eq!(cut.cursor(), Some(2), "what was begun is not behind the cursor");
    assert_eq!(broken_by(&[cut, session(Some(2), &[said(&[(3, 0), (3, 1), (3, 2)], false)])]), [""; 0]);
}

#[test]
fn one_before_another_is_not_ordered() {
    // the later one first, and both: nothing is missing when the last has come
    let swapped = session(Some(4), &[said(&[(6, 0)], false), said(&[(5, 0)], false)]);
    let broken = ordered(&swapped).expect_err("swapped");
    assert_eq!(broken.guarantee, "ordered");
    assert!(unique(&swapped).is_ok() && atomic(&swapped, &log()).is_ok());
    let within = session(Some(2), &[said(&[(3, 1), (3, 0), (3, 2)], false)]);
    assert!(ordered(&within).is_err(), "within a commit, too");
}

#[test]
fn the_same_twice_is_not_unique() {
    let again = session(Some(3), &[said(&[(4, 0)], false), said(&[(4, 0)], false), said(&[(5, 0)], false)]);
    assert_eq!(broken_by(&[again]), ["unique"]);
}

#[test]
fn one_left_out_is_not_reliable() {
    let gap = session(Some(3), &[said(&[(4, 0)], false), said(&[(6, 0)], false)]);
    assert_eq!(broken_by(&[gap]), ["reliable"]);
}

#[test]
fn a_part_without_a_mark_is_not_atomic() {
    let parts = session(Some(2), &[said(&[(3, 0), (3, 1)], false), said(&[(3, 2)], false)]);
    assert_eq!(broken_by(&[parts]), ["atomic"]);
    let left = session(Some(2), &[said(&[(3, 0), (3, 1)], true), said(&[(4, 0)], false)]);
    assert!(atomic(&left, &log()).is_err(), "more was announced and did not come");
    let marked = session(Some(2), &[said(&[(3, 0)], true), Said::Bookmark(2), said(&[(3, 1), (3, 2)], false)]);
    assert_eq!(broken_by(&[marked]), ["atomic"]);
}

#[test]
fn a_skip_between_two_sessions_is_not_resumable() {
    let mut skipped = whole();
    skipped[1] = session(Some(3), &[said(&[(5, 0)], false)]);
    skipped[2] = session(Some(5), &[said(&[(6, 0)], false)]);
    assert_eq!(broken_by(&skipped), ["resumable"]);
    let mut repeated = whole();
    repeated[1] = session(Some(3), &[said(&[(3, 0), (3, 1), (3, 2)], false), said(&[(4, 0)], false)]);
    assert_eq!(broken_by(&repeated), ["resumable"]);
    let refused = |after| vec![Session { after: Some(after), refused: true, ..Session::default() }];
    assert!(resumable(&refused(4), &log(), 1).is_err(), "refused although it is kept");
    assert!(resumable(&refused(4), &log(), 6).is_ok(), "refused because it is cut");
}

#[test]
fn a_bookmark_too_far_or_too_rare_is_not_bookmarkable() {
    let far = session(Some(3), &[said(&[(4, 0)], false), Said::Bookmark(5), said(&[(6, 0)], false)]);
    assert!(bookmarkable(&far, &log(), INTERVAL).is_err(), "it covers what did not come");
    let late = session(Some(3), &[said(&[(4, 0), (5, 0)], false), Said::Bookmark(5), said(&[(5, 0)], false)]);
    assert!(bookmarkable(&late, &log(), INTERVAL).is_err(), "what it covers comes later");
    let mut silent = session(Some(3), &[said(&[(4, 0)], false)]);
    silent.lasted = Duration::from_secs(30);
    assert_eq!(broken_by(&[silent]), ["bookmarkable"], "it says nothing while nothing comes");
}
