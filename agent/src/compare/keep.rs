//! What a run has found so far, in a form in which another agent can go on.

use dts_proto::v1::{VerifyCursor, VerifyShard, VerifySuspect};
use tokio::sync::watch;

use super::finding::Kind;
use super::judge::Key;
use super::report::Report;
use super::suspects::Suspect;

/// Another version of the cursor begins anew.
const VERSION: u32 = 1;

/// Where a run begins, and where it leaves how far it is.
#[derive(Debug, Default)]
pub struct Keeper {
    /// What an earlier agent had found.
    pub resume: Option<VerifyShard>,
    /// Told now and then; nobody may be there to take it.
    pub kept: Option<watch::Sender<Option<Kept>>>,
}

/// Everything before the cursor is judged: found equal, among the differences, or among the cursor's suspects.
#[derive(Clone, Debug)]
pub struct Kept {
    /// As if it ended here.
    pub report: Report,
    /// Where it goes on.
    pub cursor: VerifyCursor,
}

/// The next page of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) server: usize,
    pub(super) db: u32,
    pub(super) scan: Vec<u8>,
}

impl Keeper {
    /// What can be gone on with.
    pub(super) fn usable(&mut self) -> Option<VerifyShard> {
        self.resume.take().filter(|shard| shard.cursor.as_ref().is_some_and(|cursor| cursor.version == VERSION))
    }
}

pub(super) fn cursor(backward: bool, servers: &[String], place: Place, suspects: Vec<Suspect>) -> VerifyCursor {
    VerifyCursor {
        version: VERSION,
        backward,
        servers: servers.to_vec(),
        server: u32::try_from(place.server).unwrap_or(u32::MAX),
        db: place.db,
        scan: place.scan,
        suspects: suspects.into_iter().map(as_proto).collect(),
        ..VerifyCursor::default()
    }
}

/// The place that a cursor names, if these are the servers that it is for.
pub(super) fn place(cursor: &VerifyCursor, backward: bool, servers: &[String]) -> Option<Place> {
    let fits = cursor.backward == backward && cursor.servers == servers;
    let server = usize::try_from(cursor.server).ok()?;
    fits.then(|| Place { server, db: cursor.db, scan: cursor.scan.clone() })
}

fn as_proto(suspect: Suspect) -> VerifySuspect {
    let Suspect { db, key, strikes } = suspect;
    let source = key.from.and_then(|from| u32::try_from(from + 1).ok()).unwrap_or(0);
    VerifySuspect { db, key: key.name, source, strikes: strikes.into() }
}

pub(super) fn suspect(of: &VerifySuspect) -> Suspect {
    let from = usize::try_from(of.source).ok().and_then(|source| source.checked_sub(1));
    let strikes = u8::try_from(of.strikes).unwrap_or(u8::MAX);
    Suspect { db: of.db, key: Key { from, name: of.key.clone() }, strikes }
}

/// By its name in reports.
pub(super) fn kind(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_counts_only_for_the_same_servers() {
        let at = Place { server: 1, db: 3, scan: b"17".to_vec() };
        let suspects: Vec<Suspect> = [None, Some(0), Some(2)]
            .into_iter()
            .map(|from| Suspect { db: 3, key: Key { from, name: b"k".to_vec() }, strikes: 1 })
            .collect();
        let servers = ["a".to_owned(), "b".to_owned()];
        let kept = cursor(true, &servers, at.clone(), suspects.clone());
        assert_eq!(place(&kept, true, &servers), Some(at));
        assert_eq!(place(&kept, false, &servers), None);
        assert_eq!(place(&kept, true, &servers[..1]), None);
        assert_eq!(kept.suspects.iter().map(suspect).collect::<Vec<_>>(), suspects);
    }
}
