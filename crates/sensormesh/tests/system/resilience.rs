//! `docs/RESILIENCE.md`, as it stands: its blocks are run, and each `# →` must follow in what the command in front of it says.

use std::time::Duration;

use sensormesh_testkit::postgres::Server;
use sensormesh_testkit::system::Shape;
use tokio::process::Command;

use crate::builder;

const PAGE: &str = include_str!("../../../../docs/RESILIENCE.md");
/// The page is one script; it waits for what takes its time.
const PATIENCE: Duration = Duration::from_secs(240);

/// The page's script, in which a line of its own ends what each command with expectations says, and these.
fn script(with_postgres: bool) -> (String, Vec<Vec<&'static str>>) {
    let (mut script, mut expected) = (String::from("set -u\n"), Vec::<Vec<&str>>::new());
    let (mut runs, mut follows) = (false, false);
    for line in PAGE.lines() {
        let expectation = line.strip_prefix("# → ");
        if let Some(kind) = line.strip_prefix("```") {
            runs = kind == "sh" || (kind == "sh postgres" && with_postgres);
        } else if let (true, Some(text)) = (runs, expectation) {
            if !follows {
                script += &format!("echo '== {}'\n", expected.len());
                expected.push(Vec::new());
            }
            expected.last_mut().expect("pushed").push(text);
        } else if runs {
            script += &format!("{line}\n");
        }
        follows = expectation.is_some();
    }
    (script, expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_resilience_says_what_happens() {
    let server = Server::start(None)
        .map_err(|error| sensormesh_testkit::skip(format_args!("the page's third test: {error:#}")))
        .ok();
    let (script, expected) = script(server.is_some());
    let mut system = builder(Shape::Split);
    if let Some(server) = &server {
        system = system.arg("--database-url").arg(&server.url);
    }
    let system = system.start().await.expect("the system starts");
    let mut command = Command::new("bash");
    command.arg("-c").arg(&script).kill_on_drop(true);
    command.env("EDGE", system.url("")).env("DATA", system.data_dir());
    command.env("OPERATIONS", format!("http://127.0.0.1:{}", system.port_base + 1002));
    if let Some(server) = &server {
        command.env("STOP_DATABASE", &server.stop).env("START_DATABASE", &server.start);
    }
    let log = system.data_dir().join("page.log");
    let file = std::fs::File::create(&log).expect("a file");
    command.stdout(file.try_clone().expect("the file")).stderr(file);
    let mut running = command.spawn().expect("bash");
    let ended = tokio::time::timeout(PATIENCE, running.wait()).await;
    let said = std::fs::read_to_string(&log).expect("what it said");
    eprintln!("{said}");
    assert!(matches!(ended, Ok(Ok(status)) if status.success()), "{ended:?}");

    let mut rest = said.as_str();
    for (number, texts) in expected.iter().enumerate() {
        let (mut answer, after) = rest.split_once(&format!("== {number}\n")).expect("the script came so far");
        for text in texts {
            let found = answer.find(text).unwrap_or_else(|| panic!("{text:?} is not in {answer}"));
            answer = &answer[found + text.len()..];
        }
        rest = after;
    }
    assert!(expected.len() > 20, "the page was read: {expected:?}");
}
