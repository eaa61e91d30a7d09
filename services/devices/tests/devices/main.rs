//! The service from outside, through its contract, on both engines.

mod credentials;
mod devices;
mod ensure;
mod given_up;
mod profiles;
mod sensors;
mod system;
mod watch;

use system::Engine;

/// Makes two tests of each: one on SQLite and one on PostgreSQL, where there is a server for tests.
macro_rules! on_both_engines {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::Engine::Sqlite).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(url) = sensormesh_testkit::postgres::url_for_new_database() {
                    super::$module::$name(super::Engine::Postgres(url)).await;
                }
            })*
        }
    };
}

on_both_engines!(
    devices::a_device_is_registered_changed_and_deleted,
    devices::a_stale_etag_and_an_unknown_mask_path_are_refused,
    devices::a_device_with_sensors_is_deleted_by_force_only,
    devices::devices_are_listed_in_pages,
    devices::the_same_request_id_gives_the_same_answer,
    devices::a_viewer_may_not_write,
    sensors::a_sensor_brings_its_device_and_takes_from_its_profile,
    sensors::a_sensor_is_changed_by_mask,
    sensors::wrong_sensors_are_refused_with_the_field,
    sensors::another_tenant_sees_nothing_and_may_use_the_same_ids,
    sensors::a_user_narrowed_to_a_site_sees_and_touches_that_site_only,
    ensure::sensors_are_registered_once_and_returned_in_order,
    ensure::a_peer_names_the_tenant_and_a_user_does_not,
    ensure::nothing_is_registered_if_one_is_wrong,
    ensure::parallel_calls_register_each_sensor_once,
    profiles::builtin_profiles_are_listed_among_the_own_and_stay,
    profiles::a_changed_profile_changes_its_sensors,
    profiles::a_profile_in_use_stays,
    profiles::sensors_are_told_the_quality_tests_of_their_profile,
    profiles::sensors_are_told_the_retention_of_their_profile,
    profiles::sensors_are_told_the_decimals_of_their_profile,
    profiles::a_user_narrowed_to_a_site_does_not_change_what_other_sites_use,
    watch::a_watcher_sees_the_present_state_and_then_every_change,
    watch::a_watcher_resumes_without_a_gap,
    watch::users_see_their_tenant_and_services_see_all,
    watch::a_device_that_leaves_a_site_leaves_its_watchers,
    credentials::a_devices_credential_is_made_rotated_and_ended,
    credentials::nobody_else_makes_or_sees_credentials,
    credentials::verifiers_hear_of_what_becomes_of_a_device,
    credentials::a_bridge_is_made_changed_and_deleted,
    credentials::a_bridge_brings_devices_of_its_prefixes_up_to_its_quota,
    credentials::a_device_gets_its_credential_with_a_claim_code,
    credentials::the_last_use_is_shown_and_never_goes_back,
    credentials::f05_a_credential_given_up_at_any_wait_is_whole_or_not_at_all,
    given_up::f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all,
);
