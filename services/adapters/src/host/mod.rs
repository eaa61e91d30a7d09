//! The sensors of the machine the program runs on: load, memory, disks, network, temperatures, power.

mod power;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sensormesh_proto::devices::v1::Device;
use sysinfo::{Components, Disks, MemoryRefreshKind, Networks, Product, System};
use tokio::time::Instant;

use crate::source::{Description, Measured, slug};
use power::Power;

/// The device that carries the sensors.
pub const DEVICE: &str = "this-machine";
/// The room they say they are in.
pub const ROOM: &str = "This machine";
/// How many disks, interfaces and temperatures are read at most.
const MOST: usize = 16;
/// File systems that are not on a disk of this machine.
const NOT_DISKS: &[&str] = &[
    "tmpfs",
    "ramfs",
    "devtmpfs",
    "squashfs",
    "iso9660",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "autofs",
    "fuse.sshfs",
    "efivarfs",
];
/// The starts of names of interfaces that lead nowhere else.
const NOT_LINKS: &[&str] = &["lo", "veth", "docker", "br-", "virbr", "cni", "flannel", "cali", "dummy", "ifb"];

/// Reads the machine. Reading blocks for some milliseconds.
pub struct Host {
    system: Option<System>,
    disks: Option<Disks>,
    networks: Option<Networks>,
    components: Option<Components>,
    power: Power,
    /// When the network was last read.
    read: Option<Instant>,
}

