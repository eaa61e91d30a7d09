//! Lists, pages, aggregates, over blocks and tails.

use std::collections::BTreeMap;
use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::{Code, page, time};

use crate::system::{Engine, NOW, SECOND, System, User, batch, call, group, plain, reading};

const START: i64 = NOW - 50_000 * SECOND;

/// A repeatable sequence that looks random.
pub fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    })
}

/// Sends readings of one sensor in columns.
pub async fn fill(user: &User, sensor_id: &str, start: i64, step: i64, values: &[f64]) {
    let mut ingest = user.open().await;
    let number = ingest.numbers(&[sensor_id]).await[0];
    let parts: Vec<_> = values.chunks(1000).collect();
    for (i, part) in parts.iter().enumerate() {
        let start = start + i as i64 * 1000 * step;
        ingest.send(batch(i as u64 + 1, vec![group(number, start, step, part)])).await;
    }
    let answers = ingest.through(parts.len() as u64).await;
    assert!(answers.iter().all(|answer| answer.rejections.is_empty()), "{answers:?}");
}

/// Leaves the sealing, which nobody outside can see, some time: what is asserted holds before and after it.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

fn times_and_values(values: &[f64]) -> Vec<(i64, f64)> {
    values.iter().enumerate().map(|(i, v)| (START + i as i64 * SECOND, *v)).collect()
}

pub async fn blocks_and_tail_read_as_one(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    let values: Vec<f64> = noise(1).take(5_500).map(|n| (n % 10_000) as f64 / 100.0).collect();
    fill(&user, "lab.a", START, SECOND, &values).await;
    let expected = times_and_values(&values);
    // read while it is being sealed, and after
    for _ in 0..20 {
        assert_eq!(user.readings("lab.a").await, expected);
    }
    system.restart().await;
    let user = system.operator();
    assert_eq!(user.readings("lab.a").await, expected);
    assert_eq!(crate::stream::streamed(&user, "lab.a").await, expected);
    let part = pb::ListReadingsRequest {
        sensor_id: "lab.a".into(),
        start_time: Some(time::from_nanos(START + 1000 * SECOND)),
        end_time: Some(time::from_nanos(START + 3001 * SECOND)),
        page_size: 700,
        ..Default::default()
    };
    let read: Vec<_> = user.list(part).await.expect("list").iter().map(plain).collect();
    assert_eq!(read, expected[1000..3001]);
}

pub async fn late_readings_and_revisions_find_their_place_in_sealed_blocks(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    let values: Vec<f64> = (0..4_000).map(f64::from).collect();
    fill(&user, "lab.a", START, 2 * SECOND, &values).await;
    system.restart().await;
    let user = system.operator();
    let mut expected: BTreeMap<i64, f64> =
        values.iter().enumerate().map(|(i, v)| (START + i as i64 * 2 * SECOND, *v)).collect();
    let sent = vec![
        reading("lab.a", START + 100 * SECOND, 50.0),
        reading("lab.a", START + 200 * SECOND, -1.0),
        reading("lab.a", START + 301 * SECOND, 0.5),
        reading("lab.a", START - SECOND, 7.0),
    ];
    let answer = user.send(sent.clone()).await.expect("taken");
    let verdicts: Vec<_> = answer.results.iter().map(|r| (r.index, r.verdict())).collect();
    let late = pb::Verdict::Late;
    assert_eq!(verdicts, [(0, pb::Verdict::Duplicate), (1, pb::Verdict::Revised), (2, late), (3, late)]);
    for late in &sent[1..] {
        expected.insert(plain(late).0, plain(late).1);
    }
    let all = |expected: &BTreeMap<i64, f64>| expected.iter().map(|(t, v)| (*t, *v)).collect::<Vec<_>>();
    assert_eq!(user.readings("lab.a").await, all(&expected));
    // the revision itself is sealed, and revised again
    let answer = user.send(sent).await.expect("taken");
    assert_eq!(answer.duplicates, 4);
    let more: Vec<f64> = (0..2_000).map(f64::from).collect();
    let end = START + 8_000 * SECOND;
    fill(&user, "lab.a", end, SECOND, &more).await;
    expected.extend(more.iter().enumerate().map(|(i, v)| (end + i as i64 * SECOND, *v)));
    settle().await;
    let answer = user.send(vec![reading("lab.a", START + 200 * SECOND, -2.0)]).await.expect("taken");
    assert_eq!(answer.results[0].verdict(), pb::Verdict::Revised);
    expected.insert(START + 200 * SECOND, -2.0);
    assert_eq!(user.readings("lab.a").await, all(&expected));
    system.crash().await;
    let user = system.operator();
    assert_eq!(user.readings("lab.a").await, all(&expected));
    let request = pb::AggregateReadingsRequest { sensor_ids: vec!["lab.a".into()], ..Default::default() };
    let whole = &user.buckets(request).await[0];
    assert_eq!(whole.count as usize, expected.len());
    assert!((whole.sum.expect("a sum") - expected.values().sum::<f64>()).abs() < 1e-6);
    assert_eq!((whole.min, whole.first), (Some(-2.0), Some(7.0)));
}

