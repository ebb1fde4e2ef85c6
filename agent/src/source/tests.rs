//! Faults that a real source cannot be made to have, played by a scripted one.

use std::time::Duration;

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use dts_common::position::{Position, ReplicationId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::endpoint::Endpoint;
use crate::spool::{self, Reader, SpoolConfig};

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";
const EOF: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";

fn id(text: &str) -> ReplicationId {
    text.parse().unwrap()
}

/// The scripted source's end of one connection.
struct Peer(BufReader<TcpStream>);

impl Peer {
    /// Accepts, answers the handshake up to PSYNC or SYNC, and gives that command.
    async fn accept(listener: &TcpListener) -> (Self, String) {
        let mut peer = Self(BufReader::new(listener.accept().await.unwrap().0));
        loop {
            let command = peer.command().await;
            match command.split(' ').next().unwrap() {
                "PING" => peer.send("+PONG\r\n").await,
                "TIME" => peer.send("*2\r\n$10\r\n4000000000\r\n$6\r\n000000\r\n").await,
                "REPLCONF" if command.starts_with("REPLCONF version") => peer.send("-ERR Unrecognized\r\n").await,
                "REPLCONF" => peer.send("+OK\r\n").await,
                _ => return (peer, command),
            }
        }
    }

    /// The next command, skipping newlines.
    async fn command(&mut self) -> String {
        let mut header = self.line().await;
        while header.is_empty() {
            header = self.line().await;
        }
        let count: usize = header.strip_prefix('*').unwrap().parse().unwrap();
        let mut words = Vec::new();
        for _ in 0..count {
            let length: usize = self.line().await.strip_prefix('$').unwrap().parse().unwrap();
            let mut word = vec![0; length + 2];
            self.0.read_exact(&mut word).await.unwrap();
            word.truncate(length);
            words.push(String::from_utf8(word).unwrap());
        }
        words.join(" ")
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the agent closed the link");
        line.trim_end().to_owned()
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }
}

struct Agent {
    listener: TcpListener,
    reader: Reader,
    received: watch::Receiver<Received>,
    acknowledge: watch::Sender<u64>,
    cancel: CancellationToken,
    running: JoinHandle<Result<()>>,
    _trouble: watch::Receiver<Option<Error>>,
    _dir: tempfile::TempDir,
}

impl Agent {
    async fn start(window: Duration, resume: Option<Position>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint { host: "127.0.0.1".into(), port, username: None, password: None };
        let dir = tempfile::tempdir().unwrap();
        let spool = SpoolConfig { dir: dir.path().to_owned(), memory_bytes: 1 << 20, disk_bytes: 1 << 20 };
        let (writer, reader) = spool::open(spool).unwrap();
        let (publish, received) = watch::channel(Received::default());
        let (acknowledge, acknowledged) = watch::channel(0);
        let (trouble, _trouble) = watch::channel(None);
        let cancel = CancellationToken::new();
        let config = SourceConfig { endpoint, retry_window: window };
        let running = tokio::spawn(run(config, resume, writer, publish, acknowledged, trouble, cancel.clone()));
        Self { listener, reader, received, acknowledge, cancel, running, _trouble, _dir: dir }
    }

    async fn next(&mut self) -> Record {
        self.reader.next().await.unwrap().unwrap()
    }

    /// The bytes of the stream from an offset on, until so many are there.
    async fn stream(&mut self, from: u64, length: usize) -> String {
        let mut all = Vec::new();
        while all.len() < length {
            let Record::Stream { offset, received_ms, bytes } = self.next().await else { panic!("not the stream") };
            assert_eq!(offset, from + all.len() as u64);
            assert!(received_ms >= 4_000_000_000_000, "the source's clock counts");
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    async fn snapshot(&mut self, length: usize) -> String {
        let mut all = Vec::new();
        while all.len() < length {
            let Record::Snapshot(bytes) = self.next().await else { panic!("not the snapshot") };
            all.extend_from_slice(&bytes);
        }
        String::from_utf8(all).unwrap()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.running.await.unwrap().unwrap();
        assert!(!self.received.borrow().connected);
    }
}

#[tokio::test]
async fn garbage_instead_of_an_answer_is_named_as_such() {
    let agent = Agent::start(Duration::ZERO, None).await;
    let (mut peer, command) = Peer::accept(&agent.listener).await;
    assert_eq!(command, "PSYNC ? -1");
    peer.send("HTTP/1.1 400 Bad Request\r\n").await;
    assert_eq!(agent.running.await.unwrap().unwrap_err().code, Code::SourceProtocol);
}

#[tokio::test]
async fn a_link_cut_in_the_snapshot_begins_a_new_one() {
    let mut agent = Agent::start(Duration::from_secs(60), None).await;
    let (mut peer, _) = Peer::accept(&agent.listener).await;
    peer.send(&format!("\n\n+FULLRESYNC {FIRST} 7\r\n\n$10\r\nabc")).await;
    let begin = Record::SnapshotBegin { history: Some(id(FIRST)), offset: 7, size: Some(10) };
    assert_eq!(agent.next().await, begin);
    assert_eq!(agent.snapshot(3).await, "abc");
    drop(peer);
    let (mut peer, command) = Peer::accept(&agent.listener).await;
    assert_eq!(command, "PSYNC ? -1");
    // Everything at once: nothing may wait for more before it acknowledges.
    peer.send(&format!("+FULLRESYNC {FIRST} 9\r\n$EOF:{EOF}\r\nabcdef{EOF}")).await;
    assert_eq!(agent.next().await, Record::SnapshotBegin { history: Some(id(FIRST)), offset: 9, size: None });
    assert_eq!(agent.snapshot(6).await, "abcdef");
    assert_eq!(agent.next().await, Record::SnapshotEnd);
    assert_eq!(peer.command().await, "REPLCONF ACK 0");
    agent.stop().await;
}

#[tokio::test]
async fn a_link_cut_in_the_stream_goes_on_at_the_byte_and_under_the_new_name() {
    let resume = Position { history: Some(id(FIRST)), offset: 100, db: 3 };
    let mut agent = Agent::start(Duration::from_secs(60), Some(resume)).await;
    let (mut peer, command) = Peer::accept(&agent.listener).await;
    assert_eq!(command, format!("PSYNC {FIRST} 101"));
    peer.send("+CONTINUE\r\n*1\r\n$4\r\nPI").await;
    assert_eq!(agent.stream(100, 10).await, "*1\r\n$4\r\nPI");
    drop(peer);
    let (mut peer, command) = Peer::accept(&agent.listener).await;
    assert_eq!(command, format!("PSYNC {FIRST} 111"));
    peer.send(&format!("+CONTINUE {SECOND}\r\nNG\r\n")).await;
    assert_eq!(agent.next().await, Record::Renamed(id(SECOND)));
    assert_eq!(agent.stream(110, 4).await, "NG\r\n");
    // What the target holds, and never more than this source has sent.
    agent.acknowledge.send(105).unwrap();
    while peer.command().await != "REPLCONF ACK 105" {}
    agent.acknowledge.send(1000).unwrap();
    while peer.command().await != "REPLCONF ACK 114" {}
    assert_eq!((agent.received.borrow().history, agent.received.borrow().offset), (Some(id(SECOND)), 114));
    drop(peer);
    let (mut peer, command) = Peer::accept(&agent.listener).await;
    assert_eq!(command, format!("PSYNC {SECOND} 115"));
    peer.send(&format!("+FULLRESYNC {FIRST} 0\r\n$0\r\n")).await;
    assert_eq!(agent.next().await, Record::SnapshotBegin { history: Some(id(FIRST)), offset: 0, size: Some(0) });
    assert_eq!(agent.next().await, Record::SnapshotEnd);
    agent.stop().await;
}

#[tokio::test]
async fn a_source_that_only_knows_sync_is_copied_anew_each_time() {
    let mut agent = Agent::start(Duration::from_secs(60), None).await;
    for _ in 0..2 {
        let (mut peer, _) = Peer::accept(&agent.listener).await;
        peer.send("-ERR unknown command 'PSYNC'\r\n").await;
        assert_eq!(peer.command().await, "SYNC");
        peer.send("\n$3\r\nabc*1").await;
        assert_eq!(agent.next().await, Record::SnapshotBegin { history: None, offset: 0, size: Some(3) });
        assert_eq!(agent.next().await, Record::Snapshot(Bytes::from_static(b"abc")));
        assert_eq!(agent.next().await, Record::SnapshotEnd);
        assert_eq!(agent.stream(0, 2).await, "*1");
        assert!(!agent.received.borrow().speaks_psync);
    }
    agent.stop().await;
}
