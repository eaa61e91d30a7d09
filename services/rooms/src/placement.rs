//! Placements: which sensor is which metric of which room, from when to when.

use sensormesh_types::{Error, Result};

/// A sensor in a room. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The sensor.
    pub sensor: String,
    /// The room.
    pub room: String,
    /// What the sensor is called in the room.
    pub metric: String,
    /// From when; 0 = since the sensor's first reading.
    pub start: i64,
    /// Until but not including when; `None` = still there.
    pub end: Option<i64>,
    /// The site of the sensor's device; empty = the whole tenant.
    pub site: String,
}

impl Placement {
    /// Whether the sensor is there still.
    pub fn is_current(&self) -> bool {
        self.end.is_none()
    }

    /// The placement, ended at `now`; one never ends before it has begun, also where clocks go back.
    #[must_use]
    pub fn ended(self, now: i64) -> Self {
        Self { end: Some(now.max(self.start + 1)), ..self }
    }

    fn overlaps(&self, start: i64, end: Option<i64>) -> bool {
        self.end.is_none_or(|own| start < own) && end.is_none_or(|end| self.start < end)
    }
}

/// Where somebody wants a sensor to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The sensor.
    pub sensor: String,
    /// The room.
    pub room: String,
    /// What it shall be called there.
    pub metric: String,
    /// From when; `None` = as early as no other placement of the sensor forbids.
    pub start: Option<i64>,
    /// Until when; `None` = for now on.
    pub end: Option<i64>,
    /// The site of the sensor's device.
    pub site: String,
}

/// What a wish comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is so already.
    Kept(Placement),
    /// The sensor stays in its room and has another name there from now on and for all of its stay.
    Renamed {
        /// As it was.
        from: Placement,
        /// As it will be.
        to: Placement,
    },
    /// A new placement, and the present one that ends where it starts.
    Placed {
        /// The present one, with its end.
        ended: Option<Placement>,
        /// The new one.
        placed: Placement,
    },
}

/// Decides how a wish fits to what is known of the sensor: `known` is every placement it ever had.
pub fn plan(wish: Wish, known: &[Placement], now: i64) -> Result<Plan> {
    let Wish { sensor, room, metric, start, end, site } = wish;
    if start.is_some_and(|start| start > now) {
        return Err(Error::invalid("placement.start_time", "must not be in the future"));
    }
    if end.is_some_and(|end| end > now || end <= start.unwrap_or(0)) {
        return Err(Error::invalid("placement.end_time", "must be after start_time and not in the future"));
    }
    let current = known.iter().find(|placement| placement.is_current());
    if let Some(current) = current.filter(|current| end.is_none() && current.room == room) {
        if current.metric == metric && start.is_none_or(|start| start == current.start) {
            return Ok(Plan::Kept(current.clone()));
        }
        if start.is_none_or(|start| start == current.start) {
            return Ok(Plan::Renamed { from: current.clone(), to: Placement { metric, ..current.clone() } });
        }
    }
    let start = match (start, current) {
        (Some(start), _) => start,
        (None, Some(current)) if end.is_none() => now.max(current.start + 1),
        (None, _) => known.iter().filter_map(|placement| placement.end).max().unwrap_or(0),
    };
    let mut ended = None;
    for placement in known.iter().filter(|placement| placement.overlaps(start, end)) {
        if placement.is_current() && end.is_none() && placement.start < start {
            ended = Some(Placement { end: Some(start), ..placement.clone() });
        } else {
            let message = format!(
                "sensor {sensor:?} was in room {:?} as {:?} at that time; choose a later start_time",
                placement.room, placement.metric
            );
            return Err(Error::precondition("PLACEMENT_OVERLAP", message).with("room", &*placement.room));
        }
    }
    Ok(Plan::Placed { ended, placed: Placement { sensor, room, metric, start, end, site } })
}

/// The metric a sensor is where nobody says: the text after its id's last dot.
pub fn default_metric(sensor: &str) -> String {
    as_metric(sensor.rsplit('.').next().unwrap_or(sensor))
}

