//! All SQL of this service. Every function works in one tenant, given by name, unless it says otherwise.

mod sensor;
mod test;
mod tested;

pub use sensor::{
    Wanted, delete_profile, delete_sensor, find_sensor, list_of_device, list_profiles, list_quantities, list_sensors,
    save_profile, save_sensor, wipe_projection,
};
pub use test::{
    Page, count_unfinished, delete_old, find_test, insert_test, list_tests, list_unfinished, mark_missed, save_test,
};
pub use tested::{close_tested, insert_tested, is_complete, list_open, list_tested, save_tally};
