//! `IngestStream` and `StreamReadings`.

use std::time::Duration;

use futures::StreamExt as _;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::wire;
use sensormesh_types::Code;

use crate::system::{Engine, Ingest, NOW, SECOND, System, User, batch, group};

/// Everything that `StreamReadings` has of a sensor.
pub async fn streamed(user: &User, sensor_id: &str) -> Vec<(i64, f64)> {
    let request = pb::StreamReadingsRequest { sensor_ids: vec![sensor_id.to_owned()], ..Default::default() };
    let mut client = user.client();
    let mut stream = user.act(client.stream_readings(request)).await.expect("stream").into_inner();
    let mut readings = Vec::new();
    let mut named = false;
    while let Some(message) = stream.next().await {
        let message = message.expect("message");
        named |= message.names.iter().any(|name| name.sensor_id == sensor_id);
        for group in &message.groups {
            assert!(named, "readings before their name");
            let times = wire::times(group.start_ns, group.tick_ns, &group.steps).expect("times");
            readings.extend(times.into_iter().zip(values(&group.channels[0])));
        }
    }
    assert!(named);
    readings
}

pub fn values(channel: &pb::Channel) -> Vec<f64> {
    match channel.values.as_ref().expect("values") {
        pb::channel::Values::Doubles(doubles) => doubles.values.clone(),
        pb::channel::Values::Scaled(scaled) => wire::values(scaled.decimals, &scaled.deltas).expect("values"),
    }
}

pub async fn batches_are_acknowledged_in_order_and_read_back(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut ingest = user.open().await;
    let numbers = ingest.numbers(&["lab.a", "lab.b"]).await;
    assert_ne!(numbers[0], numbers[1]);
    let expected: Vec<f64> = (0..30_000).map(|i| f64::from(i % 977) / 4.0).collect();
    for (i, part) in expected.chunks(1000).enumerate() {
        let start = NOW - 100_000 * SECOND + i as i64 * 1000 * SECOND;
        let mut both = group(numbers[0], start, SECOND, part);
        let (decimals, deltas) = wire::deltas(part).expect("decimal");
        let scaled = pb::channel::Values::Scaled(pb::Scaled { decimals, deltas });
        both.channels.push(pb::Channel { series: numbers[1], values: Some(scaled), exceptions: Vec::new() });
        ingest.send(batch(i as u64 + 1, vec![both])).await;
    }
    let answers = ingest.through(30).await;
    assert!(answers.windows(2).all(|pair| pair[0].through < pair[1].through));
    assert!(answers.iter().all(|answer| answer.rejections.is_empty() && answer.duplicates == 0));
    for sensor_id in ["lab.a", "lab.b"] {
        let read = streamed(&user, sensor_id).await;
        assert_eq!(read.iter().map(|r| r.1).collect::<Vec<_>>(), expected);
        assert_eq!(read[29_999].0, NOW - 100_000 * SECOND + 29_999 * SECOND);
        assert_eq!(user.readings(sensor_id).await, read);
    }
    // a sensor keeps its number
    assert_eq!(user.open().await.numbers(&["lab.b", "lab.a"]).await, [numbers[1], numbers[0]]);
    // the sender ends, the stream ends
    drop(ingest.requests);
    assert!(ingest.answers.next().await.is_none());
}

pub async fn what_cannot_be_taken_is_rejected_with_its_place(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut ingest = user.open().await;
    let announced = ingest.announce(&["lab.a", "bad id", "no-such.sensor"], false).await;
    let Some(pb::announced::Outcome::Series(number)) = announced[0].outcome else { panic!("{announced:?}") };
    for refused in &announced[1..] {
        assert!(matches!(&refused.outcome, Some(pb::announced::Outcome::Refusal(why)) if !why.is_empty()));
    }
    let good = group(number, NOW, SECOND, &[1.0, f64::NAN, 3.0]);
    let stranger = group(number + 1000, NOW, SECOND, &[1.0]);
    let late = group(number, NOW + 250 * SECOND, 100 * SECOND, &[4.0, 5.0]);
    ingest.send(batch(7, vec![good, stranger, late])).await;
    let answer = ingest.through(7).await.remove(0);
    let rejections: Vec<_> =
        answer.rejections.iter().map(|r| (r.batch, r.group, r.reason.as_str(), r.indices.clone())).collect();
    assert_eq!(
        rejections,
        [(7, 0, "NON_FINITE", vec![1]), (7, 1, "UNKNOWN_SERIES", vec![]), (7, 2, "FUTURE", vec![1])]
    );
    let read: Vec<_> = user.readings("lab.a").await.iter().map(|r| ((r.0 - NOW) / SECOND, r.1)).collect();
    assert_eq!(read, [(0, 1.0), (2, 3.0), (250, 4.0)]);
}

