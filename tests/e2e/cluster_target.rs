//! A cluster as the target.

use anyhow::{Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::server::Server;

#[test]
fn the_cluster_of_the_tests_moves_slots_and_fails_over_without_losing_a_key() -> Result<()> {
    let cluster = Cluster::start("redis-6.2", 3, 1, &[])?;
    let server = Server::start("redis-6.2", &[])?;
    for i in 0..300 {
        let key = format!("key:{i}");
        cluster.query::<()>(key.as_bytes(), redis::cmd("SET").arg(&key).arg(i))?;
        redis::cmd("SET").arg(&key).arg(i).exec(&mut server.connect()?)?;
    }
    let slot = cluster.slot(b"key:0")?;
    let to = (cluster.owner(slot)? + 1) % 3;
    cluster.move_slots([slot], to)?;
    cluster.until_ok()?;
    ensure!(cluster.owner(slot)? == to);
    cluster.failover(cluster.replica_of(to)?)?;
    ensure!(cluster.owner(slot)? != to);
    assert_equal_nodes(&[&server], &cluster.masters()?)?;
    redis::cmd("SET").arg("key:7").arg("other").exec(&mut server.connect()?)?;
    ensure!(assert_equal_nodes(&[&server], &cluster.masters()?).is_err());
    Ok(())
}