pub async fn pages_go_both_ways_and_are_complete(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let values: Vec<f64> = (0..2_500).map(f64::from).collect();
    fill(&user, "lab.a", START, SECOND, &values).await;
    let expected = times_and_values(&values);
    for newest_first in [false, true] {
        let request =
            pb::ListReadingsRequest { sensor_id: "lab.a".into(), page_size: 333, newest_first, ..Default::default() };
        let first = call!(user.list_readings(request.clone())).expect("page");
        assert_eq!(first.readings.len(), 333);
        let mut read: Vec<_> = user.list(request.clone()).await.expect("list").iter().map(plain).collect();
        if newest_first {
            read.reverse();
        }
        assert_eq!(read, expected);
        // a token is good for its own list only
        let other =
            pb::ListReadingsRequest { newest_first: !newest_first, page_token: first.next_page_token, ..request };
        assert_eq!(call!(user.list_readings(other)).expect_err("foreign token").code(), Code::Invalid);
    }
    // and leads nowhere else, whoever made it
    let (from, to) = (expected[10].0, expected[20].0);
    for (newest_first, outside) in [(false, from - 10 * SECOND), (true, to + 10 * SECOND)] {
        let query = format!("readings/default/lab.a/{from}/{to}/{newest_first}");
        let request = pb::ListReadingsRequest {
            sensor_id: "lab.a".into(),
            start_time: Some(time::from_nanos(from)),
            end_time: Some(time::from_nanos(to)),
            newest_first,
            page_token: page::token(&query, &outside.to_string()),
            ..Default::default()
        };
        let mut read: Vec<_> = call!(user.list_readings(request)).expect("page").readings.iter().map(plain).collect();
        read.sort_by_key(|reading| reading.0);
        assert_eq!(read, expected[10..20]);
    }
    let backwards = pb::ListReadingsRequest {
        sensor_id: "lab.a".into(),
        start_time: Some(time::from_nanos(NOW)),
        end_time: Some(time::from_nanos(START)),
        ..Default::default()
    };
    assert_eq!(call!(user.list_readings(backwards)).expect_err("backwards").code(), Code::Invalid);
    let latest = pb::ListLatestReadingsRequest { page_size: 1, ..Default::default() };
    user.send(vec![reading("lab.b", NOW, 1.0)]).await.expect("taken");
    let page = call!(user.list_latest_readings(latest.clone())).expect("page");
    assert_eq!(page.readings[0].sensor_id, "lab.a");
    let next = pb::ListLatestReadingsRequest { page_token: page.next_page_token, ..latest };
    let page = call!(user.list_latest_readings(next)).expect("page");
    assert_eq!((page.readings[0].sensor_id.as_str(), page.next_page_token.as_str()), ("lab.b", ""));
}

