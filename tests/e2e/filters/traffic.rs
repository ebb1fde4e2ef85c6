//! Traffic that goes back and forth over the border of a filter, by exact commands only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use dts_tests::server::Server;

use crate::until;

/// What the filter looks at.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Names that begin with `in:` and do not end with 6 or 7, in databases 0 to 2.
    Names,
    /// Types.
    Types,
}

/// After the stop, without flushes: so that there is something to compare.
const LAST_ROUNDS: u64 = 50;

pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Traffic {
    pub(super) fn start(server: &Server, kind: Kind) -> Result<Self> {
        let mut connection = server.connect()?;
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let seed = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() & u128::from(u64::MAX))? | 1;
        println!("seed {seed}");
        let thread = std::thread::spawn(move || {
            let mut dice = Dice(seed);
            let mut last = LAST_ROUNDS;
            while last > 0 {
                let ending = stopped.load(Ordering::Relaxed);
                last -= u64::from(ending);
                let mut pipe = redis::pipe();
                for _ in 0..20 {
                    let words = if kind == Kind::Names { names(&mut dice) } else { types(&mut dice) };
                    if ending && words[0].starts_with("FLUSH") {
                        continue;
                    }
                    let mut command = redis::Cmd::new();
                    command.arg(words);
                    pipe.add_command(command);
                }
                // What a server refuses (no such key, another type) is not replicated.
                let _refused_or_not: redis::RedisResult<redis::Value> = pipe.query(&mut connection);
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            redis::cmd("PING").exec(&mut connection)?;
            Ok(())
        });
        Ok(Self { stop, rounds, thread: Some(thread) })
    }

    /// Waits for so many rounds more.
    pub(super) fn wait_for(&self, rounds: u64) -> Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + rounds;
        until("traffic", || Ok(self.rounds.load(Ordering::Relaxed) >= goal))
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the traffic broke"))?)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// A key of a type, inside of the filter, outside, or either.
    fn key(&mut self, kind: &str, side: Option<bool>) -> String {
        let inside = side.unwrap_or_else(|| self.roll(2) == 0);
        match (inside, self.roll(8)) {
            (true, n) => format!("in:{kind}:{}", n % 6),
            (false, 0) => format!("in:{kind}:6"),
            (false, 1) => format!("in:{kind}:7"),
            (false, n) => format!("out:{kind}:{n}"),
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Names, databases.
fn names(dice: &mut Dice) -> Vec<String> {
    let n = dice.roll(1000);
    let any = |dice: &mut Dice, kind: &str| dice.key(kind, None);
    let text = match dice.roll(34) {
        0..=5 => format!("SELECT {}", dice.roll(5)),
        6 => format!("SET {} {n}", any(dice, "s")),
        7 => format!("INCR {}", any(dice, "n")),
        8 => format!("MSET {} {n} {} {n} {} {n}", any(dice, "s"), any(dice, "s"), any(dice, "s")),
        9 => format!("MSETNX {} {n} {} {n}", any(dice, "s"), any(dice, "s")),
        10 => format!("DEL {} {} {}", any(dice, "s"), any(dice, "l"), any(dice, "e")),
        11 => format!("UNLINK {} {}", any(dice, "n"), any(dice, "z")),
        12 => format!("RENAME {} {}", dice.key("s", Some(true)), any(dice, "s")),
        13 => format!("RENAME {} {}", dice.key("s", Some(false)), dice.key("s", Some(false))),
        14 => format!("RENAMENX {} {}", dice.key("n", Some(true)), dice.key("n", Some(false))),
        15 => format!("COPY {} {}", dice.key("s", Some(true)), any(dice, "s")),
        16 => format!("COPY {} {} REPLACE", dice.key("e", Some(false)), dice.key("e", Some(false))),
        17 | 18 => format!("SADD {} {} {}", any(dice, "e"), n % 20, n % 7),
        19 => format!("SMOVE {} {} {}", any(dice, "e"), any(dice, "e"), n % 20),
        20 => format!("SPOP {}", any(dice, "e")),
        21 => format!("SUNIONSTORE {} {} {}", any(dice, "u"), dice.key("e", Some(true)), dice.key("e", Some(true))),
        22 | 23 => format!("RPUSH {} {n} {n}", any(dice, "l")),
        24 => format!("RPOPLPUSH {} {}", dice.key("l", Some(true)), any(dice, "l")),
        25 => format!("LMOVE {} {} LEFT RIGHT", dice.key("l", Some(true)), any(dice, "l")),
        26 => format!("LMOVE {} {} RIGHT RIGHT", dice.key("l", Some(false)), dice.key("l", Some(false))),
        27 => format!("PEXPIRE {} {}", any(dice, "s"), 200 + n * 1000),
        28 => format!("SET {} {n} EX {}", any(dice, "s"), 100 + n),
        29 => format!("PERSIST {}", any(dice, "s")),
        30 => format!("ZINCRBY {} 1.5 {}", any(dice, "z"), n % 10),
        31 => format!("PFADD {} {n}", any(dice, "p")),
        32 => match n % 20 {
            0 => "FLUSHDB".into(),
            1 if n < 60 => "FLUSHALL".into(),
            _ => format!("HINCRBY {} f{} 1", any(dice, "h"), n % 5),
        },
        // Within the covered databases, out of them, or where nothing is covered.
        _ => format!("MOVE {} {}", dice.key("s", Some(false)), dice.roll(5)),
    };
    words(&text)
}

/// Keys that are now of one type and now of another.
fn types(dice: &mut Dice) -> Vec<String> {
    let n = dice.roll(1000);
    let key = |dice: &mut Dice| format!("k{}", dice.roll(40));
    let text = match dice.roll(26) {
        0 => format!("SELECT {}", dice.roll(3)),
        1 | 2 => format!("SET {} {n}", key(dice)),
        3 => format!("SET {} {n} PX {}", key(dice), 100 + n * 100),
        4 => format!("MSET {} {n} {} {n}", key(dice), key(dice)),
        5..=7 => format!("HSET {} f{} {n}", key(dice), n % 5),
        8 => format!("HINCRBY {} f{} 1", key(dice), n % 5),
        9..=11 => format!("SADD {} {}", key(dice), n % 30),
        12 => format!("SPOP {}", key(dice)),
        13 => format!("ZINCRBY {} 1 {}", key(dice), n % 10),
        14 => format!("RPUSH {} {n}", key(dice)),
        15 => format!("APPEND {} x", key(dice)),
        16 | 17 => format!("DEL {}", key(dice)),
        18 => format!("RENAME {} {}", key(dice), key(dice)),
        19 => format!("COPY {} {} REPLACE", key(dice), key(dice)),
        20 => format!("SUNIONSTORE {} {} {}", key(dice), key(dice), key(dice)),
        21 => format!("ZUNIONSTORE {} 2 {} {}", key(dice), key(dice), key(dice)),
        22 => format!("PEXPIRE {} {}", key(dice), 100 + n * 1000),
        23 => format!("MOVE {} {}", key(dice), dice.roll(3)),
        24 => format!("SMOVE {} {} {}", key(dice), key(dice), n % 30),
        _ => match n % 50 {
            0 => "FLUSHDB".into(),
            1 => "SWAPDB 0 1".into(),
            _ => format!("BITOP NOT {} {}", key(dice), key(dice)),
        },
    };
    words(&text)
}
