//! Summaries beyond counts and extremes: deviation, percentiles, counters, the calendar, gaps; and the points of a chart.

use std::collections::BTreeMap;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{CalendarUnit, Gap, Statistic};
use sensormesh_types::{Code, time};

use crate::history::{fill, noise};
use crate::system::{Engine, NOW, SECOND, System, User, call, reading};

const START: i64 = NOW - 50_000 * SECOND;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn at(nanos: i64) -> Option<prost_types::Timestamp> {
    Some(time::from_nanos(nanos))
}

fn parsed(text: &str) -> i64 {
    i64::try_from(text.parse::<jiff::Timestamp>().expect("a time").as_nanosecond()).expect("in range")
}

fn request(sensor_id: &str, statistics: &[Statistic]) -> pb::AggregateReadingsRequest {
    pb::AggregateReadingsRequest {
        sensor_ids: vec![sensor_id.to_owned()],
        statistics: statistics.iter().map(|statistic| *statistic as i32).collect(),
        ..Default::default()
    }
}

fn start(bucket: &pb::Bucket) -> i64 {
    time::to_nanos(bucket.start.as_ref().expect("a start")).expect("in range")
}

pub async fn statistics_equal_a_naive_recount_on_every_page(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let values: Vec<f64> = noise(5).take(5_000).map(|n| (n % 10_007) as f64 / 10.0).collect();
    fill(&user, "lab.a", START, SECOND, &values).await;
    let width = 700;
    let mut naive: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (i, value) in values.iter().enumerate() {
        let time = START + i as i64 * SECOND;
        naive.entry(time.div_euclid(width * SECOND) * width * SECOND).or_default().push(*value);
    }
    for page_size in [1, 3, 1000] {
        let request = pb::AggregateReadingsRequest {
            interval: seconds(width),
            percentiles: vec![50.0, 0.0, 99.9],
            page_size,
            ..request("lab.a", &[Statistic::Stddev, Statistic::Count, Statistic::Mean])
        };
        let buckets = user.buckets(request).await;
        assert_eq!(buckets.iter().map(start).collect::<Vec<_>>(), naive.keys().copied().collect::<Vec<_>>());
        for (bucket, values) in buckets.iter().zip(naive.values()) {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            assert_eq!(bucket.count as usize, values.len());
            assert!((bucket.stddev.expect("asked for") - deviation).abs() < 1e-6);
            assert!((bucket.mean.expect("asked for") - mean).abs() < 1e-6);
            assert_eq!((bucket.min, bucket.sum, bucket.increase), (None, None, None), "not asked for");
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            for (p, got) in [50.0, 0.0, 99.9].iter().zip(&bucket.percentiles) {
                let rank = (sorted.len() - 1) as f64 * p / 100.0;
                let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
                assert!((got - (low + (high - low) * rank.fract())).abs() < 1e-6, "p{p}: {got}");
            }
            assert_eq!(bucket.percentiles.len(), 3);
        }
    }
}

pub async fn a_counters_increases_add_up_over_resets_and_pages(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    // rises by 2 a second and begins again every 1,000 readings, once in the middle of an interval
    let values: Vec<f64> = (0..4_500).map(|i| f64::from(i % 1000 * 2 + 1)).collect();
    fill(&user, "lab.meter", START, SECOND, &values).await;
    let steps = |pair: &[f64]| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] };
    let total: f64 = values.windows(2).map(steps).sum();
    let wanted = [Statistic::Increase, Statistic::Rate];
    let whole = user.buckets(request("lab.meter", &wanted)).await;
    assert_eq!(whole[0].increase, Some(total));
    assert_eq!(whole[0].rate, Some(total / 4_499.0));
    for page_size in [1, 2, 1000] {
        let buckets = user
            .buckets(pb::AggregateReadingsRequest {
                interval: seconds(400),
                page_size,
                ..request("lab.meter", &wanted)
            })
            .await;
        assert!(buckets.len() > 10);
        let sum: f64 = buckets.iter().filter_map(|bucket| bucket.increase).sum();
        assert_eq!(sum, total, "pages of {page_size}");
        assert!(buckets.iter().skip(1).any(|bucket| bucket.rate == Some(2.0)), "{buckets:?}");
    }
    user.send(vec![reading("lab.once", NOW, 7.0)]).await.expect("taken");
    let once = user.buckets(request("lab.once", &wanted)).await;
    assert_eq!((once[0].count, once[0].increase, once[0].rate), (1, None, None));
}

