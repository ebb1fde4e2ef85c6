//! Traffic on db 0 of a standalone server whose keys lie in many slots: counters that show a change lost or done twice,
//! commands and transactions over several slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::Connection;

use crate::server::Server;

const PACE: Duration = Duration::from_millis(1);
/// Names of each kind: they spread over as many slots.
const NAMES: u64 = 97;

/// Traffic until it is stopped.
pub struct SpreadLoad {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SpreadLoad {
    /// Begins; with `effects` also what a cluster can only do by its effect.
    pub fn start(server: &Server, effects: bool) -> Result<Self> {
        let (client, mut connection) = (redis::Client::open(server.url())?, server.connect()?);
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = round(&mut connection, effects, counted.fetch_add(1, Ordering::Relaxed)) {
                    // A machine that is stopped and goes on interrupts what waits; the source alone says what was done.
                    let interrupted = error.downcast_ref().is_some_and(redis::RedisError::is_io_error)
                        && error.to_string().contains("Interrupted");
                    if !interrupted {
                        return Err(error);
                    }
                    connection = client.get_connection()?;
                }
                std::thread::sleep(PACE);
            }
            Ok(())
        });
        Ok(Self { stop, rounds, thread: Some(thread) })
    }

    /// How often everything was done.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits for so many more rounds.
    pub fn pass(&self, rounds: u64) {
        let goal = self.rounds() + rounds;
        while self.rounds() < goal && self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::sleep(PACE);
        }
    }

    /// Ends, and says whether every command was taken.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the load broke"))?)
    }
}

impl Drop for SpreadLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn round(connection: &mut Connection, effects: bool, n: u64) -> Result<()> {
    let mut pipe = redis::pipe();
    let (a, b) = (n % NAMES, (n * 31 + 7) % NAMES);
    pipe.cmd("INCR").arg(format!("counter:{a}")).ignore();
    pipe.cmd("INCR").arg("counter:hot").ignore();
    pipe.cmd("RPUSH").arg(format!("list:{a}")).arg(n).ignore();
    pipe.cmd("LTRIM").arg(format!("list:{a}")).arg(-50).arg(-1).ignore();
    pipe.cmd("HINCRBY").arg(format!("hash:{b}")).arg(n % 7).arg(3).ignore();
    pipe.cmd("ZINCRBY").arg(format!("zset:{a}")).arg(0.5).arg(b).ignore();
    pipe.cmd("APPEND").arg(format!("text:{b}")).arg("x").ignore();
    pipe.cmd("SADD").arg(format!("set:{a}")).arg(n % 50).arg(n % 31).ignore();
    pipe.cmd("SPOP").arg(format!("set:{b}")).ignore();
    pipe.cmd("SET").arg(format!("string:{n}")).arg(n).ignore();
    pipe.cmd("SETEX").arg(format!("expiring:{a}")).arg(1000).arg(n).ignore();
    pipe.cmd("XADD").arg(format!("stream:{a}")).arg("MAXLEN").arg(20).arg("*").arg("n").arg(n).ignore();
    pipe.cmd("MSET").arg(format!("m:{a}")).arg(n).arg(format!("m:{b}")).arg(n).arg(format!("k:{a}")).arg(n).ignore();
    pipe.cmd("DEL").arg(format!("m:{b}")).arg(format!("string:{}", n.saturating_sub(500))).ignore();
    pipe.cmd("SMOVE").arg(format!("set:{a}")).arg(format!("set:{b}")).arg(n % 50).ignore();
    pipe.cmd("MULTI").ignore().cmd("INCR").arg(format!("group:{a}")).ignore();
    pipe.cmd("INCR").arg(format!("group:{b}")).ignore().cmd("EXEC").ignore();
    pipe.cmd("EVAL").arg("return redis.call('INCRBY', KEYS[1], 2)").arg(1).arg(format!("script:{a}")).ignore();
    pipe.cmd("PUBLISH").arg("noise").arg(n).ignore();
    if effects && n.is_multiple_of(5) {
        pipe.cmd("RPUSH").arg("queue:from").arg(n).arg(n + 1).ignore();
        pipe.cmd("RPOPLPUSH").arg("queue:from").arg(format!("queue:{a}")).ignore();
        pipe.cmd("SETEX").arg("renamed:from").arg(5000).arg(n).ignore();
        pipe.cmd("RENAME").arg("renamed:from").arg(format!("renamed:{b}")).ignore();
        pipe.cmd("SUNIONSTORE").arg(format!("union:{a}")).arg(format!("set:{a}")).arg(format!("set:{b}")).ignore();
        pipe.cmd("ZUNIONSTORE").arg("zunion").arg(2).arg(format!("zset:{a}")).arg(format!("zset:{b}")).ignore();
        pipe.cmd("SORT").arg(format!("list:{a}")).arg("LIMIT").arg(0).arg(9).arg("STORE").arg("sorted").ignore();
        pipe.cmd("MULTI").ignore().cmd("INCR").arg(format!("counter:{b}")).ignore();
        pipe.cmd("SET").arg("moved:from").arg(n).ignore().cmd("RENAME").arg("moved:from").arg("moved:to").ignore();
        pipe.cmd("INCR").arg(format!("counter:{b}")).ignore().cmd("EXEC").ignore();
    }
    pipe.query::<()>(connection)?;
    Ok(())
}
