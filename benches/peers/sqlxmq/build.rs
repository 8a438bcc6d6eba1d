//! Finds the migrations that sqlxmq ships: its users copy them, and we need not.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var("CARGO")?;
    let asked = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", &std::env::var("TARGET")?])
        .stderr(Stdio::inherit())
        .output()?;
    let metadata: Value = serde_json::from_slice(&asked.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|package| package["name"] == "sqlxmq")
        .find_map(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not know sqlxmq")?;
    let migrations = PathBuf::from(manifest).with_file_name("migrations");
    println!(
        "cargo::rustc-env=SQLXMQ_MIGRATIONS={}",
        migrations.display()
    );
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
