//! Writes the command table and the answers about keys and patterns anew, from what the newest servers of the fleet say. The e2e tests compare the two.

use anyhow::Result;
use dts_tests::command_table::{generate, key_positions, key_positions_path, path};
use dts_tests::patterns;
use dts_tests::server::Server;

fn main() -> Result<()> {
    let (redis, valkey) = (Server::start("redis-8.10", &[])?, Server::start("valkey-9.1", &[])?);
    std::fs::write(path(), generate(&redis, &valkey, &[])?)?;
    std::fs::write(key_positions_path(), key_positions(&redis)?)?;
    std::fs::write(patterns::path(), patterns::answers(&redis)?)?;
    Ok(())
}
