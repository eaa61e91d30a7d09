//! History and summaries as CSV.

use futures::StreamExt as _;
use sensormesh_proto::devices::v1::Sensor;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{CalendarUnit, Gap, Statistic};
use sensormesh_types::{Code, Error, Result, time};

use crate::devices::sensor;
use crate::history::fill;
use crate::system::{Engine, NOW, SECOND, System, User, call, eventually, reading};

async fn table(user: &User, request: pb::ExportReadingsRequest) -> Result<String> {
    let mut client = user.client();
    let mut stream = user.act(client.export_readings(request)).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = stream.next().await {
        let body = message.map_err(Error::from)?.body.expect("a body");
        assert_eq!(body.content_type, "text/csv; charset=utf-8; header=present");
        bytes.extend_from_slice(&body.data);
    }
    Ok(String::from_utf8(bytes).expect("text"))
}

async fn summaries(user: &User, request: pb::ExportAggregatesRequest) -> Result<String> {
    let mut client = user.client();
    let mut stream = user.act(client.export_aggregates(request)).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = stream.next().await {
        bytes.extend_from_slice(&message.map_err(Error::from)?.body.expect("a body").data);
    }
    Ok(String::from_utf8(bytes).expect("text"))
}

pub async fn history_is_a_table_of_everything_in_the_zone_asked_for(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let odd = Sensor { unit: "=1+1".into(), ..sensor("lab.a", "", Some((-7.0, 0.0))) };
    system.devices.put("default", odd);
    let known = || async {
        let list = pb::ListReadingsRequest { sensor_id: "lab.a".into(), ..Default::default() };
        call!(user.list_readings(list)).is_ok()
    };
    eventually("the sensor is known", known).await;
    // over the end of summer time in Berlin, by half an hour
    let autumn = time::to_nanos(&prost_types::Timestamp { seconds: 1_761_433_200, nanos: 0 }).expect("in range");
    let readings = (0..5).map(|i| reading("lab.a", autumn + i * 1800 * SECOND, -1.5 * (i + 1) as f64)).collect();
    let sent = pb::IngestReadingsRequest { readings, batch_id: String::new(), backfill: true };
    assert_eq!(call!(user.ingest_readings(sent)).expect("taken").accepted, 5);
    let request = |zone: &str| pb::ExportReadingsRequest {
        sensor_id: "lab.a".into(),
        time_zone: zone.into(),
        ..Default::default()
    };
    let text = table(&user, request("Europe/Berlin")).await.expect("a table");
    let rows: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(rows[0], "time,sensor_id,value,unit,quality");
    assert_eq!(rows[1], "2025-10-26T01:00:00+02:00,lab.a,-1.5,'=1+1,", "{text}");
    assert_eq!(rows[2], "2025-10-26T01:30:00+02:00,lab.a,-3,'=1+1,");
    assert_eq!(rows[4], "2025-10-26T02:30:00+02:00,lab.a,-6,'=1+1,");
    assert_eq!(rows[5], "2025-10-26T02:00:00+01:00,lab.a,-7.5,'=1+1,OUT_OF_RANGE", "the hour comes again");
    assert_eq!(rows[6..], [""], "every row ends with CR LF");
    let utc = table(&user, request("")).await.expect("a table");
    assert!(utc.contains("\r\n2025-10-25T23:00:00+00:00,"), "{utc}");

    // many pages of rows, many messages of bytes
    let values: Vec<f64> = (0..12_000).map(|i| f64::from(i) / 8.0).collect();
    fill(&user, "lab.b", NOW - 20_000 * SECOND, SECOND, &values).await;
    let text = table(&user, pb::ExportReadingsRequest { sensor_id: "lab.b".into(), ..Default::default() }).await;
    let text = text.expect("a table");
    let read: Vec<f64> =
        text.lines().skip(1).map(|row| row.split(',').nth(2).expect("a value").parse().expect("a number")).collect();
    assert_eq!(read, values);
}

pub async fn summaries_are_a_table_sensor_after_sensor(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let values: Vec<f64> = (0..3_600).map(|i| f64::from(i % 60)).collect();
    fill(&user, "lab.b", NOW - 7_200 * SECOND, SECOND, &values).await;
    fill(&user, "lab.a", NOW - 3_600 * SECOND, SECOND, &values).await;
    let request = pb::ExportAggregatesRequest {
        sensor_ids: vec!["lab.b".into(), "lab.a".into()],
        interval: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        time_zone: "America/New_York".into(),
        statistics: vec![Statistic::Max as i32, Statistic::Mean as i32],
        percentiles: vec![99.5],
        ..Default::default()
    };
    let text = summaries(&user, request.clone()).await.expect("a table");
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows[0], "start,sensor_id,unit,count,max,mean,p99.5");
    assert_eq!(rows[1], "2025-12-31T17:00:00-05:00,lab.b,[ppm],2,1,0.5,0.995");
    assert_eq!(rows.len(), 1 + 2 * 1_800, "more than one page of each");
    assert!(rows[1..=1_800].iter().all(|row| row.contains(",lab.b,")));
    assert!(rows[1_801].starts_with("2025-12-31T18:00:00-05:00,lab.a,"));

    let days = pb::ExportAggregatesRequest {
        interval: None,
        calendar: CalendarUnit::Day as i32,
        start_time: Some(time::from_nanos(NOW - 3 * 86_400 * SECOND)),
        end_time: Some(time::from_nanos(NOW)),
        gap: Gap::Null as i32,
        percentiles: Vec::new(),
        statistics: vec![Statistic::Sum as i32, Statistic::Count as i32],
        sensor_ids: vec!["lab.a".into()],
        ..request
    };
    let text = summaries(&user, days).await.expect("a table");
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows[0], "start,sensor_id,unit,count,sum");
    assert_eq!(rows[1], "2025-12-28T00:00:00-05:00,lab.a,[ppm],0,");
    assert_eq!(rows[4], "2025-12-31T00:00:00-05:00,lab.a,[ppm],3600,106200");
    assert_eq!(rows.len(), 5);
}

pub async fn an_export_is_refused_before_its_first_byte(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let wrong =
        pb::ExportReadingsRequest { sensor_id: "lab.a".into(), time_zone: "Nowhere".into(), ..Default::default() };
    let error = table(&user, wrong).await.expect_err("no zone");
    assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::Invalid, "time_zone"));
    let unknown = pb::ExportReadingsRequest { sensor_id: "lab.none".into(), ..Default::default() };
    assert_eq!(table(&user, unknown).await.expect_err("unknown").code(), Code::NotFound);
    let unknown = pb::ExportAggregatesRequest { sensor_ids: vec!["lab.none".into()], ..Default::default() };
    assert_eq!(summaries(&user, unknown).await.expect_err("unknown").code(), Code::NotFound);
    let other = system.user("other", sensormesh_types::Role::Viewer, &[]);
    user.send(vec![reading("lab.a", NOW, 1.0)]).await.expect("taken");
    let foreign = pb::ExportReadingsRequest { sensor_id: "lab.a".into(), ..Default::default() };
    assert_eq!(table(&other, foreign).await.expect_err("foreign").code(), Code::NotFound);
}
