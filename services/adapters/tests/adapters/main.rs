//! The service from outside, through its contract, on both engines. Telemetry and `devices` are fakes behind the same layers.

mod connections;
mod fakes;
mod given_up;
mod system;

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
    connections::the_hosts_sensors_are_registered_and_delivered,
    connections::what_was_set_holds_after_a_restart,
    connections::a_wrong_setting_is_refused_and_a_viewer_may_not_set,
    connections::without_the_host_there_is_no_connection,
    connections::nothing_is_lost_or_doubled_while_telemetry_comes_and_goes,
    connections::readings_wait_until_the_registry_answers,
    connections::what_waits_is_on_the_disk_over_a_restart_and_delivered_in_order,
    connections::readings_that_wait_for_long_go_to_the_disk_and_the_oldest_are_given_up_for_want_of_room,
    given_up::f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all,
);