pub async fn days_are_those_of_the_time_zone(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    for (sensor, zone, from, hours) in [
        ("lab.spring", "Europe/Berlin", "2025-03-28T23:00:00Z", [24, 23, 24]),
        ("lab.autumn", "Europe/Berlin", "2025-10-24T22:00:00Z", [24, 25, 24]),
        ("lab.march", "America/New_York", "2025-03-08T05:00:00Z", [24, 23, 24]),
        ("lab.november", "America/New_York", "2025-11-01T04:00:00Z", [24, 25, 24]),
    ] {
        let from = parsed(from);
        let readings = (0..72).map(|hour| reading(sensor, from + hour * 3600 * SECOND, 1.0)).collect();
        let request = pb::IngestReadingsRequest { readings, batch_id: String::new(), backfill: true };
        assert_eq!(call!(user.ingest_readings(request)).expect("taken").accepted, 72);
        let days = pb::AggregateReadingsRequest {
            calendar: CalendarUnit::Day as i32,
            time_zone: zone.to_owned(),
            page_size: 2,
            ..request_of_sums(sensor)
        };
        let buckets = user.buckets(days.clone()).await;
        let mut expected = from;
        let mut left = 72;
        for (bucket, hours) in buckets.iter().zip(hours) {
            assert_eq!((start(bucket), bucket.count), (expected, hours.min(left) as u32), "{sensor}");
            expected += hours * 3600 * SECOND;
            left -= hours.min(left);
        }
        let weeks = pb::AggregateReadingsRequest { calendar: CalendarUnit::Month as i32, ..days };
        let months = user.buckets(weeks).await;
        assert_eq!(months.iter().map(|month| month.count).sum::<u32>(), 72);
        let first = jiff::Timestamp::from_nanosecond(i128::from(start(&months[0]))).expect("a time");
        let first = first.in_tz(zone).expect("a zone");
        assert_eq!((first.day(), first.hour(), first.minute()), (1, 0, 0), "{sensor}");
    }
}

fn request_of_sums(sensor: &str) -> pb::AggregateReadingsRequest {
    request(sensor, &[Statistic::Sum])
}

/// Seconds from now, count, mean, sum, percentiles.
type Row = (i64, u32, Option<f64>, Option<f64>, Vec<f64>);

async fn filled(user: &User, gap: Gap, page_size: i32) -> Vec<Row> {
    let request = pb::AggregateReadingsRequest {
        interval: seconds(10),
        start_time: at(NOW - 100 * SECOND),
        end_time: at(NOW),
        percentiles: vec![100.0],
        gap: gap as i32,
        page_size,
        ..request("lab.a", &[Statistic::Sum, Statistic::Mean])
    };
    let buckets = user.buckets(request).await;
    buckets.iter().map(|b| ((start(b) - NOW) / SECOND, b.count, b.mean, b.sum, b.percentiles.clone())).collect()
}

pub async fn gaps_are_filled_as_asked_on_every_page(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    // before the range, in its third and seventh interval, and after it
    let sent = [(-205, 9.0), (-75, 1.0), (-74, 3.0), (-35, 10.0), (5, 99.0)];
    let readings = sent.iter().map(|(second, value)| reading("lab.a", NOW + second * SECOND, *value)).collect();
    user.send(readings).await.expect("taken");
    for page_size in [1, 2, 3, 1000] {
        let none = filled(&user, Gap::None, page_size).await;
        assert_eq!(none.iter().map(|b| b.0).collect::<Vec<_>>(), [-80, -40]);
        let null = filled(&user, Gap::Null, page_size).await;
        assert_eq!(null.iter().map(|b| b.0).collect::<Vec<_>>(), (-10..0).map(|i| i * 10).collect::<Vec<_>>());
        let means = |buckets: &[Row]| buckets.iter().map(|b| b.2).collect::<Vec<_>>();
        let (two, ten) = (Some(2.0), Some(10.0));
        assert_eq!(means(&null), [None, None, two, None, None, None, ten, None, None, None]);
        let previous = filled(&user, Gap::Previous, page_size).await;
        assert_eq!(means(&previous), [None, None, two, two, two, two, ten, ten, ten, ten], "pages of {page_size}");
        let linear = filled(&user, Gap::Linear, page_size).await;
        let line = [None, None, two, Some(4.0), Some(6.0), Some(8.0), ten, None, None, None];
        assert_eq!(means(&linear), line, "pages of {page_size}");
        for buckets in [previous, linear] {
            assert_eq!(buckets.iter().map(|b| b.1).sum::<u32>(), 3, "a gap counts nothing");
            assert_eq!(buckets.iter().filter_map(|b| b.3).sum::<f64>(), 14.0, "and adds nothing up");
            assert_eq!(buckets[2].4, [3.0]);
            assert_eq!(buckets[3].4.len(), 1, "percentiles are levels, too");
        }
    }
}

