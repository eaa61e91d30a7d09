//! Sends recorded data from a CSV file through the public interface, as a sender from outside would.

mod recording;
mod send;
mod time;

use std::path::Path;

use anyhow::{Result, bail};
use jiff::tz::Offset;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{Device, EnsureSensorsRequest, Sensor};
use sensormesh_proto::rooms::v1::rooms_service_client::RoomsServiceClient;
use sensormesh_proto::rooms::v1::{
    CreatePlaceRequest, CreatePlacementRequest, GetPlaceRequest, Place, PlaceKind, Placement,
};
use tonic::Code;

use crate::cli::ReplayArgs;
use crate::server::{self, Authorized, in_words};
use recording::{Options, Recording};

/// How fast the readings are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speed {
    Max,
    /// So many times as fast as they were recorded.
    Times(f64),
}

/// Runs the command.
pub async fn run(args: ReplayArgs, port_base: u16, data_dir: &Path) -> Result<()> {
    let offset = args.utc_offset.as_deref().map_or(Ok(Offset::UTC), time::parse_offset)?;
    let speed = speed(&args.speed)?;
    let options = Options { time_columns: &args.time_columns, offset, missing: &args.missing, columns: &args.columns };
    let recording = Recording::open(&args.file, &options)?;
    let channel = server::connect(&args.server, port_base, data_dir).await?;
    register(&channel, &recording, &args.device).await?;
    if let Some(room) = &args.room {
        place(&channel, &recording, &args.device, room).await?;
    }
    let summary = send::send(channel, &recording, &args.device, !args.live, speed).await?;
    println!("{summary}");
    if summary.accepted + summary.duplicates == 0 {
        bail!("no reading was accepted");
    }
    Ok(())
}

fn speed(text: &str) -> Result<Speed> {
    match text {
        "max" => Ok(Speed::Max),
        "real" => Ok(Speed::Times(1.0)),
        number => match number.parse() {
            Ok(times) if times > 0.0 => Ok(Speed::Times(times)),
            _ => bail!("--speed takes max, real, or a number above 0"),
        },
    }
}

fn sensor_id(device: &str, name: &str) -> String {
    format!("{device}.{name}")
}

async fn register(channel: &Authorized, recording: &Recording, device: &str) -> Result<()> {
    let sensors = recording.channels.iter().map(|channel| Sensor {
        sensor_id: sensor_id(device, &channel.name),
        device_id: device.to_owned(),
        unit: channel.unit.clone(),
        ..Sensor::default()
    });
    let request = EnsureSensorsRequest {
        sensors: sensors.collect(),
        devices: vec![Device { device_id: device.to_owned(), origin: "replay".to_owned(), ..Device::default() }],
        ..EnsureSensorsRequest::default()
    };
    DevicesServiceClient::new(channel.clone()).ensure_sensors(request).await.map_err(in_words)?;
    Ok(())
}

async fn place(channel: &Authorized, recording: &Recording, device: &str, room: &str) -> Result<()> {
    let mut rooms = RoomsServiceClient::new(channel.clone());
    match rooms.get_place(GetPlaceRequest { place_id: room.to_owned() }).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::NotFound => {
            let place = Place {
                place_id: room.to_owned(),
                name: room.to_owned(),
                kind: PlaceKind::Room.into(),
                ..Place::default()
            };
            let request = CreatePlaceRequest { place: Some(place), ..CreatePlaceRequest::default() };
            rooms.create_place(request).await.map_err(in_words)?;
        }
        Err(status) => return Err(in_words(status)),
    }
    for channel in &recording.channels {
        let placement = Placement {
            sensor_id: sensor_id(device, &channel.name),
            room_id: room.to_owned(),
            metric: channel.name.clone(),
            ..Placement::default()
        };
        place_sensor(&mut rooms, placement).await?;
    }
    Ok(())
}

/// `rooms` learns of a new sensor by following `devices`; for the moment that this takes, placing it is tried again.
async fn place_sensor(rooms: &mut RoomsServiceClient<Authorized>, placement: Placement) -> Result<()> {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(15);
    loop {
        let request =
            CreatePlacementRequest { placement: Some(placement.clone()), ..CreatePlacementRequest::default() };
        match rooms.create_placement(request).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::NotFound && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Err(status) => return Err(in_words(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_max_real_or_a_number() {
        assert_eq!(speed("max").expect("max"), Speed::Max);
        assert_eq!(speed("real").expect("real"), Speed::Times(1.0));
        assert_eq!(speed("60").expect("60"), Speed::Times(60.0));
        for wrong in ["", "0", "-1", "NaN", "fast"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }
}
