//! Keys of the source brought face to face with the target, at one place of the stream: to compare them, or to write them anew.
//!
//! The source tells some keys and its offset in one transaction; the driver takes the stream up to exactly that offset, and not a byte further.
//! There it compares the target's keys with the copies, which is exact however busy a key is; or writes the copies, by the shard's own fenced writer:
//! nothing older comes behind them, and nothing is skipped. Then the stream goes on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use dts_common::redis::slot::slot;
use dts_proto::v1::Directive;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::apply::{Driver, Mode};
use crate::client::{Client, Info};
use crate::compare::{Canonical, Likeness};
use crate::endpoint::Side;
use crate::route::{Chunk, Commit, SnapshotEncoder};
use crate::target::{Destination, cluster};
use crate::topology::Owner;

/// Keys that are asked for in one transaction of the source.
pub const AT_ONCE: usize = 16;
/// A driver looks for requests between two records.
const WITHIN: Duration = Duration::from_secs(120);

/// Where a shard's driver finds what is to be repaired, in whatever attempt it is.
#[derive(Clone, Debug, Default)]
pub struct Mends {
    waiting: Arc<Mutex<Option<Request>>>,
    asked: Arc<Notify>,
    /// How far the target is, as the driver saw it last.
    applied: Arc<AtomicU64>,
}

/// Keys of one database of the source.
#[derive(Debug)]
pub struct Request {
    db: u32,
    keys: Vec<Vec<u8>>,
    ask: Ask,
    done: oneshot::Sender<Result<Vec<Likeness>>>,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Mend,
    /// With expiries that may be apart by so many ms.
    Compare(u64),
}

impl Mends {
    /// Has keys written anew; at most [`AT_ONCE`]. Whoever asks while somebody else waits takes the place.
    pub async fn mend(&self, db: u32, keys: Vec<Vec<u8>>) -> Result<()> {
        self.ask(db, keys, Ask::Mend).await.map(drop)
    }

    /// Compares keys at one place of the stream, each in turn; at most [`AT_ONCE`].
    pub async fn compare(&self, db: u32, keys: Vec<Vec<u8>>, tolerance_ms: u64) -> Result<Vec<Likeness>> {
        self.ask(db, keys, Ask::Compare(tolerance_ms)).await
    }

    async fn ask(&self, db: u32, keys: Vec<Vec<u8>>, ask: Ask) -> Result<Vec<Likeness>> {
        let (done, answer) = oneshot::channel();
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Request { db, keys, ask, done });
        self.asked.notify_one();
        let lost = |_| Error::new(Code::TargetRewound, "the shard does not come to look at single keys");
        let answer = timeout(WITHIN, answer).await.map_err(|_| Error::new(Code::TargetBusy, "the shard is busy"))?;
        answer.map_err(lost)?
    }

    /// The offset up to which the target holds everything.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// It is so far now.
    pub(crate) fn note(&self, applied: u64) {
        self.applied.store(applied, Ordering::Release);
    }

    fn take(&self) -> Option<Request> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Something may be there to take.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}

/// Keys as they were at one offset of the source.
#[derive(Debug)]
struct Copies {
    offset: u64,
    /// `None`: not there.
    keys: Vec<(Vec<u8>, Option<Copy>)>,
}

/// Serialised, and the expiry in ms since 1970.
type Copy = (Bytes, Option<i64>);

impl Driver {
    /// Repairs what was asked for, if the stream runs. An error of the repair alone goes to whoever asked.
    pub(crate) async fn mend(&mut self) -> Result<()> {
        let streams = matches!(self.mode, Mode::Streaming(_)) && *self.directive.borrow() == Directive::Run;
        let Some(Request { db, keys, ask, done }) = self.context.mends.take().filter(|_| streams) else {
            return Ok(());
        };
        let answer = match self.face(db, keys, ask).await {
            Ok(answer) => answer?,
            Err(error) => Err(error),
        };
        let _told_or_gone = done.send(answer);
        Ok(())
    }

