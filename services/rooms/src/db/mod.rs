//! All SQL of this service. Every function works in one tenant, given by name, unless it says otherwise.

mod place;
mod placement;
mod sensor;

pub use place::{delete_place, find_place, list_places, lock, save_place};
pub use placement::{
    Page, count_sensors, list_current, list_of_metric, list_of_sensor, list_placements, save_placement,
};
pub use sensor::{
    delete_profile, delete_sensor, find_sensor, list_of_device, list_placed_sensors, list_profiles, list_unplaced,
    save_profile, save_sensor, tenants, wipe_projection,
};
