//! Ports for the servers of the tests: no two processes of tests have the same, and none is of those that the system gives to
//! connections, of which there are many at any time.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The ephemeral range begins at 32768; a node of a cluster listens for the others so far above its port.
const BUS: u16 = 10_000;
const FIRST: u16 = 12_000;
/// Ports of one process; the first of them is held for as long as it lives, and says so to the others.
const BLOCK: u16 = 400;
const BLOCKS: u16 = 25;

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).ok()
}

/// First port of this process's block.
fn block() -> u16 {
    static HELD: OnceLock<Option<(u16, TcpListener)>> = OnceLock::new();
    let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
    let blocks = || (0..BLOCKS).map(|next| FIRST + (start + next) % BLOCKS * BLOCK);
    let held = HELD.get_or_init(|| blocks().find_map(|port| Some((port, listen(port)?))));
    held.as_ref().map_or(FIRST + start * BLOCK, |(port, _)| *port)
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = block() + 1 + NEXT.fetch_add(1, Ordering::Relaxed) % (BLOCK - 1);
        if listen(port).is_some() && listen(port + BUS).is_some() {
            return port;
        }
    }
}