    /// The outer error is the asker's, the inner one ends the attempt.
    async fn face(&mut self, db: u32, keys: Vec<Vec<u8>>, ask: Ask) -> Result<Result<Result<Vec<Likeness>>>> {
        let mut of_keys = vec![Likeness::Unknown; keys.len()];
        for places in self.together(&keys) {
            let names = places.iter().filter_map(|at| keys.get(*at).cloned()).collect();
            let copies = self.readable(db, names).await?;
            match self.come_to(copies.offset).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(error) => return Ok(Err(error)),
            }
            let answer = match ask {
                Ask::Mend => self.put(db, &copies).await,
                Ask::Compare(tolerance_ms) => Ok(self.likeness(db, &copies, tolerance_ms).await),
            };
            match answer {
                Ok(Ok(found)) => {
                    for (at, likeness) in places.iter().zip(found) {
                        of_keys[*at] = likeness;
                    }
                }
                other => return Ok(other),
            }
        }
        Ok(Ok(Ok(of_keys)))
    }

    /// Places of the keys that one transaction of the source can tell of: a node of a cluster takes one slot at a time.
    fn together(&self, keys: &[Vec<u8>]) -> Vec<Vec<usize>> {
        let mut by_slot = BTreeMap::<u16, Vec<usize>>::new();
        for (at, key) in keys.iter().enumerate() {
            let slot = if self.context.proof.is_some() { slot(key) } else { 0 };
            by_slot.entry(slot).or_default().push(at);
        }
        by_slot.into_values().collect()
    }

    async fn likeness(&self, db: u32, copies: &Copies, tolerance_ms: u64) -> Result<Vec<Likeness>> {
        let Some(target_db) = self.context.selection.target_db(db) else { return Ok(Vec::new()) };
        let names: Vec<Vec<u8>> = copies.keys.iter().map(|(key, _)| key.clone()).collect();
        let there = self.on_target(target_db, names.clone()).await?;
        let here = Canonical::of(snapshot(db, copies).as_deref())?;
        let there = Canonical::of(snapshot(target_db, &there).as_deref())?;
        Ok(names.iter().map(|key| here.likeness(&there, key, tolerance_ms)).collect())
    }

    /// The target's keys. Nobody writes them now but us, and we wait: on a cluster they are asked for one by one.
    async fn on_target(&self, db: u32, keys: Vec<Vec<u8>>) -> Result<Copies> {
        let Destination::Cluster(seeds) = &self.context.destination else {
            let mut target = Client::connect(&self.context.target, Side::Target).await?;
            return copies(&mut target, Side::Target, db, keys).await;
        };
        let topology = cluster::Topology::find(seeds).await?;
        let mut clients = BTreeMap::new();
        let mut all = Copies { offset: 0, keys: Vec::new() };
        for key in keys {
            let nobody = || Error::new(Code::TargetBusy, "a slot of the target has no owner");
            let place = topology.place(slot(&key)).ok_or_else(nobody)?;
            let client = match clients.entry(place) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let server = topology.masters.get(place).ok_or_else(nobody)?;
                    new.insert(Client::connect(server, Side::Target).await?)
                }
            };
            all.keys.extend(copies(client, Side::Target, db, vec![key]).await?.keys);
        }
        Ok(all)
    }

    async fn readable(&mut self, db: u32, keys: Vec<Vec<u8>>) -> Result<Copies> {
        let unsupported = |why: &str| Err(Error::new(Code::InvalidRequest, why));
        match &self.mode {
            Mode::Streaming(encoder) if encoder.position().history.is_none() => {
                unsupported("a source that speaks SYNC only tells no offsets to repair at")
            }
            _ => {
                let mut source = Client::connect(&self.context.source, Side::Source).await?;
                // A replica in a cluster tells of its master's keys then; outside of a cluster it is an error that changes nothing.
                let _told_or_not = source.ask(&[b"READONLY"]).await?;
                copies(&mut source, Side::Source, db, keys).await
            }
        }
    }

    /// Takes the stream up to this offset. The outer error ends the attempt, the inner one is the asker's.
    async fn come_to(&mut self, goal: u64) -> Result<Result<()>> {
        let disturbed = |why: &str| Ok(Err(Error::new(Code::TargetRewound, why)));
        self.cut_at = Some(goal);
        let reached = loop {
            let Mode::Streaming(encoder) = &self.mode else { break None };
            let offset = encoder.position().offset;
            if offset >= goal {
                break Some(offset);
            }
            // The stream was taken up to there, and is in the middle of something: the offset is not of this history.
            if self.released() || self.ahead.is_some() {
                break None;
            }
            self.step_on().await?;
        };
        self.cut_at = None;
        if reached != Some(goal) {
            return disturbed("the stream does not pass the offset of the copies");
        }
        self.flush().await?;
        if self.outlet.is_open() {
            return disturbed("a transaction is open where the copies belong");
        }
        self.outlet.settled().await?;
        Ok(Ok(()))
    }

    /// Writes the copies. The outer error ends the attempt, the inner one is the asker's.
    async fn put(&mut self, db: u32, copies: &Copies) -> Result<Result<Vec<Likeness>>> {
        let chunks = match self.encode(db, copies) {
            Ok(chunks) => chunks,
            Err(error) => return Ok(Err(error)),
        };
        for chunk in chunks {
            self.outlet.send(chunk).await?;
        }
        self.outlet.settled().await?;
        Ok(Ok(Vec::new()))
    }

    /// The copies in the way in which a snapshot is written, with the position that the stream has.
    fn encode(&mut self, db: u32, copies: &Copies) -> Result<Vec<Chunk>> {
        let context = &self.context;
        let Mode::Streaming(stream) = &mut self.mode else { return Ok(Vec::new()) };
        let Some(target_db) = context.selection.target_db(db) else { return Ok(Vec::new()) };
        let mut encoder =
            SnapshotEncoder::new(context.dialect, context.selection.clone(), None).owned_by(context.owner.clone());
        // A key that this source has not may be another's, where names do not tell.
        let alone = context.owner != Owner::Unnamed;
        let ours = |key: &[u8], there: bool| {
            (there || alone) && context.owner.may_own(key) && context.selection.covers(db, key)
        };
        let mut deletes = Vec::new();
        resp::command(&mut deletes, &[b"SELECT", target_db.to_string().as_bytes()]);
        let mut commands = 1;
        // What is there goes first, whatever it is: a copy may be of another type, or not there.
        for (key, _) in copies.keys.iter().filter(|(key, copy)| ours(key, copy.is_some())) {
            resp::command(&mut deletes, &[b"DEL", key]);
            commands += 1;
        }
        resp::command(&mut deletes, &[b"SELECT", b"0"]);
        commands += 1;
        let mut chunks = Vec::new();
        if let Some(snapshot) = snapshot(db, copies) {
            encoder.feed(&snapshot)?;
            let facts = encoder.finish()?;
            stream.hold(copies.keys.iter().map(|(key, _)| (target_db, key.as_slice())), facts.holds_field_expiry);
            while let Some(chunk) = encoder.next_chunk(true) {
                chunks.push(chunk);
            }
        }
        let commit = Commit {
            position: Some(stream.position()),
            holds_field_expiry: stream.holds_field_expiry(),
            progress: stream.progress(),
        };
        // One transaction: nobody sees the keys gone.
        let last = chunks.len();
        let mut all = vec![Chunk { bytes: deletes.into(), commands, commit: None, marks: Vec::new() }];
        all.extend(chunks);
        for (index, chunk) in all.iter_mut().enumerate() {
            chunk.commit = (index == last).then(|| commit.clone());
        }
        Ok(all)
    }
}

