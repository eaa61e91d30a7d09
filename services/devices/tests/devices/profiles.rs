//! Profiles.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::{Code, Role, quantity::QUANTITIES};

use crate::system::{Engine, System, User, call, mask, sensor};

fn fridge() -> proto::Profile {
    proto::Profile {
        profile_id: "fridge".into(),
        quantity: "temperature".into(),
        unit: "°C".into(),
        range_max: Some(15.0),
        ..Default::default()
    }
}

async fn make(user: &User, profile: proto::Profile) -> sensormesh_types::Result<proto::Profile> {
    let request = proto::CreateProfileRequest { profile: Some(profile), request_id: String::new() };
    call!(user.create_profile(request)).map(|response| response.profile.expect("profile"))
}

pub async fn builtin_profiles_are_listed_among_the_own_and_stay(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    make(&user, fridge()).await.expect("made");
    let (mut ids, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = call!(user.list_profiles(proto::ListProfilesRequest { page_size: 7, page_token })).expect("page");
        ids.extend(page.profiles.into_iter().map(|profile| (profile.profile_id, profile.builtin)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(ids.len(), QUANTITIES.len() + 1);
    assert!(ids.is_sorted());
    assert!(ids.contains(&("fridge".to_owned(), false)) && ids.contains(&("humidity".to_owned(), true)));

    let builtin = proto::Profile { profile_id: "humidity".into(), quantity: "ratio".into(), ..Default::default() };
    assert_eq!(make(&user, builtin.clone()).await.expect_err("taken").code(), Code::Exists);
    let update = proto::UpdateProfileRequest { profile: Some(builtin), update_mask: mask(&["quantity"]) };
    assert_eq!(call!(user.update_profile(update)).expect_err("builtin").reason(), "BUILTIN_PROFILE");
    let delete = proto::DeleteProfileRequest { profile_id: "humidity".into() };
    assert_eq!(call!(user.delete_profile(delete)).expect_err("builtin").reason(), "BUILTIN_PROFILE");
    let get = call!(user.get_profile(proto::GetProfileRequest { profile_id: "humidity".into() }));
    assert_eq!(get.expect("found").profile.expect("profile").unit, "%");
    let wrong = proto::Profile { profile_id: "x".into(), quantity: "happiness".into(), ..Default::default() };
    assert_eq!(make(&user, wrong).await.expect_err("no quantity").fields()[0].field, "profile.quantity");
}

pub async fn a_changed_profile_changes_its_sensors(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let made = make(&user, fridge()).await.expect("made");
    assert_eq!((made.unit.as_str(), made.range_min, made.range_max), ("Cel", Some(-90.0), Some(15.0)));
    let said = proto::Sensor { profile_id: "fridge".into(), ..sensor("k.t") };
    let before = user.create_sensor(said).await.expect("made");
    assert_eq!((before.range_max, before.quantity.as_str()), (Some(15.0), "temperature"));
    let mut watch = system.watch_as_service("").await;
    watch.until_live().await;

    let warmer = proto::Profile { range_max: Some(20.0), ..made.clone() };
    let update = |profile| proto::UpdateProfileRequest { profile: Some(profile), update_mask: mask(&["range_max"]) };
    call!(user.update_profile(update(warmer))).expect("changed");
    let stale = call!(user.update_profile(update(made))).expect_err("read before the change");
    assert_eq!(stale.code(), Code::Conflict);
    let after = user.sensor("k.t").await.expect("found");
    assert_eq!(after.range_max, Some(20.0));
    assert_ne!(after.etag, before.etag);
    use proto::watch_devices_response::Event;
    assert!(matches!(watch.next().await.event, Some(Event::Profile(profile)) if profile.range_max == Some(20.0)));
    assert!(matches!(watch.next().await.event, Some(Event::Sensor(sensor)) if sensor == after));
}

pub async fn a_profile_in_use_stays(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    make(&user, fridge()).await.expect("made");
    user.create_sensor(proto::Sensor { profile_id: "fridge".into(), ..sensor("k.t") }).await.expect("made");
    let delete = proto::DeleteProfileRequest { profile_id: "fridge".into() };
    assert_eq!(call!(user.delete_profile(delete.clone())).expect_err("in use").reason(), "PROFILE_IN_USE");
    user.update_sensor(sensor("k.t"), &["profile_id"]).await.expect("without a profile");
    call!(user.delete_profile(delete.clone())).expect("deleted");
    assert_eq!(call!(user.delete_profile(delete)).expect_err("gone").code(), Code::NotFound);
}

pub async fn a_user_narrowed_to_a_site_does_not_change_what_other_sites_use(engine: Engine) {
    let system = System::start(engine).await;
    let (wide, north) = (system.operator(), system.user("default", Role::Operator, &["north"]));
    make(&wide, fridge()).await.expect("made");
    wide.create_sensor(proto::Sensor { profile_id: "fridge".into(), ..sensor("k.t") }).await.expect("made");
    let hotter = proto::Profile { range_max: Some(500.0), ..fridge() };
    let update = proto::UpdateProfileRequest { profile: Some(hotter), update_mask: mask(&["range_max"]) };
    assert_eq!(call!(north.update_profile(update)).expect_err("not theirs").reason(), "WHOLE_TENANT");
    let delete = proto::DeleteProfileRequest { profile_id: "fridge".into() };
    assert_eq!(call!(north.delete_profile(delete)).expect_err("not theirs").reason(), "WHOLE_TENANT");
    assert_eq!(wide.sensor("k.t").await.expect("found").range_max, Some(15.0));
}

pub async fn sensors_are_told_the_quality_tests_of_their_profile(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let tests = proto::QualityTests { spike_suspect: 2.0, gap_intervals: 5, ..Default::default() };
    let made = make(&user, proto::Profile { quality_tests: Some(tests), ..fridge() }).await.expect("made");
    assert_eq!(made.quality_tests, Some(tests));
    let said = proto::Sensor { profile_id: "fridge".into(), ..sensor("k.t") };
    assert_eq!(user.create_sensor(said).await.expect("made").quality_tests, Some(tests));
    // what is measured in another unit is only looked at for gaps
    let kelvin = proto::Sensor { profile_id: "fridge".into(), unit: "K".into(), ..sensor("k.k") };
    let timely = proto::QualityTests { gap_intervals: 5, ..Default::default() };
    assert_eq!(user.create_sensor(kelvin).await.expect("made").quality_tests, Some(timely));

    let update = |tests, paths: &[&str]| proto::UpdateProfileRequest {
        profile: Some(proto::Profile { quality_tests: tests, ..fridge() }),
        update_mask: mask(paths),
    };
    let wrong = proto::QualityTests { suspect_max: Some(99.0), ..Default::default() };
    let error = call!(user.update_profile(update(Some(wrong), &["quality_tests"]))).expect_err("out of range");
    assert_eq!(error.fields()[0].field, "profile.quality_tests.suspect_max");
    let not_a_number = proto::QualityTests { spike_fail: f64::NAN, ..Default::default() };
    let error = call!(user.update_profile(update(Some(not_a_number), &["quality_tests"]))).expect_err("no number");
    assert_eq!(error.fields()[0].field, "profile.quality_tests.spike_fail");
    // a range that the tests no longer lie in
    call!(
        user.update_profile(update(Some(proto::QualityTests { suspect_max: Some(14.0), ..tests }), &["quality_tests"]))
    )
    .expect("changed");
    let colder = proto::Profile { range_max: Some(10.0), ..fridge() };
    let colder = proto::UpdateProfileRequest { profile: Some(colder), update_mask: mask(&["range_max"]) };
    let error = call!(user.update_profile(colder)).expect_err("the tests lie outside");
    assert_eq!(error.fields()[0].field, "profile.quality_tests.suspect_max");
    let changed = user.sensor("k.t").await.expect("found");
    assert_eq!(changed.quality_tests.and_then(|tests| tests.suspect_max), Some(14.0));
    // a named field without a value takes them away
    call!(user.update_profile(update(None, &["quality_tests"]))).expect("taken away");
    assert_eq!(user.sensor("k.t").await.expect("found").quality_tests, None);
}

pub async fn sensors_are_told_the_retention_of_their_profile(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    let made = make(&user, proto::Profile { retention_days: 30, ..fridge() }).await.expect("made");
    assert_eq!(made.retention_days, 30);
    // whatever its unit, and whatever it says itself
    let said = proto::Sensor { profile_id: "fridge".into(), unit: "K".into(), retention_days: 7, ..sensor("k.t") };
    assert_eq!(user.create_sensor(said).await.expect("made").retention_days, 30);
    assert_eq!(user.create_sensor(sensor("k.u")).await.expect("made").retention_days, 0);

    let update = |retention_days, paths: &[&str]| proto::UpdateProfileRequest {
        profile: Some(proto::Profile { retention_days, ..fridge() }),
        update_mask: mask(paths),
    };
    let error = call!(user.update_profile(update(36_526, &["retention_days"]))).expect_err("more than a century");
    assert_eq!(error.fields()[0].field, "profile.retention_days");
    call!(user.update_profile(update(365, &["retention_days"]))).expect("changed");
    assert_eq!(user.sensor("k.t").await.expect("found").retention_days, 365);
    // another field leaves it, a named one without a value takes it away
    call!(user.update_profile(update(0, &["range_max"]))).expect("changed");
    assert_eq!(user.sensor("k.t").await.expect("found").retention_days, 365);
    call!(user.update_profile(update(0, &["retention_days"]))).expect("changed");
    assert_eq!(user.sensor("k.t").await.expect("found").retention_days, 0);
}

pub async fn sensors_are_told_the_decimals_of_their_profile(engine: Engine) {
    let system = System::start(engine).await;
    let user = system.operator();
    // none is something else than nothing said
    let made = make(&user, proto::Profile { decimals: Some(0), ..fridge() }).await.expect("made");
    assert_eq!(made.decimals, Some(0));
    let said = proto::Sensor { profile_id: "fridge".into(), decimals: Some(7), ..sensor("k.t") };
    assert_eq!(user.create_sensor(said).await.expect("made").decimals, Some(0));
    // in another unit other digits are noise
    let kelvin = proto::Sensor { profile_id: "fridge".into(), unit: "K".into(), ..sensor("k.k") };
    assert_eq!(user.create_sensor(kelvin).await.expect("made").decimals, None);

    let update = |decimals, paths: &[&str]| proto::UpdateProfileRequest {
        profile: Some(proto::Profile { decimals, ..fridge() }),
        update_mask: mask(paths),
    };
    let error = call!(user.update_profile(update(Some(10), &["decimals"]))).expect_err("too many");
    assert_eq!(error.fields()[0].field, "profile.decimals");
    call!(user.update_profile(update(Some(2), &[]))).expect("changed");
    assert_eq!(user.sensor("k.t").await.expect("found").decimals, Some(2));
    // another field leaves it, a named one without a value takes it away
    call!(user.update_profile(update(None, &["range_max"]))).expect("changed");
    assert_eq!(user.sensor("k.t").await.expect("found").decimals, Some(2));
    call!(user.update_profile(update(None, &["decimals"]))).expect("changed");
    assert_eq!(user.sensor("k.t").await.expect("found").decimals, None);
}