impl Host {
    /// Looks at what there is. What cannot be read here is left out.
    pub fn new() -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        Self {
            system,
            disks: Disks::new_with_refreshed_list().ok(),
            networks: Networks::new_with_refreshed_list().ok(),
            components: Components::new_with_refreshed_list().ok(),
            power: Power::new(Path::new("/sys/class")),
            read: None,
        }
    }

    /// Every value that can be read now. The load is the mean since the last reading.
    pub fn read(&mut self) -> Measured {
        let mut measured = Measured::new();
        self.read_system(&mut measured);
        self.read_disks(&mut measured);
        let now = Instant::now();
        if let Some(seconds) = self.read.replace(now).map(|before| (now - before).as_secs_f64()) {
            self.read_networks(seconds, &mut measured);
        } else if let Some(networks) = &mut self.networks {
            networks.refresh(true);
        }
        self.read_components(&mut measured);
        self.power.read(now, &mut measured);
        measured.retain(|(_, value)| value.is_finite());
        measured
    }

    fn read_system(&mut self, measured: &mut Measured) {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::everything());
            let load = f64::from(system.global_cpu_usage()).clamp(0.0, 100.0);
            measured.push(sensor("cpu_load", "CPU load", "ratio", "%", load));
            let (total, used) = (system.total_memory() as f64, system.used_memory() as f64);
            if total > 0.0 {
                measured.push(sensor("memory_used", "Memory in use", "ratio", "%", used / total * 100.0));
                measured.push(sensor("memory_used_bytes", "Memory in use, size", "data_size", "By", used));
            }
            let (swap, swapped) = (system.total_swap() as f64, system.used_swap() as f64);
            if swap > 0.0 {
                measured.push(sensor("swap_used", "Swap in use", "ratio", "%", swapped / swap * 100.0));
            }
        }
        if let Ok(load) = System::load_average() {
            for (name, minutes, value) in
                [("load_1m", 1, load.one), ("load_5m", 5, load.five), ("load_15m", 15, load.fifteen)]
            {
                measured.push(sensor(name, &format!("Load average, {minutes} min"), "", "1", value));
            }
        }
        if let Ok(uptime) = System::uptime() {
            measured.push(sensor("uptime", "Time since start", "", "s", uptime as f64));
        }
    }

    fn read_disks(&mut self, measured: &mut Measured) {
        let Some(disks) = &mut self.disks else { return };
        disks.refresh(true);
        // one disk can be mounted at many places: the shortest path names it
        let mut mounts: BTreeMap<String, (PathBuf, f64)> = BTreeMap::new();
        for disk in disks.iter() {
            let (total, free) = (disk.total_space() as f64, disk.available_space() as f64);
            let root = disk.mount_point() == Path::new("/");
            let system = disk.file_system().to_string_lossy().to_lowercase();
            if total <= 0.0 || disk.is_read_only() || (!root && NOT_DISKS.contains(&system.as_str())) {
                continue;
            }
            let mount = (disk.mount_point().to_path_buf(), (total - free) / total * 100.0);
            let name = if root { "/".to_owned() } else { disk.name().to_string_lossy().into_owned() };
            mounts
                .entry(name)
                .and_modify(|known| {
                    if mount.0.as_os_str().len() < known.0.as_os_str().len() {
                        known.clone_from(&mount);
                    }
                })
                .or_insert(mount);
        }
        for (path, used) in mounts.into_values().take(MOST) {
            let place = slug(&path.to_string_lossy());
            let id = if place.is_empty() { "disk_used".to_owned() } else { format!("disk_{place}_used") };
            measured.push(sensor(&id, &format!("Disk in use, {}", path.display()), "ratio", "%", used));
        }
    }

    fn read_networks(&mut self, seconds: f64, measured: &mut Measured) {
        let Some(networks) = &mut self.networks else { return };
        networks.refresh(true);
        let links: BTreeMap<_, _> = networks
            .iter()
            .map(|(name, link)| (name.to_string_lossy(), link))
            .filter(|(name, _)| !NOT_LINKS.iter().any(|start| name.starts_with(start)))
            .take(MOST)
            .collect();
        for (name, link) in links {
            let id = slug(&name);
            let (received, sent) = (link.received() as f64 / seconds, link.transmitted() as f64 / seconds);
            measured.push(sensor(&format!("net_{id}_in"), &format!("Received, {name}"), "data_rate", "By/s", received));
            measured.push(sensor(&format!("net_{id}_out"), &format!("Sent, {name}"), "data_rate", "By/s", sent));
        }
    }

    fn read_components(&mut self, measured: &mut Measured) {
        let Some(components) = &mut self.components else { return };
        components.refresh(true);
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for component in components.iter().take(MOST) {
            let Some(celsius) = component.temperature() else { continue };
            let label = component.label().trim();
            let mut id = format!("temp_{}", slug(label));
            let again = seen.entry(id.clone()).or_default();
            *again += 1;
            if *again > 1 {
                id = format!("{id}_{again}");
            }
            measured.push(sensor(&id, &format!("Temperature, {label}"), "temperature", "Cel", f64::from(celsius)));
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

fn sensor(what: &str, name: &str, profile: &'static str, unit: &'static str, value: f64) -> (Description, f64) {
    (Description { id: format!("{DEVICE}.{what}"), name: name.to_owned(), profile, unit }, value)
}

/// How the machine is registered.
pub fn device() -> Device {
    let mut device = Device {
        device_id: DEVICE.to_owned(),
        name: ROOM.to_owned(),
        manufacturer: Product::vendor_name().unwrap_or_default(),
        model: Product::name().unwrap_or_default(),
        origin: "host".to_owned(),
        ..Default::default()
    };
    for text in [&mut device.manufacturer, &mut device.model] {
        text.truncate(text.floor_char_boundary(128));
    }
    for (label, value) in [("hostname", System::host_name()), ("os", System::long_os_version())] {
        if let Ok(value) = value
            && !value.is_empty()
        {
            device.labels.insert(label.to_owned(), value);
        }
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_load_and_a_memory() {
        let mut host = Host::new();
        host.read();
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        let measured = host.read();
        let value = |id: &str| measured.iter().find(|(sensor, _)| sensor.id == id).map(|(_, value)| *value);
        assert!((0.0..=100.0).contains(&value("this-machine.cpu_load").expect("load")));
        assert!((0.0..=100.0).contains(&value("this-machine.memory_used").expect("memory")));
        assert!(value("this-machine.memory_used_bytes").expect("memory") > 0.0);
    }

    #[test]
    fn every_sensor_is_read_once_and_can_be_registered() {
        use sensormesh_proto::Validate;
        let mut host = Host::new();
        host.read();
        let measured = host.read();
        let mut ids: Vec<&str> = measured.iter().map(|(sensor, _)| sensor.id.as_str()).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        for (description, value) in &measured {
            let sensor = crate::source::registration(description, ROOM, std::time::Duration::from_secs(10));
            sensor.validate().unwrap_or_else(|wrong| panic!("{}: {wrong:?}", description.id));
            let profile = sensormesh_types::quantity::by_name(description.profile);
            assert_eq!(profile.is_some(), !description.profile.is_empty(), "{}", description.id);
            assert!(profile.is_none_or(|p| (p.range.0..=p.range.1).contains(value)), "{}: {value}", description.id);
        }
        device().validate().expect("the device");
    }
}