/// Asks a server for keys, and for its offset, at one moment.
async fn copies(client: &mut Client, side: Side, db: u32, keys: Vec<Vec<u8>>) -> Result<Copies> {
    client.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
    let wrong = || Error::new(side.lost(), "a server answers EXEC with something else");
    let mut bytes = Vec::new();
    resp::command(&mut bytes, &[b"MULTI"]);
    resp::command(&mut bytes, &[b"TIME"]);
    for key in &keys {
        resp::command(&mut bytes, &[b"DUMP", key]);
        resp::command(&mut bytes, &[b"PTTL", key]);
    }
    resp::command(&mut bytes, &[b"INFO", b"replication"]);
    resp::command(&mut bytes, &[b"EXEC"]);
    // In one piece: the stream stands still meanwhile.
    client.send(&bytes).await?;
    let mut refused = None;
    for _ in 0..3 + 2 * keys.len() {
        if let BytesFrame::Error(text) = client.reply().await? {
            refused = refused.or(Some(text));
        }
    }
    let answers = match client.reply().await? {
        BytesFrame::Array(answers) if refused.is_none() => answers,
        BytesFrame::Error(text) => {
            return Err(client.refused("a reading of single keys", refused.as_ref().unwrap_or(&text)));
        }
        _ => return Err(wrong()),
    };
    let [time, found @ .., replication] = answers.as_slice() else { return Err(wrong()) };
    let now = millis(time).ok_or_else(wrong)?;
    let offset = Info::of(replication).number("master_repl_offset").ok_or_else(wrong)?;
    let copy = |(key, answers): (Vec<u8>, &[BytesFrame])| {
        let copy = match answers {
            [BytesFrame::BulkString(bytes), BytesFrame::Integer(left)] if *left != -2 => {
                Some((bytes.clone(), (*left >= 0).then(|| now.saturating_add(*left))))
            }
            [BytesFrame::Error(text), _] => {
                return Err(Error::new(side.refusal(text), format!("a server refuses DUMP: {text}")));
            }
            _ => None,
        };
        Ok((key, copy))
    };
    let keys = keys.into_iter().zip(found.chunks(2)).map(copy).collect::<Result<Vec<_>>>()?;
    Ok(Copies { offset, keys })
}