pub async fn a_batch_sent_again_is_known(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut ingest = user.open().await;
    let series = ingest.numbers(&["lab.a", "lab.b"]).await;
    let values: Vec<f64> = (0..500).map(f64::from).collect();
    let mut first = batch(1, vec![group(series[0], NOW - 1000 * SECOND, SECOND, &values)]);
    first.batch_id = "x".into();
    ingest.send(first.clone()).await;
    assert_eq!(ingest.through(1).await[0].duplicates, 0);
    // without the id the readings themselves are recognised
    ingest.send(pb::ReadingBatch { number: 2, batch_id: String::new(), ..first.clone() }).await;
    assert_eq!(ingest.through(2).await[0].duplicates, 500);
    // with it nothing is looked at: the first answer comes again
    first.number = 3;
    ingest.send(first.clone()).await;
    assert_eq!(ingest.through(3).await[0].duplicates, 0);
    assert_eq!(user.readings("lab.a").await.len(), 500);
    // the id with anything else is refused, that batch alone, sent by itself or in the same commit
    let other = |number, id: &str, value| {
        let mut both = group(series[0], NOW, SECOND, &[value]);
        both.channels.push(pb::Channel { series: series[1], ..both.channels[0].clone() });
        pb::ReadingBatch { batch_id: id.into(), ..batch(number, vec![both]) }
    };
    for (number, id, value) in [(4, "x", 7.0), (5, "y", 8.0), (6, "y", 9.0), (7, "y", 8.0), (8, "z", 6.0)] {
        ingest.send(other(number, id, value)).await;
    }
    let answers = ingest.through(8).await;
    let refused: Vec<_> = answers.iter().flat_map(|answer| &answer.rejections).collect();
    let places: Vec<_> = refused.iter().map(|r| (r.batch, r.group, r.channel, r.indices.len())).collect();
    assert_eq!(places, [(4, 0, 0, 0), (4, 0, 1, 0), (6, 0, 0, 0), (6, 0, 1, 0)]);
    assert!(refused.iter().all(|r| r.reason == "INVALID" && r.message.contains("batch_id")));
    assert_eq!(user.readings("lab.a").await.last(), Some(&(NOW, 6.0)));
    // and once more when the answer is an old one
    ingest.send(other(9, "y", 5.0)).await;
    assert_eq!(ingest.through(9).await.iter().map(|answer| answer.rejections.len()).sum::<usize>(), 2);
    assert_eq!(user.readings("lab.a").await.last(), Some(&(NOW, 6.0)));
}

pub async fn a_wrong_number_or_size_ends_the_stream(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    ingest.send(batch(5, vec![group(number, NOW, SECOND, &[1.0])])).await;
    ingest.through(5).await;
    ingest.send(batch(5, vec![group(number, NOW + SECOND, SECOND, &[1.0])])).await;
    assert_eq!(ingest.next().await.expect_err("same number").code(), Code::Invalid);
    let mut ingest = user.open().await;
    ingest.numbers(&["lab.a"]).await;
    let values = vec![1.0; 10_001];
    ingest.send(batch(1, vec![group(number, NOW - 20_000 * SECOND, SECOND, &values)])).await;
    assert_eq!(ingest.next().await.expect_err("too many").code(), Code::Invalid);
    assert_eq!(user.readings("lab.a").await, [(NOW, 1.0)]);
}

pub async fn f30_a_sender_that_never_ends_is_ended_in_its_time(engine: Engine) {
    const TIME: Duration = Duration::from_secs(2);
    let system = System::start(engine).await;
    let user = system.operator();
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(outgoing));
    request.set_timeout(TIME);
    let began = tokio::time::Instant::now();
    let answers = user.act(user.client().ingest_stream(request)).await.expect("stream").into_inner().boxed();
    let mut ingest = Ingest { requests, answers };
    let number = ingest.numbers(&["lab.a"]).await[0];
    let mut sent: u32 = 0;
    loop {
        sent += 1;
        let batch = batch(u64::from(sent), vec![group(number, NOW + i64::from(sent) * SECOND, SECOND, &[1.0])]);
        let message = Some(pb::ingest_stream_request::Message::Batch(batch));
        // fails once the stream has ended, which is heard from its answers
        let _ = ingest.requests.send(pb::IngestStreamRequest { message }).await;
        match ingest.answers.next().await {
            Some(answer) => assert_eq!(answer.expect("acknowledged").through, u64::from(sent)),
            None => break,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(sent > 1 && began.elapsed() < TIME + Duration::from_secs(1), "{sent} in {:?}", began.elapsed());
    let stored = user.readings("lab.a").await.len();
    assert_eq!(stored, sent as usize - 1, "what was acknowledged, and nothing behind the end");
}
