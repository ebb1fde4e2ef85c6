//! Traffic over servers that share one key space between them: a cluster, or servers that a client divides its keys among.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use redis::cluster::ClusterClient;
use redis::{Cmd, cmd};

use crate::cluster::Cluster;
use crate::server::Server;

const PACE: Duration = Duration::from_millis(1);

/// Traffic until it is stopped.
pub struct Spread {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Takes a key and a command on it.
pub trait Client: Send + 'static {
    /// Sends the command to whoever has the key.
    fn send(&mut self, key: &str, command: &Cmd) -> Result<()>;
}

/// A client of a cluster, as applications use one. What it could not send while nodes failed over was not written.
struct OfCluster(redis::cluster::ClusterConnection);

impl Client for OfCluster {
    fn send(&mut self, _key: &str, command: &Cmd) -> Result<()> {
        // An outage is part of the traffic.
        let _written_or_not = command.exec(&mut self.0);
        Ok(())
    }
}

/// A client that divides its keys.
pub struct Divided<F>(Vec<redis::Connection>, F);

impl<F: Fn(&str) -> usize> Divided<F> {
    /// By a function of the key.
    pub fn among(servers: &[&Server], by: F) -> Result<Self> {
        Ok(Self(servers.iter().map(|server| server.connect()).collect::<Result<_>>()?, by))
    }
}

impl<F: Fn(&str) -> usize + Send + 'static> Client for Divided<F> {
    fn send(&mut self, key: &str, command: &Cmd) -> Result<()> {
        let at = (self.1)(key);
        Ok(command.exec(&mut self.0[at])?)
    }
}

/// A client of a cluster.
pub fn client_of(cluster: &Cluster) -> Result<impl Client + use<>> {
    let urls: Vec<String> = cluster.nodes.iter().map(Server::url).collect();
    let client = ClusterClient::builder(urls)
        .connection_timeout(Duration::from_secs(1))
        .response_timeout(Duration::from_secs(2))
        .retries(3)
        .build()?;
    Ok(OfCluster(client.get_connection()?))
}

/// Keys of several types, some with expiries.
pub fn fill(client: &mut impl Client, count: u32) -> Result<()> {
    for i in 0..count {
        let key = format!("fill:{i}");
        match i % 5 {
            0 => client.send(&key, cmd("SET").arg(&key).arg("v".repeat(usize::try_from(i % 900)?)))?,
            1 => client.send(&key, cmd("RPUSH").arg(&key).arg(&["a", "b", "c"]))?,
            2 => client.send(&key, cmd("HMSET").arg(&key).arg("f").arg(i).arg("g").arg("x"))?,
            3 => client.send(&key, cmd("ZADD").arg(&key).arg(i).arg("m").arg(1).arg("n"))?,
            _ => client.send(&key, cmd("SETEX").arg(&key).arg(3600).arg(i))?,
        }
    }
    Ok(())
}

impl Spread {
    /// Begins.
    pub fn start(mut client: impl Client) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                round(&mut client, counted.fetch_add(1, Ordering::Relaxed))?;
                std::thread::sleep(PACE);
            }
            Ok(())
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// How often everything was done.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits for more traffic; its end, if it broke, is told by [`Spread::stop`].
    pub fn more(&self, rounds: u64) {
        let (goal, deadline) = (self.rounds() + rounds, Instant::now() + crate::PATIENCE);
        while self.rounds() < goal && Instant::now() < deadline {
            std::thread::sleep(PACE);
        }
    }

    /// Ends, and says whether every command was taken.
    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the traffic broke"))?)
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What would show if it were lost, done twice, or done out of order.
fn round(client: &mut impl Client, n: u64) -> Result<()> {
    let of = |name: &str, modulus: u64| format!("{name}:{}", n % modulus);
    let mut send = |name: &str, key: String, words: &[String]| client.send(&key, cmd(name).arg(&key).arg(words));
    send("INCR", of("counter", 97), &[])?;
    send("APPEND", of("text", 211), &[(n % 10).to_string()])?;
    send("RPUSH", of("list", 53), &[n.to_string()])?;
    send("LTRIM", of("list", 53), &["-50".into(), "-1".into()])?;
    send("HINCRBY", of("hash", 61), &[(n % 7).to_string(), "3".into()])?;
    send("ZINCRBY", of("zset", 67), &["0.5".into(), (n % 9).to_string()])?;
    send("SETEX", of("expiring", 300), &["1000".into(), n.to_string()])?;
    // Deleted and made again: a deletion that comes late would show.
    send("DEL", of("again", 40), &[])?;
    send("RPUSH", of("again", 40), &[n.to_string()])?;
    send("DEL", of("fill", 5000), &[])?;
    send("SET", format!("new:{n}"), &[n.to_string()])?;
    send("PEXPIRE", format!("new:{n}"), &["900000".into()])?;
    if n > 400 {
        send("DEL", format!("new:{}", n - 400), &[])?;
    }
    Ok(())
}
