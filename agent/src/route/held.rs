//! Which keys may carry a held expiry (`dts_common::redis::expiry`), as long as they are few enough to name.
//!
//! New names are gathered in a set; a full set is merged into a sorted list in which a name costs only what it does not
//! share with the one before it.

use std::collections::HashSet;

/// What naming keys may cost: the set, and the list.
const FRESH_BUDGET: usize = 4 << 20;
const PACKED_BUDGET: usize = 20 << 20;
/// Of one key in the set, beside its bytes.
const OVERHEAD: usize = 56;

/// Keys, or all keys.
#[derive(Clone, Debug, Default)]
pub struct Held {
    fresh: HashSet<(u32, Box<[u8]>)>,
    fresh_cost: usize,
    packed: Packed,
    everything: bool,
}

impl Held {
    /// Any key may.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// This one may.
    pub(super) fn add(&mut self, db: u32, key: &[u8]) {
        if self.everything {
            return;
        }
        if self.fresh.insert((db, key.into())) {
            self.fresh_cost += key.len() + OVERHEAD;
        }
        if self.fresh_cost > FRESH_BUDGET {
            self.pack();
            if self.packed.bytes.len() > PACKED_BUDGET {
                *self = Self::everything();
            }
        }
    }

    /// Nobody knows which.
    pub(super) fn add_everything(&mut self) {
        if !self.everything {
            *self = Self::everything();
        }
    }

    /// The keys by database, or `None` if it may be any key.
    pub fn into_keys(mut self) -> Option<HeldKeys> {
        if self.everything {
            return None;
        }
        self.pack();
        Some(HeldKeys::new(self.packed))
    }

    fn pack(&mut self) {
        let mut fresh: Vec<_> = std::mem::take(&mut self.fresh).into_iter().collect();
        fresh.sort_unstable();
        self.fresh_cost = 0;
        let mut old = Names::new(std::mem::take(&mut self.packed)).peekable();
        for (db, key) in fresh {
            while let Some(before) = old.next_if(|old| (old.0, old.1.as_slice()) <= (db, &*key)) {
                self.packed.push(before.0, &before.1);
            }
            self.packed.push(db, &key);
        }
        for (db, key) in old {
            self.packed.push(db, &key);
        }
    }
}

/// Names in order, each as the number of bytes that it shares with the one before it, and the rest.
#[derive(Clone, Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    last: Option<(u32, Vec<u8>)>,
}

impl Packed {
    /// Names come in order; one that is there already is left out.
    fn push(&mut self, db: u32, key: &[u8]) {
        let (before, last) = self.last.get_or_insert((u32::MAX, Vec::new()));
        if *before == db && last == key {
            return;
        }
        let shared = last.iter().zip(key).take_while(|(one, other)| one == other).count();
        let rest = &key[shared..];
        for number in [db as usize, shared, rest.len()] {
            put(&mut self.bytes, number);
        }
        self.bytes.extend_from_slice(rest);
        *before = db;
        last.truncate(shared);
        last.extend_from_slice(rest);
    }
}

/// Seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(0x80 | u8::try_from(number & 0x7f).unwrap_or(0));
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

#[derive(Debug)]
struct Names {
    bytes: Vec<u8>,
    at: usize,
    name: Vec<u8>,
}

impl Names {
    fn new(packed: Packed) -> Self {
        Self { bytes: packed.bytes, at: 0, name: Vec::new() }
    }

    fn number(&mut self) -> Option<usize> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
            shift += 7;
        }
    }
}

impl Iterator for Names {
    type Item = (u32, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let db = u32::try_from(self.number()?).ok()?;
        let (shared, rest) = (self.number()?, self.number()?);
        self.name.truncate(shared);
        self.name.extend_from_slice(self.bytes.get(self.at..self.at + rest)?);
        self.at += rest;
        Some((db, self.name.clone()))
    }
}

/// Named keys, by database.
#[derive(Debug)]
pub struct HeldKeys {
    names: Names,
    next: Option<(u32, Vec<u8>)>,
}

impl HeldKeys {
    fn new(packed: Packed) -> Self {
        let mut names = Names::new(packed);
        let next = names.next();
        Self { names, next }
    }

    /// True if none is left.
    pub fn is_empty(&self) -> bool {
        self.next.is_none()
    }

    /// In so many parts, by the place of each key; what has none is left out.
    #[must_use]
    pub fn divide(self, parts: usize, place: impl Fn(&[u8]) -> Option<usize>) -> Vec<Self> {
        let mut divided = vec![Packed::default(); parts];
        for (db, key) in self.next.into_iter().chain(self.names) {
            if let Some(part) = place(&key).and_then(|place| divided.get_mut(place)) {
                part.push(db, &key);
            }
        }
        divided.into_iter().map(Self::new).collect()
    }

    /// The next keys, all of one database, no more than `most`.
    pub fn next_page(&mut self, most: usize) -> Option<(u32, Vec<Vec<u8>>)> {
        let (db, first) = self.next.take()?;
        let mut keys = vec![first];
        self.next = self.names.next();
        while keys.len() < most
            && let Some((_, key)) = self.next.take_if(|(of, _)| *of == db)
        {
            keys.push(key);
            self.next = self.names.next();
        }
        Some((db, keys))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_is_named_once_and_in_order(
            keys in prop::collection::vec((0u32..300, "[ab]{0,6}"), 0..200),
            packs in prop::collection::vec(any::<bool>(), 200),
        ) {
            let mut held = Held::default();
            for ((db, key), pack) in keys.iter().zip(packs) {
                held.add(*db, key.as_bytes());
                if pack {
                    held.pack();
                }
            }
            let expected: BTreeSet<(u32, Vec<u8>)> =
                keys.into_iter().map(|(db, key)| (db, key.into_bytes())).collect();
            let by_length = held.clone().into_keys().unwrap().divide(3, |key| (key.len() < 6).then_some(key.len() % 3));
            let mut divided = BTreeSet::new();
            for (place, mut part) in by_length.into_iter().enumerate() {
                while let Some((db, page)) = part.next_page(5) {
                    prop_assert!(page.iter().all(|key| key.len() % 3 == place));
                    divided.extend(page.into_iter().map(|key| (db, key)));
                }
            }
            let placed: BTreeSet<_> = expected.iter().filter(|(_, key)| key.len() < 6).cloned().collect();
            prop_assert_eq!(divided, placed);
            let mut pages = held.into_keys().unwrap();
            let mut paged = Vec::new();
            while let Some((db, page)) = pages.next_page(3) {
                prop_assert!(!page.is_empty() && page.len() <= 3);
                paged.extend(page.into_iter().map(|key| (db, key)));
            }
            prop_assert_eq!(paged, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn alike_names_cost_little_and_too_many_are_all() {
        let mut held = Held::default();
        for i in 0..200_000u32 {
            held.add(0, format!("session:{i:012}").as_bytes());
        }
        let keys = held.into_keys().unwrap();
        assert!(keys.names.bytes.len() < 200_000 * 6, "{}", keys.names.bytes.len());
        let mut held = Held::default();
        for i in 0..250_000u64 {
            held.add(0, &i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes().repeat(16));
        }
        assert!(held.into_keys().is_none());
    }
}
