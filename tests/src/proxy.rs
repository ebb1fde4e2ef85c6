//! A bad network between two ends: slow, silent, cutting, altering. On loopback, in threads of its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::server::Server;

const PIECE: usize = 16 << 10;
const BEAT: Duration = Duration::from_millis(5);

/// What is done to the connections; may be changed while they are open.
#[derive(Debug, Default)]
pub struct Weather {
    /// Bytes a second towards the server, over all connections; 0: as fast as it goes.
    pub upload: AtomicU64,
    /// So many ms go by before what has come meanwhile is passed on towards the server, together.
    pub gather_ms: AtomicU64,
    /// Nothing passes, and nobody is told.
    pub silent: AtomicBool,
    /// How many more connections are cut once the server has answered `cut_after` bytes.
    pub cuts: AtomicU64,
    /// See `cuts`.
    pub cut_after: AtomicU64,
    /// How many more connections get a wrong byte at `alter_at` of what the server answers.
    pub alterations: AtomicU64,
    /// See `alterations`.
    pub alter_at: AtomicU64,
    /// Connections that were cut or altered.
    pub done: AtomicU64,
    /// Port of the server that the next connections go to.
    to: AtomicU16,
    ended: AtomicBool,
    uploaded: AtomicU64,
}

/// A proxy in front of one server.
pub struct Proxy {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// What it does.
    pub weather: Arc<Weather>,
}

impl Proxy {
    /// In front of `server`, in fair weather.
    pub fn before(server: &Server) -> Result<Self> {
        Self::before_port(server.port)
    }

    /// In front of whatever listens there, in fair weather.
    pub fn before_port(to: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let weather = Arc::new(Weather::default());
        weather.to.store(to, Ordering::Relaxed);
        let shared = weather.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let to = shared.to.load(Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                connect(&client, &server, &shared);
            }
        });
        Ok(Self { port, weather })
    }

    /// From the next connection on it stands before this server, as an address does that moves with a failover.
    pub fn lead_to(&self, server: &Server) {
        self.weather.to.store(server.port, Ordering::Relaxed);
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.ended.store(true, Ordering::Relaxed);
        // Wakes the listener; it may be gone.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn connect(client: &TcpStream, server: &TcpStream, weather: &Arc<Weather>) {
    for (from, to, up) in [(client, server, true), (server, client, false)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let weather = weather.clone();
        std::thread::spawn(move || {
            let _ends_with_either = pass(&from, &to, up, &weather);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// One of `left`, if there is one and `reached`.
fn take(left: &AtomicU64, reached: bool) -> bool {
    reached && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, up: bool, weather: &Weather) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut passed = 0u64;
    let begun = Instant::now();
    let before = weather.uploaded.load(Ordering::Relaxed);
    let mut altered = false;
    loop {
        if up {
            std::thread::sleep(Duration::from_millis(weather.gather_ms.load(Ordering::Relaxed)));
        }
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        while weather.silent.load(Ordering::Relaxed) && !weather.ended.load(Ordering::Relaxed) {
            std::thread::sleep(BEAT);
        }
        let end = passed + length as u64;
        if up {
            let sent = weather.uploaded.fetch_add(length as u64, Ordering::Relaxed) - before;
            loop {
                let rate = weather.upload.load(Ordering::Relaxed);
                let due = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(rate) / 1000;
                if rate == 0 || sent <= due || weather.ended.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(BEAT);
            }
        } else {
            let at = weather.alter_at.load(Ordering::Relaxed);
            if !altered && (passed..end).contains(&at) && take(&weather.alterations, true) {
                altered = true;
                piece[usize::try_from(at - passed).unwrap_or(0)] ^= 0x55;
                weather.done.fetch_add(1, Ordering::Relaxed);
            }
            if take(&weather.cuts, end >= weather.cut_after.load(Ordering::Relaxed)) {
                weather.done.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        to.write_all(&piece[..length])?;
        passed = end;
    }
}
