//! The checked-in command table is what the fleet's servers say.

use anyhow::{Result, ensure};
use dts_tests::command_table::{generate, key_positions, key_positions_path, path};
use dts_tests::patterns;
use dts_tests::server::Server;

#[test]
fn the_command_table_is_what_the_newest_servers_say_and_lacks_nothing_that_older_ones_knew() -> Result<()> {
    let start = |name: &&str| Server::start(name, &[]);
    let older =
        ["redis-2.8", "redis-3.2", "redis-4.0", "redis-5.0", "redis-6.2", "redis-7.2", "redis-8.2", "valkey-8.1"];
    let older: Vec<Server> = older.iter().map(start).collect::<Result<_>>()?;
    let (redis, valkey) = (start(&"redis-8.10")?, start(&"valkey-9.1")?);
    let again = "run `cargo run -p dts-tests --bin command-table`";
    ensure!(
        generate(&redis, &valkey, &older)? == std::fs::read_to_string(path())?,
        "the table is out of date: {again}"
    );
    ensure!(
        key_positions(&redis)? == std::fs::read_to_string(key_positions_path())?,
        "what servers say of keys is out of date: {again}"
    );
    Ok(())
}

#[test]
fn every_server_from_5_0_on_matches_patterns_as_they_are_recorded() -> Result<()> {
    let recorded = std::fs::read_to_string(patterns::path())?;
    let mut others = Vec::new();
    for name in ["redis-5.0", "redis-6.2", "redis-7.0", "redis-8.10", "valkey-9.1"] {
        if patterns::answers(&Server::start(name, &[])?)? != recorded {
            others.push(name);
        }
    }
    ensure!(others.is_empty(), "{others:?} match otherwise");
    Ok(())
}
