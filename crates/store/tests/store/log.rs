//! The log: order, gaps, cursors, watching.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use sensormesh_store::{Entry, Event, EventKind, Read, Store, WatchRequest};
use sensormesh_types::{AuditQuery, Author, Code, Result, Scope};

use super::{Place, places};

fn entry(subject: &str) -> Entry {
    Entry { kind: "thing.made".into(), subject: subject.into(), author: Author::named("user:ada"), ..Entry::default() }
}

async fn append(store: &Store, tenant: &str, subject: &str) -> u64 {
    let mut tx = store.tx(&Scope::tenant_of(tenant)).await.expect("tx");
    tx.append(entry(subject));
    tx.commit().await.expect("commit")
}

fn nothing(_: &mut Read) -> futures::future::BoxFuture<'_, Result<Vec<String>>> {
    async { Ok(Vec::new()) }.boxed()
}

async fn next(stream: &mut (impl futures::Stream<Item = Result<Event<String>>> + Unpin)) -> Event<String> {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
    next.expect("not ended").expect("no error")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_leaves_no_gap() {
    for place in places() {
        let store = place.open().await;
        assert_eq!(append(&store, "a", "1").await, 1);
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        tx.append(entry("lost"));
        tx.rollback().await.expect("rollback");
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        tx.append(entry("dropped"));
        drop(tx);
        assert_eq!(append(&store, "a", "2").await, 2);
        store.check_chain().await.expect("the chain holds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_what_follows_leave_nothing_out() {
    for place in places() {
        let store = place.open().await;
        append(&store, "default", "before").await;
        let request = WatchRequest::new("", Scope::tenant_of("default"));
        let mut stream = store.watch(request, |_| async { Ok(vec!["state".to_owned()]) }.boxed());
        assert_eq!(next(&mut stream).await, Event { cursor: String::new(), kind: EventKind::Snapshot("state".into()) });
        let bookmark = next(&mut stream).await;
        assert!(matches!(bookmark.kind, EventKind::Bookmark { live: true, .. }) && !bookmark.cursor.is_empty());
        append(&store, "other", "hidden").await;
        append(&store, "default", "after").await;
        let EventKind::Entry(seen) = next(&mut stream).await.kind else { panic!("an entry") };
        assert_eq!((seen.subject.as_str(), seen.seq), ("after", 3));
        let mut resumed = store.watch(WatchRequest::new(bookmark.cursor, Scope::tenant_of("default")), nothing);
        let EventKind::Entry(again) = next(&mut resumed).await.kind else { panic!("an entry") };
        assert_eq!(again, seen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_whole_rest_was_cut_learns_it_without_a_new_entry() {
    for mut place in places() {
        place.config.log_max_bytes = 0;
        let store = place.open().await;
        append(&store, "default", "1").await;
        let mut stream = store.watch(WatchRequest::new(store.cursor_at(1), Scope::tenant_of("default")), nothing);
        assert!(matches!(next(&mut stream).await.kind, EventKind::Bookmark { live: true, .. }));
        // another program, so that nothing of it is in this one's memory
        let other = place.open().await;
        append(&other, "default", "2").await;
        append(&other, "default", "3").await;
        other.remove_old().await.expect("removed");
        let ended = tokio::time::timeout(Duration::from_secs(15), async {
            loop {
                match stream.next().await.expect("not a clean end") {
                    Ok(event) => assert!(matches!(event.kind, EventKind::Bookmark { .. }), "{event:?}"),
                    Err(error) => return error,
                }
            }
        });
        assert_eq!(ended.await.expect("in time").code(), Code::Gone);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_watch_sees_every_entry_once_while_others_write() {
    for place in places() {
        let store = place.open().await;
        let writers: Vec<_> = (0..4)
            .map(|w| {
                let store = store.clone();
                tokio::spawn(async move {
                    for i in 0..25 {
                        append(&store, "default", &format!("{w}-{i}")).await;
                    }
                })
            })
            .collect();
        let mut seen = Vec::new();
        let mut cursor = store.cursor_at(0);
        while seen.len() < 100 {
            // A new stream every few entries: resuming must neither skip nor repeat.
            let mut stream = store.watch(WatchRequest::new(cursor.clone(), Scope::system()), nothing);
            for _ in 0..7 {
                let event = next(&mut stream).await;
                cursor = event.cursor;
                if let EventKind::Entry(entry) = event.kind {
                    seen.push(entry.seq);
                }
                if seen.len() == 100 {
                    break;
                }
            }
        }
        assert_eq!(seen, (1..=100).collect::<Vec<u64>>());
        for writer in writers {
            writer.await.expect("written");
        }
        store.check_chain().await.expect("the chain holds");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_future_and_forged_cursors_are_told_apart() {
    for place in places() {
        let store = place.open().await;
        append(&store, "default", "1").await;
        let elsewhere = Place::sqlite();
        let other = elsewhere.open().await;
        append(&other, "default", "1").await;
        let cases =
            [(other.cursor_at(1), Code::Gone), (store.cursor_at(2), Code::Gone), ("AAAA".to_owned(), Code::Invalid)];
        for (cursor, code) in cases {
            let mut stream = store.watch(WatchRequest::new(cursor, Scope::system()), nothing);
            let error = stream.next().await.expect("an answer").expect_err("refused");
            assert_eq!(error.code(), code, "{error:?}");
            assert!(stream.next().await.is_none(), "a stream ends after an error");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_after_a_bookmark_when_it_is_old() {
    let place = Place::sqlite();
    let store = place.open().await;
    let until = tokio::time::Instant::now() + Duration::from_millis(50);
    let stream = store.watch(WatchRequest::new("", Scope::system()).until(Some(until)), nothing);
    let events: Vec<_> = stream.collect().await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.iter().all(|event| matches!(event, Ok(Event { kind: EventKind::Bookmark { .. }, .. }))));
}

fn three(before: Option<u64>) -> AuditQuery {
    AuditQuery { before, limit: 3, ..AuditQuery::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_tells_from_where_and_what_changed_and_is_asked_for_a_part() {
    for place in places() {
        let store = place.open().await;
        let scope = Scope::tenant_of("default");
        append(&store, "default", "1").await;
        let mut tx = store.tx(&scope).await.expect("tx");
        let author = Author { address: "192.0.2.7".into(), request_id: "r-7".into(), ..Author::named("user:bob") };
        tx.append(Entry {
            kind: "room.updated".into(),
            subject: "lab".into(),
            author,
            changes: "name: \"a\" → \"b\"".into(),
            ..Entry::default()
        });
        tx.commit().await.expect("commit");
        store.check_chain().await.expect("whole");
        let asked = async |query: AuditQuery| {
            let found = store.list_audit(&scope, &AuditQuery { limit: 10, ..query }).await.expect("audit");
            found.iter().map(|record| record.seq).collect::<Vec<_>>()
        };
        let bob = store.list_audit(&scope, &AuditQuery { limit: 1, ..AuditQuery::default() }).await.expect("audit");
        let told = (bob[0].address.as_str(), bob[0].request_id.as_str(), bob[0].changes.as_str());
        assert_eq!(told, ("192.0.2.7", "r-7", "name: \"a\" → \"b\""));
        assert_eq!(asked(AuditQuery::default()).await, [2, 1]);
        assert_eq!(asked(AuditQuery { actor: "user:bob".into(), ..Default::default() }).await, [2]);
        assert_eq!(asked(AuditQuery { kind: "thing.".into(), ..Default::default() }).await, [1]);
        assert!(asked(AuditQuery { kind: "room.updated.".into(), ..Default::default() }).await.is_empty());
        assert_eq!(asked(AuditQuery { subject: "lab".into(), ..Default::default() }).await, [2]);
        let at = bob[0].time;
        assert!(!asked(AuditQuery { end: Some(at), ..Default::default() }).await.contains(&2));
        assert!(asked(AuditQuery { start: Some(at), ..Default::default() }).await.contains(&2));
        let mut tx = store.tx(&Scope::system()).await.expect("tx");
        tx.query("UPDATE log SET address = $1 WHERE seq = 2").bind("192.0.2.8").execute().await.expect("update");
        tx.commit().await.expect("commit");
        let error = store.check_chain().await.expect_err("found");
        assert_eq!(error.metadata("seq"), Some("2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_shows_the_own_tenant_newest_first_and_a_change_is_found() {
    for place in places() {
        let store = place.open().await;
        for i in 1..=5 {
            append(&store, if i == 3 { "other" } else { "default" }, &i.to_string()).await;
        }
        let own = store.list_audit(&Scope::tenant_of("default"), &three(None)).await.expect("audit");
        assert_eq!(own.iter().map(|e| e.seq).collect::<Vec<_>>(), [5, 4, 2]);
        let narrowed = Scope::sites_of("default", vec!["north".into()]);
        assert_eq!(store.list_audit(&narrowed, &three(None)).await.expect("audit"), [], "what is the whole tenant's");
        let rest = store.list_audit(&Scope::tenant_of("default"), &three(Some(2))).await.expect("audit");
        assert_eq!(rest.iter().map(|e| e.seq).collect::<Vec<_>>(), [1]);
        append(&store, "", "what replicas tell each other").await;
        let all = store.list_audit(&Scope::system(), &three(None)).await.expect("audit");
        assert_eq!(all.iter().map(|e| e.seq).collect::<Vec<_>>(), [5, 4, 3]);
        let mut tx = store.tx(&Scope::system()).await.expect("tx");
        tx.query("UPDATE log SET actor = $1 WHERE seq = 3").bind("user:mallory").execute().await.expect("update");
        tx.commit().await.expect("commit");
        let error = store.check_chain().await.expect_err("found");
        assert_eq!((error.code(), error.metadata("seq")), (Code::Corrupt, Some("3")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_cut_by_size_and_its_chain_and_its_readers_go_on_from_there() {
    for mut place in places() {
        place.config.log_max_bytes = 2_000;
        let store = place.open().await;
        for i in 0..50 {
            append(&store, "default", &i.to_string()).await;
        }
        let live = store.cursor_at(50);
        store.remove_old().await.expect("removed");
        store.check_chain().await.expect("the chain holds");
        let mut old = store.watch(WatchRequest::new(store.cursor_at(3), Scope::system()), nothing);
        let error = old.next().await.expect("an answer").expect_err("gone");
        assert_eq!(error.code(), Code::Gone);
        let earliest = error.metadata("earliest_cursor").expect("where to go on").to_owned();
        let mut rest = store.watch(WatchRequest::new(earliest, Scope::system()), nothing);
        let EventKind::Entry(first) = next(&mut rest).await.kind else { panic!("an entry") };
        assert!(first.seq > 4 && first.seq < 50, "{}", first.seq);
        append(&store, "default", "new").await;
        let mut resumed = store.watch(WatchRequest::new(live, Scope::system()), nothing);
        let EventKind::Entry(new) = next(&mut resumed).await.kind else { panic!("an entry") };
        assert_eq!(new.seq, 51, "numbers are not used again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_refuses_the_cursors_of_its_other_life() {
    for place in places() {
        let store = place.open().await;
        append(&store, "default", "1").await;
        let cursor = store.cursor_at(1);
        store.renew_incarnation().await.expect("renewed");
        let store = place.open().await;
        let mut stream = store.watch(WatchRequest::new(cursor, Scope::system()), nothing);
        assert_eq!(stream.next().await.expect("an answer").expect_err("refused").code(), Code::Gone);
    }
}

#[tokio::test] // one thread, so that time can be moved
async fn a_reader_holds_little_in_memory_and_is_ended_when_it_does_not_keep_up() {
    for place in places() {
        let store = place.open().await;
        let mut stream = store.watch(WatchRequest::new("", Scope::system()), nothing);
        next(&mut stream).await;
        for i in 0..20 {
            let mut tx = store.tx(&Scope::tenant_of("default")).await.expect("tx");
            tx.append(Entry { payload: vec![1; 60_000], ..entry(&i.to_string()) });
            tx.commit().await.expect("commit");
        }
        let first = next(&mut stream).await;
        assert!(matches!(first.kind, EventKind::Entry(_)));
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(11)).await;
        tokio::time::resume();
        let error = stream.next().await.expect("an answer").expect_err("too slow");
        assert_eq!((error.code(), error.reason()), (Code::Conflict, "TOO_SLOW"));
        assert_eq!(error.metadata("cursor"), Some(first.cursor.as_str()), "nothing that it did not take is skipped");
        let mut resumed = store.watch(WatchRequest::new(first.cursor, Scope::system()), nothing);
        let mut seen = Vec::new();
        while seen.len() < 19 {
            if let EventKind::Entry(entry) = next(&mut resumed).await.kind {
                seen.push(entry.seq);
            }
        }
        assert_eq!(seen, (2..=20).collect::<Vec<u64>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_see_the_same_while_many_write() {
    for place in places() {
        let store = place.open().await;
        let watchers: Vec<_> = (0..8)
            .map(|_| {
                let mut stream = store.watch(WatchRequest::new(store.cursor_at(0), Scope::system()), nothing);
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while seen.last() != Some(&60) {
                        if let EventKind::Entry(entry) = next(&mut stream).await.kind {
                            seen.push(entry.seq);
                        }
                    }
                    seen
                })
            })
            .collect();
        let writers = (0..6).map(|w| {
            let store = store.clone();
            async move {
                for i in 0..10 {
                    append(&store, "default", &format!("{w}-{i}")).await;
                }
            }
        });
        futures::future::join_all(writers).await;
        for watcher in watchers {
            assert_eq!(watcher.await.expect("watched"), (1..=60).collect::<Vec<u64>>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_commits_is_seen_soon() {
    for place in places() {
        let (store, other) = (place.open().await, place.open().await);
        append(&store, "default", "1").await;
        let mut stream = store.watch(WatchRequest::new(store.cursor_at(0), Scope::system()), nothing);
        for (writer, subject) in [(&store, "2"), (&other, "3"), (&store, "4"), (&other, "5")] {
            append(writer, "default", subject).await;
        }
        let mut seen = Vec::new();
        let began = tokio::time::Instant::now();
        while seen.len() < 5 {
            if let EventKind::Entry(entry) = next(&mut stream).await.kind {
                seen.push(entry.seq);
            }
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        append(&other, "default", "6").await;
        while !matches!(next(&mut stream).await.kind, EventKind::Entry(entry) if entry.seq == 6) {}
        assert!(began.elapsed() < Duration::from_secs(4), "before the next bookmark: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_is_free_on_the_disk_again() {
    let mut place = Place::sqlite();
    place.config.log_max_bytes = 2_000;
    let store = place.open().await;
    let mut tx = store.tx(&Scope::tenant_of("default")).await.expect("tx");
    for _ in 0..300 {
        tx.append(Entry { payload: vec![7; 20_000], ..entry("large") });
    }
    tx.commit().await.expect("commit");
    store.close().await;
    let size = || std::fs::metadata(place.file()).expect("a file").len();
    assert!(size() > 6_000_000, "{}", size());
    let store = place.open().await;
    store.remove_old().await.expect("removed");
    store.close().await;
    assert!(size() < 200_000, "{}", size());
}
