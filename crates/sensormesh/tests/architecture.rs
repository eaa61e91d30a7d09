//! The rules of the tree, held by a test. Each failure says what is wrong and where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a source file may have.
const FILE_LIMIT: usize = 500;
/// Lines that a `lib.rs` may have.
const LIB_LIMIT: usize = 150;
/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "manager"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root")
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if path.is_dir() && !matches!(name, "target" | "node_modules" | "dist" | ".git") {
            walk(&path, files);
        } else if path.is_file() {
            files.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    for folder in ["build-support", "crates", "services"] {
        walk(&root.join(folder), &mut files);
    }
    files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|e| e == "rs"))
        .map(|file| {
            let name = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            (name, fs::read_to_string(&file).expect("UTF-8"))
        })
        .collect()
}

/// The names of our own crates that a manifest's `[dependencies]` lists.
fn own_dependencies(folder: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let Some(toml::Value::Table(dependencies)) = manifest.get("dependencies") else { return BTreeSet::new() };
    dependencies.keys().filter_map(|name| name.strip_prefix("sensormesh-")).map(str::to_owned).collect()
}

fn service_names() -> Vec<String> {
    let dir = fs::read_dir(root().join("services")).expect("services");
    let mut names: Vec<String> =
        dir.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn refuse(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn a_service_never_depends_on_a_service() {
    let services: BTreeSet<String> = service_names().into_iter().collect();
    let found: Vec<String> = services
        .iter()
        .flat_map(|service| {
            let on = own_dependencies(&format!("services/{service}"));
            on.intersection(&services).map(|other| format!("{service} → {other}")).collect::<Vec<_>>()
        })
        .collect();
    refuse(&found, "a service calls another through a generated client, never through its crate");
}

#[test]
fn mesh_and_store_know_neither_each_other_nor_a_service() {
    let services: BTreeSet<String> = service_names().into_iter().collect();
    let mut found = Vec::new();
    for (crate_name, others) in [("mesh", ["store", "series"]), ("store", ["mesh", "proto"])] {
        let on = own_dependencies(&format!("crates/{crate_name}"));
        let wrong = on.iter().filter(|name| others.contains(&name.as_str()) || services.contains(*name));
        found.extend(wrong.map(|name| format!("{crate_name} → {name}")));
    }
    found.extend(own_dependencies("crates/types").into_iter().map(|name| format!("types → {name}")));
    found.extend(
        own_dependencies("crates/series").into_iter().filter(|n| n != "types").map(|n| format!("series → {n}")),
    );
    refuse(&found, "mesh and store are independent; types knows nothing; series is pure");
}

#[test]
fn only_the_program_reads_environment_and_arguments() {
    let reads = ["env::var(", "env::vars(", "env::args(", "env::var_os(", "env::args_os("];
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| {
            !name.starts_with("crates/sensormesh/") && !name.contains("/tests/") && !name.ends_with("build.rs")
        })
        .filter(|(name, _)| !name.starts_with("crates/testkit/") && !name.starts_with("build-support/"))
        .flat_map(|(name, text)| {
            let lines = text.lines().enumerate().filter(|(_, line)| reads.iter().any(|read| line.contains(read)));
            lines.map(|(i, _)| format!("{name}:{}", i + 1)).collect::<Vec<_>>()
        })
        .collect();
    refuse(&found, "only crates/sensormesh reads the environment and arguments");
}

#[test]
fn sql_stands_only_in_db_files_and_in_store() {
    let words = ["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM "];
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("services/") && !name.contains("/tests/"))
        .filter(|(name, _)| !name.ends_with("/db.rs") && !name.contains("/db/"))
        .flat_map(|(name, text)| {
            let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
            let sql = code.filter(|(_, line)| words.iter().any(|word| line.contains(&format!("\"{word}"))));
            sql.map(|(i, _)| format!("{name}:{}", i + 1)).collect::<Vec<_>>()
        })
        .collect();
    refuse(&found, "SQL stands in db.rs or db/ only");
    let root = root();
    let mut naming = Vec::new();
    for folder in
        service_names().iter().map(|s| format!("services/{s}")).chain(["crates/mesh".into(), "crates/series".into()])
    {
        let text = fs::read_to_string(root.join(&folder).join("Cargo.toml")).expect("a manifest");
        if text.contains("sqlx") {
            naming.push(folder);
        }
    }
    refuse(&naming, "only store names sqlx");
}

