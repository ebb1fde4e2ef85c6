//! Faults on a whole fleet; `make chaos` is the long run.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;

/// Gives whether it succeeded, and what it said.
fn chaos(arguments: &[&str]) -> Result<(bool, String)> {
    let program = binary()?.parent().context("a directory")?.join("chaos");
    let output = Command::new(program).args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn ten_faults_on_a_fleet_lose_nothing_and_double_nothing_on_a_server() -> Result<()> {
    let (succeeded, said) = chaos(&["--faults", "10"])?;
    ensure!(succeeded && said.contains("10 faults, nothing lost"), "{said}");
    Ok(())
}

#[test]
fn ten_faults_on_a_fleet_lose_nothing_and_double_nothing_on_a_cluster() -> Result<()> {
    let (succeeded, said) = chaos(&["--faults", "10", "--target", "cluster"])?;
    ensure!(succeeded && said.contains("10 faults, nothing lost"), "{said}");
    Ok(())
}

#[test]
fn agents_that_are_frozen_while_they_write_as_users_of_a_cluster_double_nothing_and_leave_no_user() -> Result<()> {
    let arguments = ["--faults", "4", "--target", "cluster", "--fence", "user", "--only", "agent-frozen"];
    let (succeeded, said) = chaos(&arguments)?;
    ensure!(succeeded && said.contains("4 faults, nothing lost"), "{said}");
    Ok(())
}

#[test]
fn without_the_fence_the_same_faults_are_seen_to_double_or_lose_something() -> Result<()> {
    let (succeeded, said) = chaos(&["--faults", "5", "--only", "agent-frozen", "--unfenced"])?;
    let differs = ["differs", "is missing on the target", "is only on the target"];
    ensure!(!succeeded && differs.iter().any(|word| said.contains(word)), "{said}");
    Ok(())
}
