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
    fill_small(server, streams)?;
    redis::cmd("SET").arg("huge").arg(huge()).exec(&mut server.connect()?)?;
    Ok(())
}

/// The same without the 100 MB value.
pub fn fill_small(server: &Server, streams: bool) -> Result<()> {
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
        Self::start_as(server, version(server)?)
    }

    /// Begins, with nothing that a server of this version does not know.
    pub fn start_as(server: &Server, version: u32) -> Result<Self> {
        let mut connection = server.connect()?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                round(&mut connection, version, counted.fetch_add(1, Ordering::Relaxed))?;
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

/// Of Redis that the server understands, as major * 100 + minor.
pub fn version(server: &Server) -> Result<u32> {
    let text = server.info("redis_version")?;
    let mut numbers = text.split('.').map(str::parse::<u32>);
    let (major, minor) = (numbers.next().unwrap_or(Ok(0))?, numbers.next().unwrap_or(Ok(0))?);
    // The release candidates of 4.0.
    Ok(if (major, minor) == (3, 9) { 400 } else { major * 100 + minor })
}

fn round(connection: &mut Connection, version: u32, n: u64) -> Result<()> {
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
    newer(&mut pipe, version, n);
    pipe.cmd("SELECT").arg(5).ignore();
    if n.is_multiple_of(50) {
        pipe.cmd("FLUSHDB").ignore();
    }
    pipe.cmd("INCR").arg("scratch").ignore();
    pipe.cmd("SELECT").arg(0).ignore();
    pipe.query::<()>(connection)?;
    Ok(())
}

/// What came with later versions, and what touches several keys or databases.
fn newer(pipe: &mut redis::Pipeline, version: u32, n: u64) {
    let key = n % 100;
    pipe.cmd("PFADD").arg("load:hll").arg(n).ignore();
    pipe.cmd("SETBIT").arg("load:bits").arg(n % 10_000).arg(n % 2).ignore();
    pipe.cmd("SINTERSTORE").arg("load:inter").arg("load:set").arg("load:set").ignore();
    pipe.cmd("SORT").arg("load:to").arg("LIMIT").arg(0).arg(5).arg("STORE").arg("load:sorted").ignore();
    pipe.cmd("SET").arg(format!("load:moved:{n}")).arg(n).ignore();
    pipe.cmd("EXPIRE").arg(format!("load:moved:{n}")).arg(3000).ignore();
    pipe.cmd("MOVE").arg(format!("load:moved:{n}")).arg(4).ignore();
    pipe.cmd("PSETEX").arg(format!("load:gone:{key}")).arg(20).arg(n).ignore();
    if version >= 302 {
        pipe.cmd("SPOP").arg("load:set").arg(2).ignore();
        pipe.cmd("GEOADD").arg("load:geo").arg(13.36).arg(38.11).arg(key).ignore();
        pipe.cmd("BITFIELD").arg("load:field").arg("INCRBY").arg("i16").arg(key).arg(1).ignore();
    }
    if version >= 400 {
        pipe.cmd("UNLINK").arg(format!("load:new:{}", n % 500)).ignore();
        if n.is_multiple_of(40) {
            pipe.cmd("SELECT").arg(6).ignore().cmd("INCR").arg("six").ignore();
            pipe.cmd("SELECT").arg(0).ignore().cmd("SWAPDB").arg(6).arg(7).ignore();
        }
        if n.is_multiple_of(333) {
            pipe.cmd("SWAPDB").arg(0).arg(8).ignore().cmd("SWAPDB").arg(0).arg(8).ignore();
        }
    }
    if version >= 500 {
        pipe.cmd("XADD").arg("load:trimmed").arg("MAXLEN").arg(500).arg("*").arg("n").arg(n).ignore();
        // Not trimmed: what is pending of entries that are gone does not move to every target.
        pipe.cmd("XADD").arg("load:stream").arg("*").arg("n").arg(n).ignore();
        if n == 0 {
            pipe.cmd("XGROUP").arg("CREATE").arg("load:stream").arg("readers").arg("0").ignore();
        }
        pipe.cmd("XREADGROUP").arg("GROUP").arg("readers").arg(key % 3).arg("COUNT").arg(1);
        pipe.arg("STREAMS").arg("load:stream").arg(">").ignore();
        pipe.cmd("ZPOPMIN").arg("load:zset").ignore();
    }
    if version >= 602 {
        pipe.cmd("COPY").arg("load:hash").arg(format!("load:copy:{key}")).arg("REPLACE").ignore();
        pipe.cmd("LMOVE").arg("load:to").arg("load:from").arg("LEFT").arg("RIGHT").ignore();
        pipe.cmd("GETEX").arg(format!("load:expiring:{key}")).arg("EX").arg(4000).ignore();
        pipe.cmd("SET").arg(format!("load:get:{key}")).arg(n).arg("PX").arg(900_000).arg("GET").ignore();
        pipe.cmd("SET").arg(format!("load:get:{key}")).arg(n).arg("KEEPTTL").ignore();
    }
    if version >= 700 {
        if n == 0 {
            let library = "#!lua name=counting\nredis.register_function('count', function(keys) return redis.call('INCR', keys[1]) end)";
            pipe.cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library).ignore();
        }
        pipe.cmd("FCALL").arg("count").arg(1).arg("load:function").ignore();
    }
    if version >= 704 {
        pipe.cmd("HPEXPIRE").arg("load:hash").arg(800_000).arg("FIELDS").arg(1).arg(n % 500).ignore();
    }
}