pub async fn aggregates_equal_a_naive_recount(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    let values: Vec<f64> = noise(9).take(7_000).map(|n| (n % 1_000_003) as f64 / 1000.0).collect();
    fill(&user, "lab.a", START, SECOND, &values).await;
    let all = times_and_values(&values);
    for round in 0..2 {
        for (interval, page_size) in [(60, 7), (3600, 1000), (86_400, 1000), (7, 10_000)] {
            let width = interval * SECOND;
            let (from, to) = (START + 100 * SECOND, START + 6_501 * SECOND);
            let request = pb::AggregateReadingsRequest {
                sensor_ids: vec!["lab.a".into()],
                interval: Some(prost_types::Duration { seconds: interval, nanos: 0 }),
                start_time: Some(time::from_nanos(from)),
                end_time: Some(time::from_nanos(to)),
                page_size,
                ..Default::default()
            };
            let mut naive: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
            for (time, value) in all.iter().filter(|(t, _)| *t >= from.div_euclid(width) * width && *t < to) {
                naive.entry(time.div_euclid(width) * width).or_default().push(*value);
            }
            let buckets = user.buckets(request).await;
            assert_eq!(buckets.len(), naive.len(), "{interval} s, round {round}");
            for (bucket, (start, values)) in buckets.iter().zip(naive) {
                let sum: f64 = values.iter().sum();
                assert_eq!(time::to_nanos(bucket.start.as_ref().expect("start")), Some(start));
                assert_eq!(bucket.count as usize, values.len());
                let (got, mean) = (bucket.sum.expect("a sum"), bucket.mean.expect("a mean"));
                assert!((got - sum).abs() <= 1e-9 * sum.abs());
                assert!((mean - sum / values.len() as f64).abs() <= 1e-9 * mean.abs());
                assert_eq!(bucket.min, Some(values.iter().copied().fold(f64::INFINITY, f64::min)));
                assert_eq!(bucket.max, Some(values.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
                assert_eq!((bucket.first, bucket.last), (Some(values[0]), Some(values[values.len() - 1])));
                assert_eq!((bucket.stddev, bucket.rate), (None, None), "not asked for");
            }
        }
        system.restart().await;
    }
    let user = system.operator();
    let short = pb::AggregateReadingsRequest {
        sensor_ids: vec!["lab.a".into()],
        interval: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        ..Default::default()
    };
    assert_eq!(call!(user.aggregate_readings(short)).expect_err("too short").fields()[0].field, "interval");
    // two sensors keep step over the pages
    fill(&user, "lab.b", START + 3_000 * SECOND, SECOND, &values[..100]).await;
    let request = pb::AggregateReadingsRequest {
        sensor_ids: vec!["lab.a".into(), "lab.b".into()],
        interval: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        page_size: 10,
        ..Default::default()
    };
    let (mut request, mut counts) = (request, [0u32; 2]);
    loop {
        let page = call!(user.aggregate_readings(request.clone())).expect("page");
        for (count, sensor) in counts.iter_mut().zip(&page.sensors) {
            assert!(sensor.buckets.len() <= 10);
            *count += sensor.buckets.iter().map(|b| b.count).sum::<u32>();
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(counts, [7_000, 100]);
}

pub async fn what_was_just_written_is_read_with_its_cursor(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    for i in 0..20 {
        let answer = user.send(vec![reading("lab.a", NOW + i, i as f64)]).await.expect("taken");
        let request =
            pb::ListReadingsRequest { sensor_id: "lab.a".into(), min_seq: answer.cursor, ..Default::default() };
        assert_eq!(call!(user.list_readings(request)).expect("list").readings.len() as i64, i + 1);
    }
    let request = pb::ListReadingsRequest { sensor_id: "lab.a".into(), min_seq: "forged".into(), ..Default::default() };
    let error = call!(user.list_readings(request)).expect_err("forged");
    assert_eq!(error.fields()[0].field, "min_seq");
}