fn millis(time: &BytesFrame) -> Option<i64> {
    let BytesFrame::Array(parts) = time else { return None };
    let number = |at: usize| parts.get(at)?.as_str()?.parse::<i64>().ok();
    Some(number(0)? * 1000 + number(1)? / 1000)
}

/// Version and checksum at the end of what DUMP gives.
const FOOTER: usize = 10;

/// A payload as a source sends it, of those keys that are there; `None` if none is.
fn snapshot(db: u32, copies: &Copies) -> Option<Vec<u8>> {
    let there = copies.keys.iter().filter_map(|(key, copy)| Some((key, copy.as_ref()?)));
    let mut bytes = Vec::new();
    for (key, (dump, expiry)) in there {
        let body = dump.get(..dump.len().checked_sub(FOOTER)?)?;
        let (kind, value) = body.split_first()?;
        if bytes.is_empty() {
            let version = dump.get(body.len()..body.len() + 2)?;
            let version = u16::from_le_bytes([*version.first()?, *version.get(1)?]);
            // Valkey counts from 80, and has a name of its own since.
            bytes = match version {
                80.. => format!("VALKEY{version:03}").into_bytes(),
                _ => format!("REDIS{version:04}").into_bytes(),
            };
            bytes.push(0xfe);
            length(&mut bytes, db.into());
        }
        if let Some(at) = expiry {
            bytes.push(0xfc);
            bytes.extend_from_slice(&at.to_le_bytes());
        }
        bytes.push(*kind);
        length(&mut bytes, key.len() as u64);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    if bytes.is_empty() {
        return None;
    }
    // Without a checksum: it came over a connection of ours, whole.
    bytes.push(0xff);
    bytes.extend_from_slice(&[0; 8]);
    Some(bytes)
}

/// A length in its longest form, which every version reads.
fn length(out: &mut Vec<u8>, length: u64) {
    out.push(0x81);
    out.extend_from_slice(&length.to_be_bytes());
}
