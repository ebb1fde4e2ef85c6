//! Data of every type, and traffic that would show a change that was lost or done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::Connection;

use crate::server::Server;

/// Every type in its small and large encoding, several databases, expiries, binary and empty things.
pub fn fill(server: &Server, streams: bool) -> Result<()> {
    let mut connection = server.connect()?;
    let mut pipe = redis::pipe();
    for i in 0..2000 {
        pipe.cmd("SET").arg(format!("string:{i}")).arg(format!("value {i}")).ignore();
        pipe.cmd("SETEX").arg(format!("expiring:{i}")).arg(3600 + i).arg(i).ignore();
    }
    for (name, count) in [("small", 5), ("large", 3000)] {
        for i in 0..count {
            let text = format!("element {i}");
            pipe.cmd("RPUSH").arg(format!("list:{name}")).arg(&text).ignore();
            pipe.cmd("SADD").arg(format!("set:{name}")).arg(&text).ignore();
            pipe.cmd("SADD").arg(format!("intset:{name}")).arg(i * 70_000).ignore();
            pipe.cmd("HSET").arg(format!("hash:{name}")).arg(&text).arg(i).ignore();
            pipe.cmd("ZADD").arg(format!("zset:{name}")).arg(f64::from(i) / 3.0).arg(&text).ignore();
            if streams {
                pipe.cmd("XADD")
                    .arg(format!("stream:{name}"))
                    .arg(format!("{}-1", i + 1))
                    .arg("field")
                    .arg(&text)
                    .ignore();
            }
        }
    }
    pipe.cmd("ZADD").arg("zset:inf").arg("inf").arg("up").arg("-inf").arg("down").ignore();
    pipe.cmd("SET").arg(b"binary\x00\xff\r\n").arg(b"\x00\x01\r\n\xff").ignore();
    pipe.cmd("SET").arg("empty").arg("").ignore();
    pipe.cmd("SET").arg("compressible").arg("abc".repeat(100_000)).ignore();
    pipe.cmd("SET").arg("huge").arg(huge()).ignore();
    pipe.cmd("HSET").arg("hash:wide").arg("field").arg("w".repeat(2 << 20)).ignore();
    if streams {
        pipe.cmd("XGROUP").arg("CREATE").arg("stream:small").arg("group").arg("0").ignore();
        pipe.cmd("XREADGROUP").arg("GROUP").arg("group").arg("me").arg("COUNT").arg(3);
        pipe.arg("STREAMS").arg("stream:small").arg(">").ignore();
    }
    for db in [3, 9] {
        pipe.cmd("SELECT").arg(db).ignore();
        pipe.cmd("RPUSH").arg("list").arg(db).ignore();
        pipe.cmd("SETEX").arg("expiring").arg(5000).arg(db).ignore();
    }
    pipe.query::<()>(&mut connection)?;
    Ok(())
}

/// 100 MB that do not compress.
fn huge() -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut bytes = Vec::with_capacity(100 << 20);
    while bytes.len() < 100 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

const PACE: Duration = Duration::from_millis(1);

/// Traffic on a server until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    /// Begins.
    pub fn start(server: &Server) -> Result<Self> {
        let mut connection = server.connect()?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                round(&mut connection, counted.fetch_add(1, Ordering::Relaxed))?;
                // Busy, but not so that servers, proxies and tests starve on a small machine.
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

    /// Ends, and says whether every command was taken.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the load broke"))?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn round(connection: &mut Connection, n: u64) -> Result<()> {
    let mut pipe = redis::pipe();
    let key = n % 500;
    pipe.cmd("INCR").arg("load:counter").ignore();
    pipe.cmd("LPUSH").arg("load:from").arg(n).arg(n + 1).ignore();
    pipe.cmd("RPOPLPUSH").arg("load:from").arg("load:to").ignore();
    pipe.cmd("LTRIM").arg("load:to").arg(0).arg(999).ignore();
    pipe.cmd("SADD").arg("load:set").arg(n).arg(n + 1).arg(n + 2).ignore();
    pipe.cmd("SPOP").arg("load:set").ignore();
    pipe.cmd("HINCRBY").arg("load:hash").arg(key).arg(3).ignore();
    pipe.cmd("ZINCRBY").arg("load:zset").arg(0.5).arg(key).ignore();
    pipe.cmd("APPEND").arg(format!("load:text:{key}")).arg("x").ignore();
    pipe.cmd("SETEX").arg(format!("load:expiring:{key}")).arg(1000).arg(n).ignore();
    pipe.cmd("EXPIRE").arg(format!("load:text:{key}")).arg(2000).ignore();
    pipe.cmd("PERSIST").arg(format!("load:text:{key}")).ignore();
    pipe.cmd("EVAL").arg("redis.call('INCRBY', KEYS[1], ARGV[1]) return 1").arg(1).arg("load:script").arg(2).ignore();
    pipe.cmd("SET").arg("load:old").arg(n).ignore();
    pipe.cmd("RENAME").arg("load:old").arg(format!("load:new:{key}")).ignore();
    pipe.cmd("PUBLISH").arg("noise").arg(n).ignore();
    pipe.cmd("MULTI")
        .ignore()
        .cmd("INCR")
        .arg("load:a")
        .ignore()
        .cmd("INCR")
        .arg("load:b")
        .ignore()
        .cmd("EXEC")
        .ignore();
    pipe.cmd("SELECT").arg(5).ignore();
    if n.is_multiple_of(50) {
        pipe.cmd("FLUSHDB").ignore();
    }
    pipe.cmd("INCR").arg("scratch").ignore();
    pipe.cmd("SELECT").arg(0).ignore();
    pipe.query::<()>(connection)?;
    Ok(())
}
