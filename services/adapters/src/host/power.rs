//! Power and batteries, as Linux shows them in files that are there on some machines and readable on fewer.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::sensor;
use crate::source::{Measured, slug};

/// What there is to read under `/sys/class`.
pub struct Power {
    supplies: Vec<PathBuf>,
    meters: Vec<Meter>,
}

/// An energy counter of the processor (RAPL), in microjoules, that starts again at its greatest value.
struct Meter {
    path: PathBuf,
    name: String,
    wraps_at: f64,
    last: Option<(Instant, f64)>,
}

impl Power {
    /// Looks for what can be read.
    pub fn new(class: &Path) -> Self {
        let supplies = folders(&class.join("power_supply"));
        let meters = folders(&class.join("powercap"))
            .into_iter()
            .filter(|path| number(&path.join("energy_uj")).is_some())
            // `intel-rapl:0` is a package; `intel-rapl:0:1` a part of it
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().matches(':').count() == 1))
            .map(|path| Meter {
                name: text(&path.join("name")).unwrap_or_else(|| "processor".to_owned()),
                wraps_at: number(&path.join("max_energy_range_uj")).unwrap_or(0.0),
                last: None,
                path,
            })
            .collect();
        Self { supplies, meters }
    }

    /// Adds what can be read now. A meter shows the mean power since it was last read.
    pub fn read(&mut self, now: Instant, measured: &mut Measured) {
        for supply in &self.supplies {
            let name = supply.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let id = slug(&name);
            if let Some(charge) = number(&supply.join("capacity")).filter(|charge| (0.0..=100.0).contains(charge)) {
                measured.push(sensor(&format!("battery_{id}"), &format!("Charge, {name}"), "battery", "%", charge));
            }
            let micro = |file: &str| number(&supply.join(file)).map(|micro| micro / 1e6);
            let watts = micro("power_now").or_else(|| Some(micro("voltage_now")? * micro("current_now")?));
            if let Some(watts) = watts {
                measured.push(sensor(&format!("power_{id}"), &format!("Power, {name}"), "power", "W", watts.abs()));
            }
        }
        for meter in &mut self.meters {
            if let Some(watts) = meter.read(now) {
                let id = format!("power_{}", slug(&meter.name));
                measured.push(sensor(&id, &format!("Power, {}", meter.name), "power", "W", watts));
            }
        }
    }
}

impl Meter {
    fn read(&mut self, now: Instant) -> Option<f64> {
        let energy = number(&self.path.join("energy_uj"))?;
        let (then, before) = self.last.replace((now, energy))?;
        let seconds = (now - then).as_secs_f64();
        let spent = if energy >= before { energy - before } else { energy - before + self.wraps_at };
        (seconds > 0.0 && spent >= 0.0).then(|| spent / 1e6 / seconds)
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.truncate(super::MOST);
    found
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(path: &Path) -> Option<f64> {
    text(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn write(path: &Path, file: &str, text: &str) {
        fs::create_dir_all(path).expect("folder");
        fs::write(path.join(file), text).expect("file");
    }

    #[test]
    fn a_meter_shows_the_mean_power_also_when_it_starts_again() {
        let folder = tempfile::tempdir().expect("folder");
        let package = folder.path().join("powercap/intel-rapl:0");
        write(&package, "name", "package-0\n");
        write(&package, "max_energy_range_uj", "100000000");
        write(&package, "energy_uj", "90000000");
        write(&folder.path().join("powercap/intel-rapl:0:0"), "energy_uj", "1");
        let mut power = Power::new(folder.path());
        let start = Instant::now();
        let mut measured = Measured::new();
        power.read(start, &mut measured);
        assert!(measured.is_empty());
        write(&package, "energy_uj", "10000000");
        power.read(start + Duration::from_secs(2), &mut measured);
        assert_eq!(measured.len(), 1);
        assert_eq!((measured[0].0.id.as_str(), measured[0].1), ("this-machine.power_package_0", 10.0));
    }

    #[test]
    fn a_battery_shows_its_charge_and_its_power() {
        let folder = tempfile::tempdir().expect("folder");
        let battery = folder.path().join("power_supply/BAT0");
        write(&battery, "capacity", "87\n");
        write(&battery, "voltage_now", "12000000");
        write(&battery, "current_now", "-1500000");
        let mut measured = Measured::new();
        Power::new(folder.path()).read(Instant::now(), &mut measured);
        let shown: Vec<_> = measured.iter().map(|(sensor, value)| (sensor.id.as_str(), *value)).collect();
        assert_eq!(shown, [("this-machine.battery_bat0", 87.0), ("this-machine.power_bat0", 18.0)]);
    }

    #[test]
    fn a_machine_without_any_of_it_shows_nothing() {
        let mut measured = Measured::new();
        Power::new(Path::new("/nonexistent")).read(Instant::now(), &mut measured);
        assert!(measured.is_empty());
    }
}
