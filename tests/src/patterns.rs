//! What servers make of patterns: keys and patterns of a small alphabet that has every special character, by KEYS.
//!
//! First line: the keys. Every other line: a pattern, a tab, one bit a key (`1`: it fits), 4 bits a digit. Bytes are hexadecimal.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;

use crate::server::{Server, root};

const ALPHABET: &[u8] = b"aabbc*?[]^-\\\x80\xff";
const KEYS: usize = 128;
const PATTERNS: usize = 800;

/// Where the answers are kept.
pub fn path() -> PathBuf {
    root().join("common/tests/golden/patterns.txt")
}

/// What a server answers, always to the same questions.
pub fn answers(server: &Server) -> Result<String> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut roll = |sides: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % sides
    };
    let mut word = |longest: usize| -> Vec<u8> {
        let length = roll(longest + 1);
        (0..length).map(|_| ALPHABET[roll(ALPHABET.len())]).collect()
    };
    let mut keys = BTreeSet::new();
    while keys.len() < KEYS {
        keys.insert(word(4));
    }
    let mut connection = server.connect()?;
    for key in &keys {
        redis::cmd("SET").arg(key).arg(1).exec(&mut connection)?;
    }
    let mut text = keys.iter().map(|key| hex(key)).collect::<Vec<_>>().join(",") + "\n";
    for _ in 0..PATTERNS {
        let pattern = word(7);
        let found: HashSet<Vec<u8>> = redis::cmd("KEYS").arg(&pattern).query(&mut connection)?;
        let bits: Vec<bool> = keys.iter().map(|key| found.contains(key)).collect();
        write!(text, "{}\t", hex(&pattern))?;
        for four in bits.chunks(4) {
            write!(text, "{:x}", four.iter().fold(0, |digit, bit| digit * 2 + u8::from(*bit)))?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
