//! Rounds over suspects: what still differs, while nobody changes it and the target has caught up, is a difference.
//!
//! WATCH on the source tells whether a key was touched between its reading and the verdict, however often it changed back and forth.
//! Of several keys that were touched together the half is asked, and so on, down to one.

use std::collections::HashMap;
use std::time::Duration;

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::canonical::Likeness;
use super::finding::{Difference, Finding, Kind};
use super::follow::Follow;
use super::judge::{Key, Lane};
use super::rate::Pace;
use super::reply;
use super::report::Tally;
use super::servers::Batch;
use super::setup::Setup;
use super::suspects::{Suspect, Suspects};
use crate::endpoint::Side;
use crate::mend::{AT_ONCE, Mends};

/// Keys that are watched together.
const TOGETHER: usize = 64;
/// Of a key that the target is known to have caught up with: seen to differ so often, undisturbed.
const STRIKES: u8 = 2;
/// A key that is changed all the time gets so many more chances.
const MORE_ROUNDS: u32 = 4;
/// What the keys that are left can be asked for at one place of the stream: more rounds find no more quiet moments.
const FEW_ROUNDS: u32 = 3;
/// Findings of the last round that are kept.
const MOST_SEEN: usize = 1000;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_KNOWN: Duration = Duration::from_millis(300);

/// What is done about keys that change all the time.
pub(super) struct Busy<'a> {
    /// Compares them at one place of the stream.
    pub(super) faces: Option<&'a Mends>,
    /// Rounds before that.
    pub(super) rounds: u32,
}

/// Judges the suspects until each is found equal, different, or too busy to tell.
pub(super) async fn settle(
    lane: &mut Lane,
    mut suspects: Suspects,
    follow: &Follow,
    busy: &Busy<'_>,
    pace: &mut Pace,
    tally: &mut Tally,
) -> Result<()> {
    let watches = can_watch(lane).await?;
    let (last, more) = match busy.faces {
        Some(_) => (FEW_ROUNDS, 0),
        None if follow.is_known() => (busy.rounds.max(STRIKES.into()), MORE_ROUNDS),
        None => (busy.rounds, MORE_ROUNDS),
    };
    let mut last_seen = HashMap::new();
    // Where the target is known to have caught up a pause waits for nothing but a quiet moment of the key.
    let longest = if follow.is_known() { LONGEST_KNOWN } else { LONGEST_PAUSE };
    let mut pause = FIRST_PAUSE;
    for round in 1..=last + more {
        if suspects.count() == 0 {
            return Ok(());
        }
        tally.round(round, suspects.count());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
        let mut next = tally.suspects();
        let mut taken = suspects.take()?;
        while let Some(page) = taken.next_page(TOGETHER)? {
            let Some(first) = page.first() else { continue };
            let (db, count) = (first.db, u64::try_from(page.len()).unwrap_or(0));
            pace.ready().await;
            let before = tally.bytes();
            let seen = Box::pin(examine(lane, db, page, follow, watches, tally)).await?;
            pace.spent(count, tally.bytes() - before);
            for Seen { suspect, finding, undisturbed } in seen {
                let strikes = suspect.strikes + u8::from(undisturbed);
                let enough = if follow.is_known() { strikes >= STRIKES } else { round >= last };
                if undisturbed && enough {
                    let target_db = lane.setup.selection.target_db(db).unwrap_or(db);
                    tally.difference(Difference { db, target_db, key: suspect.key.name, finding });
                } else {
                    if round == last + more && last_seen.len() < MOST_SEEN {
                        last_seen.insert((db, suspect.key.name.clone()), finding);
                    }
                    next.add(Suspect { strikes, ..suspect })?;
                }
            }
        }
        suspects = next;
    }
    let mut taken = suspects.take()?;
    while let Some(page) = taken.next_page(AT_ONCE)? {
        let Some(db) = page.first().map(|first| first.db) else { continue };
        let names: Vec<Vec<u8>> = page.iter().map(|suspect| suspect.key.name.clone()).collect();
        let likenesses = match busy.faces {
            Some(faces) => face(faces, db, names.clone(), &lane.setup).await?,
            None => vec![Likeness::Unknown; names.len()],
        };
        let target_db = lane.setup.selection.target_db(db).unwrap_or(db);
        for (key, likeness) in names.into_iter().zip(likenesses) {
            let said = match likeness {
                Likeness::Same => continue,
                Likeness::Differs => "another value or expiry at one offset",
                Likeness::Unknown => "changed all the time, and differed each time",
            };
            // What it looked like when it was seen last; at one offset it is not told more than that it differs.
            let seen = last_seen.remove(&(db, key.clone())).filter(|_| likeness == Likeness::Differs);
            let finding = seen.unwrap_or_else(|| Finding::new(Kind::Value, said, said));
            let difference = Difference { db, target_db, key, finding };
            match likeness {
                Likeness::Differs => tally.difference(difference),
                _ => tally.unsettled(difference),
            }
        }
    }
    Ok(())
}

