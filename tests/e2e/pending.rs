//! What is pending in a stream's groups: of entries that are there, and of those that are gone.

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::server::Server;
use redis::Value;

use crate::verify::{found, verify};
use crate::{complete, state};

/// 2.2 MB, too large for one RESTORE; of the first 1,300 entries that two consumers read the first 700 are trimmed away.
fn fill(source: &Server) -> Result<()> {
    let mut connection = source.connect()?;
    let body = "x".repeat(1000);
    for from in (0..3000).step_by(500) {
        let mut pipe = redis::pipe();
        for n in from..from + 500 {
            pipe.cmd("XADD").arg("stream").arg(format!("{}-1", n + 1)).arg("n").arg(&body).ignore();
        }
        pipe.query::<()>(&mut connection)?;
    }
    redis::cmd("XGROUP").arg("CREATE").arg("stream").arg("group").arg(0).exec(&mut connection)?;
    for (consumer, count) in [("one", 500), ("two", 800)] {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg("group").arg(consumer).arg("COUNT").arg(count).arg("STREAMS").arg("stream").arg(">");
        read.query::<Value>(&mut connection)?;
    }
    Ok(redis::cmd("XTRIM").arg("stream").arg("MAXLEN").arg(2300).exec(&mut connection)?)
}

/// Id and consumer of everything that is pending from `from` on.
fn pending(server: &Server, from: u32) -> Result<Vec<(String, String)>> {
    let mut ask = redis::cmd("XPENDING");
    ask.arg("stream").arg("group").arg(format!("{from}-0")).arg("+").arg(5000);
    let found: Vec<(String, String, u64, u64)> = ask.query(&mut server.connect()?)?;
    Ok(found.into_iter().map(|(id, consumer, ..)| (id, consumer)).collect())
}

#[test]
fn what_is_pending_of_entries_that_are_gone_is_no_difference_and_of_all_others_moves() -> Result<()> {
    for (from, to) in [("redis-7.0", "redis-7.0"), ("redis-7.0", "redis-5.0"), ("redis-6.2", "valkey-9.1")] {
        let (source, target) = (Server::start(from, &[])?, Server::start(to, &[])?);
        fill(&source)?;
        let (_dir, state) = state()?;
        let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--allow-downgrade"])?;
        dts.wait_for_phase("INCR_SYNC")?;
        complete(&state)?;
        let (code, events) = dts.end()?;
        ensure!(code == Some(0), "{from} to {to}: {:?}", events.last());
        ensure!(pending(&source, 0)?.len() == 1300, "the source forgets what is pending of entries that are gone");
        ensure!(pending(&target, 701)?.len() == 600 && pending(&target, 701)? == pending(&source, 701)?);
        let (code, report) = verify(&source.url(), &target.url(), &[])?;
        ensure!(code == 0, "{from} to {to}: {report}");
        // One that is there, and one of somebody else.
        let mut connection = target.connect()?;
        redis::cmd("XACK").arg("stream").arg("group").arg("900-1").exec(&mut connection)?;
        let (code, report) = verify(&source.url(), &target.url(), &[])?;
        ensure!(code == 4 && found(&report).len() == 1, "{from} to {to}: {report}");
        let mut claim = redis::cmd("XCLAIM");
        claim.arg("stream").arg("group").arg("one").arg(0).arg("900-1").arg("FORCE").arg("JUSTID");
        claim.query::<Value>(&mut connection)?;
        let (code, report) = verify(&source.url(), &target.url(), &[])?;
        ensure!(code == 4 && found(&report).len() == 1, "{from} to {to}: {report}");
    }
    Ok(())
}
