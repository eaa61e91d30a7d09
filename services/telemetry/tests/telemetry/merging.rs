//! Blocks are merged, and nobody who reads notices.

use std::time::Duration;

use futures::StreamExt as _;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::wire;
use sensormesh_telemetry::Config;

use crate::history::fill;
use crate::stream::{streamed, values};
use crate::system::{Engine, NOW, SECOND, System, batch, eventually, group};

fn config() -> Config {
    Config { unsealed_readings: 100, merge_every: Duration::from_millis(50), ..Config::default() }
}

pub async fn blocks_are_merged_and_the_readings_stay(engine: Engine) {
    let mut system = System::with(engine, config()).await;
    let user = system.operator();
    let start = NOW - 30_000 * SECOND;
    let mut expected: Vec<(i64, f64)> = (0..17_000).map(|i| (start + i * SECOND, i as f64)).collect();
    let plain: Vec<f64> = expected.iter().map(|(_, value)| *value).collect();
    fill(&user, "lab.a", start, SECOND, &plain).await;
    // revisions and late readings, each sealed by itself
    let mut ingest = user.open().await;
    let number = ingest.numbers(&["lab.a"]).await[0];
    for i in 0..20 {
        let place = (i * 843) as usize;
        expected[place].1 = -1.0;
        expected.push((start + (place as i64) * SECOND + 1, 0.5));
        let late = group(number, expected[place].0, 1, &[-1.0, 0.5]);
        ingest.send(batch(i as u64 + 1, [late])).await;
        ingest.through(i as u64 + 1).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    drop(ingest);
    expected.sort_by_key(|(time, _)| *time);
    eventually("the blocks are merged", || async { system.count_blocks().await <= 5 }).await;
    assert_eq!(streamed(&user, "lab.a").await, expected);
    system.restart().await;
    assert_eq!(streamed(&user, "lab.a").await, expected);
}

pub async fn a_reader_is_not_disturbed_by_a_merge(engine: Engine) {
    let mut config = config();
    config.merge_every = Duration::from_secs(4);
    let system = System::with(engine, config).await;
    let user = system.operator();
    let start = NOW - 400_000 * SECOND;
    let many: Vec<f64> = (0..300_000).map(|i| f64::from(i).sqrt()).collect();
    fill(&user, "lab.a", start, SECOND, &many).await;
    eventually("the readings are in blocks", || async { system.count_blocks().await > 250 }).await;
    // the reader takes a message and no more: what it looked up is merged meanwhile
    let request = pb::StreamReadingsRequest { sensor_ids: vec!["lab.a".into()], ..Default::default() };
    let mut client = user.client();
    let mut stream = user.act(client.stream_readings(request)).await.expect("stream").into_inner();
    let first = stream.next().await.expect("open").expect("message");
    let before = system.count_blocks().await;
    assert!(before > 250, "{before} blocks: merged before anybody read");
    eventually("the blocks are merged", || async { system.count_blocks().await < 100 }).await;
    let mut read = Vec::new();
    let mut take = |message: pb::StreamReadingsResponse| {
        for group in &message.groups {
            let times = wire::times(group.start_ns, group.tick_ns, &group.steps).expect("times");
            read.extend(times.into_iter().zip(values(&group.channels[0])));
        }
    };
    take(first);
    while let Some(message) = stream.next().await {
        take(message.expect("message"));
    }
    assert_eq!(read.len(), many.len());
    assert!(read.iter().zip(&many).enumerate().all(|(i, (r, v))| *r == (start + i as i64 * SECOND, *v)));
}