/// At one place of the stream, where that can be done.
async fn face(faces: &Mends, db: u32, names: Vec<Vec<u8>>, setup: &Setup) -> Result<Vec<Likeness>> {
    let tolerance = u64::try_from(setup.tolerance.as_millis()).unwrap_or(u64::MAX);
    match faces.compare(db, names.clone(), tolerance).await {
        Ok(likenesses) if likenesses.len() == names.len() => Ok(likenesses),
        Err(error) if error.code.retry() => Err(error),
        // A cluster as the target, or a source that tells no offsets.
        _ => Ok(vec![Likeness::Unknown; names.len()]),
    }
}

/// A suspect that differs.
struct Seen {
    suspect: Suspect,
    finding: Finding,
    /// Nobody changed it on the source meanwhile.
    undisturbed: bool,
}

/// Those of a page that differ.
async fn examine(
    lane: &mut Lane,
    db: u32,
    page: Vec<Suspect>,
    follow: &Follow,
    watches: bool,
    tally: &mut Tally,
) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    let mut stack = vec![page];
    while let Some(mut batch) = stack.pop() {
        let keys: Vec<Key> = batch.iter().map(|suspect| suspect.key.clone()).collect();
        if watches {
            watch(lane, db, &keys).await?;
        }
        let caught_up = follow.pass(lane).await?;
        let judged = lane.judge(db, keys).await?;
        tally.add_bytes(judged.bytes);
        let undisturbed = caught_up && (!watches || untouched(lane).await?);
        let mut findings = judged.findings;
        batch.retain(|suspect| findings.iter().any(|(key, _)| *key == suspect.key));
        if undisturbed || batch.len() <= 1 {
            for suspect in batch {
                let Some(at) = findings.iter().position(|(key, _)| *key == suspect.key) else { continue };
                let (_, finding) = findings.swap_remove(at);
                seen.push(Seen { suspect, finding, undisturbed });
            }
        } else {
            stack.push(batch.split_off(batch.len() / 2));
            stack.push(batch);
        }
    }
    Ok(seen)
}

/// Some users may read and not watch: then only pauses tell.
async fn can_watch(lane: &mut Lane) -> Result<bool> {
    for source in &mut lane.sources {
        for node in 0..source.count() {
            if !source.may_watch(node).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn watch(lane: &mut Lane, db: u32, keys: &[Key]) -> Result<()> {
    let setup = lane.setup.clone();
    for (part, (source, owner)) in lane.sources.iter_mut().zip(&setup.owners).enumerate() {
        let mut batch = Batch::default();
        (0..source.count()).for_each(|node| batch.add(node, &[b"UNWATCH"]));
        for key in keys {
            if key.from.map_or_else(|| owner.may_own(&key.name), |from| from == part) {
                batch.add(source.place(&key.name), &[b"WATCH", &key.name]);
            }
        }
        refuse(source.ask(db, batch).await?, "WATCH")?;
    }
    Ok(())
}

/// True if nothing that was watched has been touched.
async fn untouched(lane: &mut Lane) -> Result<bool> {
    let mut all = true;
    for source in &mut lane.sources {
        let mut batch = Batch::default();
        for node in 0..source.count() {
            batch.add(node, &[b"MULTI"]);
            batch.add(node, &[b"EXEC"]);
        }
        // No database is asked for: whatever is selected does not matter.
        let answers = source.ask_anywhere(batch).await?;
        all &= answers.chunks(2).all(|answers| matches!(answers, [_, BytesFrame::Array(_)]));
        refuse(answers, "MULTI")?;
    }
    Ok(all)
}

fn refuse(answers: Vec<BytesFrame>, command: &str) -> Result<()> {
    for answer in answers {
        if let BytesFrame::Error(text) = answer {
            reply::changed(&text, Side::Source, command)?;
        }
    }
    Ok(())
}