/// A text made fit to be a metric: letters, digits, `_`, `.` and `-`, at most 64.
pub fn as_metric(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' };
    let metric: String = text.chars().map(fit).skip_while(|c| !c.is_ascii_alphanumeric()).take(64).collect();
    if metric.is_empty() { "value".to_owned() } else { metric }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(room: &str, metric: &str, start: Option<i64>, end: Option<i64>) -> Wish {
        Wish { sensor: "lab.co2".into(), room: room.into(), metric: metric.into(), start, end, site: String::new() }
    }

    fn placement(room: &str, metric: &str, start: i64, end: Option<i64>) -> Placement {
        Placement {
            sensor: "lab.co2".into(),
            room: room.into(),
            metric: metric.into(),
            start,
            end,
            site: String::new(),
        }
    }

    #[test]
    fn a_first_placement_has_the_whole_history() {
        let plan = plan(wish("a", "co2", None, None), &[], 100).expect("plan");
        assert_eq!(plan, Plan::Placed { ended: None, placed: placement("a", "co2", 0, None) });
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let known = [placement("a", "co2", 10, None)];
        for start in [None, Some(10)] {
            let plan = plan(wish("a", "co2", start, None), &known, 100).expect("plan");
            assert_eq!(plan, Plan::Kept(known[0].clone()));
        }
    }

    #[test]
    fn a_move_ends_the_present_placement_where_the_new_one_starts() {
        let known = [placement("a", "co2", 0, None)];
        for (start, at) in [(None, 100), (Some(50), 50)] {
            let plan = plan(wish("b", "co2", start, None), &known, 100).expect("plan");
            let ended = Some(placement("a", "co2", 0, Some(at)));
            assert_eq!(plan, Plan::Placed { ended, placed: placement("b", "co2", at, None) });
        }
    }

    #[test]
    fn another_metric_in_the_same_room_is_another_name() {
        let known = [placement("a", "co2", 10, None)];
        let plan = plan(wish("a", "co2_wall", None, None), &known, 100).expect("plan");
        assert_eq!(plan, Plan::Renamed { from: known[0].clone(), to: placement("a", "co2_wall", 10, None) });
    }

    #[test]
    fn a_sensor_is_never_in_two_rooms_at_once() {
        let known = [placement("a", "co2", 0, Some(40)), placement("b", "co2", 60, None)];
        for (start, end) in [(Some(30), None), (Some(60), None), (Some(10), Some(50)), (Some(50), Some(70))] {
            let error = plan(wish("c", "co2", start, end), &known, 100).expect_err("overlap");
            assert_eq!(error.reason(), "PLACEMENT_OVERLAP", "{start:?} {end:?}");
        }
        let between = plan(wish("c", "co2", None, Some(60)), &known, 100).expect("fits");
        assert_eq!(between, Plan::Placed { ended: None, placed: placement("c", "co2", 40, Some(60)) });
    }

    #[test]
    fn a_sensor_placed_again_continues_after_its_last_stay() {
        let known = [placement("a", "co2", 0, Some(40))];
        let plan = plan(wish("b", "co2", None, None), &known, 100).expect("plan");
        assert_eq!(plan, Plan::Placed { ended: None, placed: placement("b", "co2", 40, None) });
    }

    #[test]
    fn the_future_cannot_be_planned() {
        assert!(plan(wish("a", "co2", Some(101), None), &[], 100).is_err());
        assert!(plan(wish("a", "co2", Some(5), Some(5)), &[], 100).is_err());
        assert!(plan(wish("a", "co2", Some(5), Some(101)), &[], 100).is_err());
    }

    #[test]
    fn a_metric_is_the_end_of_the_sensors_id() {
        assert_eq!(default_metric("lab.air.co2"), "co2");
        assert_eq!(default_metric("meter"), "meter");
        assert_eq!(default_metric("lab.a:b"), "a-b");
        assert_eq!(default_metric("lab."), "value");
    }
}
