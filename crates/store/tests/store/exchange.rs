//! Questions over the log: one answer each, whoever is away in between.

use std::time::Duration;

use sensormesh_store::exchange::{Answer, Question};
use sensormesh_store::{EventKind, Store, WatchRequest};
use sensormesh_types::{AuditQuery, Author, Code, Scope};

use super::places;

fn acme() -> Scope {
    Scope::tenant_of("acme")
}

fn question(request_id: &str, payload: &str, patience: Duration) -> Question {
    Question {
        kind: "command".into(),
        request_id: request_id.into(),
        payload: payload.into(),
        patience,
        site: String::new(),
        author: Author::named("user:ada"),
    }
}

async fn ask(store: &Store, request_id: &str, payload: &str, patience: Duration) -> sensormesh_types::Result<bool> {
    let mut tx = store.tx(&acme()).await?;
    let asked = tx.ask(question(request_id, payload, patience)).await?;
    tx.commit().await?;
    Ok(asked)
}

async fn reply(store: &Store, request_id: &str, answer: Answer) -> sensormesh_types::Result<bool> {
    let mut tx = store.tx(&acme()).await?;
    let ended = tx.reply("command", request_id, "device:lab", &answer).await?;
    tx.commit().await?;
    Ok(ended)
}

async fn kinds(store: &Store) -> Vec<(String, String)> {
    let audit = store.list_audit(&acme(), &AuditQuery { limit: 100, ..Default::default() }).await.expect("audit");
    audit.into_iter().rev().map(|record| (record.kind, record.subject)).collect()
}

/// Does what is asked: what begins with `no` is refused.
async fn serve(store: Store) {
    use futures::StreamExt as _;
    let mut events = store.watch(WatchRequest::new("", acme()), |_| Box::pin(async { Ok(Vec::<()>::new()) }));
    while let Some(event) = events.next().await {
        let EventKind::Entry(entry) = event.expect("watched").kind else { continue };
        if entry.kind == "command.asked" {
            let answer = match entry.payload.starts_with(b"no") {
                true => Answer::Refused(b"cannot".to_vec()),
                false => Answer::Replied(entry.payload.to_ascii_uppercase()),
            };
            reply(&store, &entry.subject, answer).await.expect("told");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_hears_what_became_of_it() {
    for place in places() {
        let store = place.open().await;
        // the other side is another program on the same database
        let server = tokio::spawn(serve(place.open().await));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let long = Duration::from_secs(60);
        for (id, payload, expected) in
            [("c1", "open", Answer::Replied(b"OPEN".to_vec())), ("c2", "no way", Answer::Refused(b"cannot".to_vec()))]
        {
            assert!(ask(&store, id, payload, long).await.expect("asked"));
            assert_eq!(store.answer(&acme(), "command", id).await.expect("answered"), expected);
            // the same again is not asked again, and has its answer
            assert!(!ask(&store, id, payload, long).await.expect("known"));
            assert_eq!(store.answer(&acme(), "command", id).await.expect("still"), expected);
            // whatever comes later changes nothing
            assert!(!reply(&store, id, Answer::Replied(b"late".to_vec())).await.expect("told"));
            assert_eq!(store.answer(&acme(), "command", id).await.expect("still"), expected);
        }
        let misused = ask(&store, "c1", "close", long).await.expect_err("another question");
        assert_eq!((misused.code(), misused.fields()[0].field.as_str()), (Code::Invalid, "request_id"));
        assert_eq!(store.answer(&acme(), "command", "c9").await.expect_err("nobody asked").code(), Code::NotFound);
        let other = Scope::tenant_of("other");
        assert_eq!(store.answer(&other, "command", "c1").await.expect_err("another's").code(), Code::NotFound);
        let told = ["asked", "replied", "asked", "refused"].into_iter().zip(["c1", "c1", "c2", "c2"]);
        let told: Vec<_> = told.map(|(word, id)| (format!("command.{word}"), id.to_owned())).collect();
        assert_eq!(kinds(&store).await, told);
        server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_once_when_nobody_replies_in_time() {
    for place in places() {
        let store = place.open().await;
        ask(&store, "c1", "open", Duration::from_millis(300)).await.expect("asked");
        // two wait for it, and one of them in another life
        let again = place.open().await;
        let (scope, other) = (acme(), acme());
        let both = tokio::join!(store.answer(&scope, "command", "c1"), again.answer(&other, "command", "c1"));
        assert_eq!((both.0.expect("ended"), both.1.expect("ended")), (Answer::TimedOut, Answer::TimedOut));
        assert!(!reply(&store, "c1", Answer::Replied(Vec::new())).await.expect("told"), "too late");
        // nobody waits for these
        for id in ["c2", "c3"] {
            ask(&store, id, "open", Duration::ZERO).await.expect("asked");
        }
        ask(&store, "c4", "open", Duration::from_secs(60)).await.expect("asked");
        assert_eq!(store.end_overdue().await.expect("ended"), 2);
        assert_eq!(store.end_overdue().await.expect("ended"), 0);
        let ended: Vec<_> = kinds(&store).await.into_iter().filter(|(kind, _)| kind == "command.timed_out").collect();
        assert_eq!(ended.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), ["c1", "c2", "c3"]);
        assert!(reply(&store, "c4", Answer::Replied(Vec::new())).await.expect("told"), "that one waits");
        assert_eq!(reply(&store, "c9", Answer::TimedOut).await.expect_err("nobody asked").code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_reply_at_once_one_is_heard() {
    for place in places() {
        let store = place.open().await;
        ask(&store, "c1", "open", Duration::from_secs(60)).await.expect("asked");
        let replies = (0u8..8).map(|n| {
            let store = store.clone();
            async move { reply(&store, "c1", Answer::Replied(vec![n])).await.expect("told").then_some(n) }
        });
        let heard: Vec<u8> = futures::future::join_all(replies).await.into_iter().flatten().collect();
        assert_eq!(heard.len(), 1);
        assert_eq!(store.answer(&acme(), "command", "c1").await.expect("one"), Answer::Replied(heard));
    }
}