pub async fn what_makes_no_sense_is_refused_by_its_field(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    user.send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    let plain = || request("lab.a", &[]);
    let refused = [
        ("gap", pb::AggregateReadingsRequest { gap: Gap::Null as i32, interval: seconds(60), ..plain() }),
        (
            "calendar",
            pb::AggregateReadingsRequest { calendar: CalendarUnit::Day as i32, interval: seconds(60), ..plain() },
        ),
        ("time_zone", pb::AggregateReadingsRequest { time_zone: "Mars/Olympus".into(), ..plain() }),
        ("percentiles[0]", pb::AggregateReadingsRequest { percentiles: vec![101.0], ..plain() }),
        ("percentiles[0]", pb::AggregateReadingsRequest { percentiles: vec![f64::NAN], ..plain() }),
        ("statistics[0]", pb::AggregateReadingsRequest { statistics: vec![0], ..plain() }),
        ("statistics[0]", pb::AggregateReadingsRequest { statistics: vec![77], ..plain() }),
        ("interval", pb::AggregateReadingsRequest { interval: seconds(0), ..plain() }),
    ];
    for (field, request) in refused {
        let error = call!(user.aggregate_readings(request)).expect_err(field);
        assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, field));
    }
    for (max_points, sensors) in [(2, 1), (-1, 1), (10_000, 21)] {
        let request = pb::DownsampleReadingsRequest {
            sensor_ids: vec!["lab.a".to_owned(); sensors],
            max_points,
            ..Default::default()
        };
        let error = call!(user.downsample_readings(request)).expect_err("refused");
        assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, "max_points"));
    }
    let unknown = pb::DownsampleReadingsRequest { sensor_ids: vec!["lab.none".into()], ..Default::default() };
    assert_eq!(call!(user.downsample_readings(unknown)).expect_err("unknown").code(), Code::NotFound);
}

pub async fn a_chart_keeps_its_ends_and_its_peaks(engine: Engine) {
    let mut system = System::start(engine).await;
    let user = system.operator();
    let mut values: Vec<f64> = noise(3).take(6_000).map(|n| (n % 100) as f64).collect();
    values[4_321] = 5_000.0;
    fill(&user, "lab.a", START, SECOND, &values).await;
    fill(&user, "lab.b", START, SECOND, &values[..50]).await;
    for _ in 0..2 {
        let user = system.operator();
        let request = pb::DownsampleReadingsRequest {
            sensor_ids: vec!["lab.b".into(), "lab.a".into()],
            start_time: at(START + 10 * SECOND),
            max_points: 100,
            ..Default::default()
        };
        let answer = call!(user.downsample_readings(request)).expect("points");
        assert!(!answer.stale && answer.as_of.is_some());
        let [b, a] = &answer.sensors[..] else { panic!("two sensors") };
        assert_eq!((b.sensor_id.as_str(), b.readings, b.points.len()), ("lab.b", 40, 40));
        assert_eq!((a.sensor_id.as_str(), a.readings, a.points.len()), ("lab.a", 5_990, 100));
        let plain =
            |point: &pb::Point| (time::to_nanos(point.time.as_ref().expect("time")).expect("in range"), point.value);
        let points: Vec<_> = a.points.iter().map(plain).collect();
        assert_eq!(points[0], (START + 10 * SECOND, values[10]));
        assert_eq!(points[99], (START + 5_999 * SECOND, values[5_999]));
        assert!(points.contains(&(START + 4_321 * SECOND, 5_000.0)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        // the same from blocks as from the tail
        system.restart().await;
    }
}
