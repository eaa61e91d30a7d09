//! Sees to it that the dashboard's folder exists, so that the edge builds before the dashboard does, and again after it.

fn main() {
    // where the source cannot be written to, the dashboard is there or is left out
    let _ = std::fs::create_dir_all("dashboard/dist");
    println!("cargo:rerun-if-changed=dashboard/dist");
    println!("cargo:rerun-if-changed=docs");
}
