//! The service from outside, through its contract, on both engines. Telemetry and `devices` are fakes behind the same layers.

mod fakes;
mod given_up;
mod history;
mod metrics;
mod placements;
mod places;
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
    places::a_tree_of_places_is_made_listed_moved_and_deleted,
    places::changes_at_once_neither_undo_each_other_nor_outlive_their_place,
    places::a_stale_etag_an_unknown_field_and_a_cycle_are_refused,
    places::the_same_request_id_gives_the_same_answer,
    places::rooms_are_listed_by_name_in_pages_with_their_sensors,
    places::a_viewer_may_not_write_and_another_tenant_sees_nothing,
    places::a_user_narrowed_to_a_site_sees_and_touches_that_site_only,
    placements::a_sensor_is_placed_moved_and_taken_out,
    placements::a_metric_names_one_sensor_of_a_room,
    placements::a_sensor_that_was_not_heard_of_yet_is_asked_for,
    placements::a_suggested_room_is_made_once,
    placements::a_deleted_sensor_leaves_its_room,
    placements::a_sensor_of_another_site_is_refused,
    placements::a_room_with_sensors_is_deleted_by_force_only,
    metrics::a_room_shows_the_latest_readings,
    metrics::without_telemetry_what_rooms_show_is_stale,
    history::a_metric_is_summarised_across_its_sensors,
    history::history_comes_in_pages_and_names_an_unknown_metric,
    watch::a_viewer_sees_the_present_state_and_then_every_change,
    watch::what_joins_and_leaves_a_room_is_told,
    watch::a_viewer_resumes_without_gap_or_duplicate_whoever_restarts,
    watch::a_reader_that_is_too_slow_is_told_where_to_resume,
    watch::a_viewer_sees_its_tenant_and_its_filter_only,
    watch::a_forged_cursor_is_refused,
    given_up::f05_a_change_given_up_at_any_wait_is_whole_or_not_at_all,
);
