//! Which commits are confirmed: a commit is when every slot that has a part of it has confirmed that part, and every commit
//! before it is.

use std::collections::VecDeque;

use crate::route::Commit;

/// Commits on their way, in their order.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: VecDeque<Entry>,
    /// Number of the first of them.
    first: u64,
}

#[derive(Debug, Default)]
struct Entry {
    parts: usize,
    /// `None` while more parts may come.
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Commit(Commit),
    /// Counts for nobody.
    Silent,
}

impl Ledger {
    /// The commit that is gathered now.
    pub(super) fn current(&mut self) -> u64 {
        if self.entries.back().is_none_or(|entry| entry.end.is_some()) {
            self.entries.push_back(Entry::default());
        }
        self.first + self.entries.len() as u64 - 1
    }

    /// A slot has a part of it.
    pub(super) fn add(&mut self, number: u64) {
        if let Some(entry) = self.entry(number) {
            entry.parts += 1;
        }
    }

    /// No more parts of the current one will come; `None`: nobody waits for it.
    pub(super) fn close(&mut self, commit: Option<Commit>) {
        let number = self.current();
        if let Some(entry) = self.entry(number) {
            entry.end = Some(commit.map_or(End::Silent, End::Commit));
        }
    }

    /// A slot has confirmed its part.
    pub(super) fn confirm(&mut self, number: u64) {
        if let Some(entry) = self.entry(number) {
            entry.parts -= 1;
        }
    }

    /// The next commit of which everything is confirmed.
    pub(super) fn next_confirmed(&mut self) -> Option<Commit> {
        while self.entries.front().is_some_and(|entry| entry.parts == 0 && entry.end.is_some()) {
            self.first += 1;
            if let Some(Entry { end: Some(End::Commit(commit)), .. }) = self.entries.pop_front() {
                return Some(commit);
            }
        }
        None
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Progress;

    fn commit(keys: u64) -> Commit {
        let progress = Progress { snapshot_keys: keys, ..Progress::default() };
        Commit { position: None, holds_field_expiry: false, progress }
    }

    #[test]
    fn a_commit_waits_for_all_its_parts_and_for_those_before_it() {
        let mut ledger = Ledger::default();
        let first = ledger.current();
        ledger.add(first);
        ledger.add(first);
        ledger.confirm(first);
        ledger.close(Some(commit(1)));
        let second = ledger.current();
        ledger.add(second);
        ledger.close(Some(commit(2)));
        ledger.close(None);
        ledger.close(Some(commit(3)));
        ledger.confirm(second);
        assert_eq!(ledger.next_confirmed(), None, "a part of the first is open");
        ledger.confirm(first);
        let confirmed: Vec<_> = std::iter::from_fn(|| ledger.next_confirmed()).collect();
        assert_eq!(confirmed, [commit(1), commit(2), commit(3)]);
        let open = ledger.current();
        ledger.add(open);
        ledger.confirm(open);
        assert_eq!(ledger.next_confirmed(), None, "more parts may come");
    }
}