#[test]
fn the_call_graph_has_no_cycle_and_the_table_follows_it() {
    let graph = sensormesh_proto::graph();
    let mut left: BTreeMap<&str, BTreeSet<&str>> =
        graph.iter().map(|(caller, callees)| (*caller, callees.iter().copied().collect())).collect();
    // Every service may be asked for its own verification keys and status; those edges lead to `auth` and `mesh` only.
    while !left.is_empty() {
        let leaf = left
            .iter()
            .find(|(caller, callees)| callees.iter().all(|callee| callee == *caller || !left.contains_key(callee)));
        let Some((&name, _)) = leaf else { panic!("the contracts' call graph has a cycle among {left:?}") };
        left.remove(name);
    }
}

#[test]
fn every_table_of_a_service_starts_its_primary_key_with_the_tenant() {
    let mut found = Vec::new();
    for service in service_names() {
        let folder = root().join("services").join(&service).join("migrations");
        if !folder.exists() {
            continue;
        }
        let mut files = Vec::new();
        walk(&folder, &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("UTF-8");
            let text: String =
                text.lines().map(|line| line.split("--").next().unwrap_or("").to_owned() + "\n").collect();
            for statement in text.split(';').filter(|s| s.to_uppercase().contains("CREATE TABLE")) {
                let flat = statement.split_whitespace().collect::<Vec<_>>().join(" ");
                let key = flat.to_lowercase().split("primary key").nth(1).unwrap_or("").trim().to_owned();
                if !key.trim_start_matches(['(', ' ']).starts_with("tenant") {
                    let table = flat.split("CREATE TABLE").nth(1).unwrap_or(&flat);
                    found.push(format!("{service}: {}", table.chars().take(60).collect::<String>()));
                }
            }
        }
    }
    refuse(&found, "every table has `tenant` first in its primary key");
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if !text.starts_with("//!") {
            found.push(format!("{name} does not open with //!"));
        }
        if lines > FILE_LIMIT {
            found.push(format!("{name} has {lines} lines; split it by noun at {FILE_LIMIT}"));
        }
        if name.ends_with("/lib.rs") && lines > LIB_LIMIT {
            found.push(format!("{name} has {lines} lines; a lib.rs is a table of contents of at most {LIB_LIMIT}"));
        }
        let stem = Path::new(&name).file_stem().and_then(|s| s.to_str()).unwrap_or("");
        if EMPTY_NAMES.contains(&stem) {
            found.push(format!("{name}: name the file by what is in it"));
        }
    }
    refuse(&found, "files are short and named by a noun");
}

#[test]
fn one_name_leads_to_everything_of_a_service() {
    let mut found = Vec::new();
    for service in service_names() {
        for path in [
            format!("proto/sensormesh/{service}/v1/{service}.proto"),
            format!("services/{service}/README.md"),
            format!("services/{service}/src/lib.rs"),
        ] {
            if !root().join(&path).exists() {
                found.push(path);
            }
        }
        let tests = root().join(format!("services/{service}/tests"));
        if !tests.join(format!("{service}.rs")).exists() && !tests.join(&service).join("main.rs").exists() {
            found.push(format!("services/{service}/tests/{service}.rs"));
        }
    }
    refuse(&found, "the same name leads to contract, code, documentation and tests");
}

#[test]
fn nothing_is_left_for_later() {
    let markers = ["todo!(", "unimplemented!(", concat!("TO", "DO"), concat!("FIX", "ME")];
    let found: Vec<String> = sources()
        .into_iter()
        .flat_map(|(name, text)| {
            let lines = text.lines().enumerate().filter(|(_, line)| markers.iter().any(|marker| line.contains(marker)));
            lines.map(|(i, line)| format!("{name}:{}: {}", i + 1, line.trim())).collect::<Vec<_>>()
        })
        .filter(|line| !line.starts_with("crates/sensormesh/tests/architecture.rs"))
        .collect();
    refuse(&found, "what is begun is finished");
}
