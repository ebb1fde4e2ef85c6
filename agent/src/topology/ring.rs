//! How twemproxy divides keys among servers: the function of the key, then the place on the ring.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::crc16_in_32;
use dts_proto::v1;

/// A pool of `nutcracker.yml`, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    hash: Hash,
    tag: Option<[u8; 2]>,
    /// Value and server, sorted by value; of `modula` the value is the place.
    points: Vec<(u32, usize)>,
    by_place: bool,
    servers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    OneAtATime,
    Md5,
    Crc16,
    Crc32,
    Crc32a,
    Fnv1x64,
    Fnv1ax64,
    Fnv1x32,
    Fnv1ax32,
    Murmur,
}

const HASHES: [(&str, Hash); 10] = [
    ("one_at_a_time", Hash::OneAtATime),
    ("md5", Hash::Md5),
    ("crc16", Hash::Crc16),
    ("crc32", Hash::Crc32),
    ("crc32a", Hash::Crc32a),
    ("fnv1_64", Hash::Fnv1x64),
    ("fnv1a_64", Hash::Fnv1ax64),
    ("fnv1_32", Hash::Fnv1x32),
    ("fnv1a_32", Hash::Fnv1ax32),
    ("murmur", Hash::Murmur),
];
/// Points on the ring for a server of average weight; one digest gives four.
const POINTS: f32 = 160.0;
const POINTS_A_DIGEST: u32 = 4;

impl Ring {
    /// From the task.
    pub fn new(ring: &v1::Ring) -> Result<Self> {
        let wrong = |what: String| Error::new(Code::InvalidRequest, what);
        let known = || HASHES.map(|(name, _)| name).join(", ");
        let hash = HASHES.iter().find(|(name, _)| *name == ring.hash).map(|(_, hash)| *hash);
        let hash = hash.ok_or_else(|| wrong(format!("hash {:?} is not one of {}", ring.hash, known())))?;
        let tag = match ring.hash_tag.as_bytes() {
            [] => None,
            [open, close] => Some([*open, *close]),
            _ => return Err(wrong(format!("hash_tag {:?} has not two characters", ring.hash_tag))),
        };
        let (points, by_place) = match ring.distribution.as_str() {
            "ketama" => (ketama(&ring.servers), false),
            "modula" => (modula(&ring.servers), true),
            other => {
                return Err(wrong(format!("distribution {other:?} tells of no key where it is; ketama and modula do")));
            }
        };
        if points.is_empty() {
            return Err(wrong("the pool has no servers".into()));
        }
        Ok(Self { hash, tag, points, by_place, servers: ring.servers.len() })
    }

    /// Index of the server that has the key.
    pub fn server(&self, key: &[u8]) -> usize {
        let key = self.tagged(key);
        if self.servers == 1 || key.is_empty() {
            return self.points.first().map_or(0, |(_, server)| *server);
        }
        let hash = self.hash.of(key);
        let at = if self.by_place {
            hash as usize % self.points.len()
        } else {
            self.points.partition_point(|(value, _)| *value < hash) % self.points.len()
        };
        self.points.get(at).map_or(0, |(_, server)| *server)
    }

    fn tagged<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        let Some([open, close]) = self.tag else { return key };
        let tag = memchr::memchr(open, key).and_then(|at| {
            let rest = key.get(at + 1..)?;
            rest.get(..memchr::memchr(close, rest)?)
        });
        tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
    }
}

fn modula(servers: &[v1::RingServer]) -> Vec<(u32, usize)> {
    let places = servers.iter().enumerate().flat_map(|(index, server)| (0..server.weight).map(move |_| index));
    (0..).zip(places).collect()
}

// Single precision, and rounded down, as the proxy does it: another number of points is another ring.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ketama(servers: &[v1::RingServer]) -> Vec<(u32, usize)> {
    let total: u32 = servers.iter().map(|server| server.weight).sum();
    let mut points = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let share = server.weight as f32 / total as f32;
        let digests = (share * POINTS / POINTS_A_DIGEST as f32 * servers.len() as f32 + 0.000_000_000_1).floor() as u32;
        for digest in 0..digests {
            let md5::Digest(digest) = md5::compute(format!("{}-{digest}", server.name));
            points.extend(digest.as_chunks::<4>().0.iter().map(|word| (u32::from_le_bytes(*word), index)));
        }
    }
    points.sort_by_key(|(value, _)| *value);
    points
}

impl Hash {
    // The proxy takes the bytes of a key for signed characters.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::cast_possible_truncation)]
    fn of(self, key: &[u8]) -> u32 {
        const PRIME_64: u64 = 0x0100_0000_01b3;
        const INIT_64: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME_32: u32 = 16_777_619;
        const INIT_32: u32 = 2_166_136_261;
        let signed = |byte: &u8| i32::from(*byte as i8) as u32;
        match self {
            Self::OneAtATime => {
                let mut hash = 0u32;
                for byte in key {
                    hash = hash.wrapping_add(signed(byte));
                    hash = hash.wrapping_add(hash << 10);
                    hash ^= hash >> 6;
                }
                hash = hash.wrapping_add(hash << 3);
                hash ^= hash >> 11;
                hash.wrapping_add(hash << 15)
            }
            Self::Md5 => {
                let md5::Digest([a, b, c, d, ..]) = md5::compute(key);
                u32::from_le_bytes([a, b, c, d])
            }
            Self::Crc16 => crc16_in_32(key),
            Self::Crc32 => (crc32(key) >> 16) & 0x7fff,
            Self::Crc32a => crc32(key),
            Self::Fnv1x64 => {
                key.iter().fold(INIT_64, |hash, byte| hash.wrapping_mul(PRIME_64) ^ i64::from(*byte as i8) as u64)
                    as u32
            }
            Self::Fnv1ax64 => {
                key.iter().fold(INIT_64 as u32, |hash, byte| (hash ^ signed(byte)).wrapping_mul(PRIME_64 as u32))
            }
            Self::Fnv1x32 => key.iter().fold(INIT_32, |hash, byte| hash.wrapping_mul(PRIME_32) ^ signed(byte)),
            Self::Fnv1ax32 => key.iter().fold(INIT_32, |hash, byte| (hash ^ signed(byte)).wrapping_mul(PRIME_32)),
            Self::Murmur => murmur(key),
        }
    }
}

/// MurmurHash2 with the proxy's seed.
#[allow(clippy::cast_possible_truncation)]
fn murmur(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = key.len() as u32;
    let mut hash = 0xdead_beefu32.wrapping_mul(length) ^ length;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

fn crc32(key: &[u8]) -> u32 {
    u32::try_from(dts_common::redis::slot::crc32_of(key)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(hash: &str, distribution: &str) -> v1::Ring {
        let servers = (0..3).map(|index| v1::RingServer { name: format!("s{index}"), weight: 1 }).collect();
        v1::Ring { hash: hash.into(), hash_tag: "{}".into(), distribution: distribution.into(), servers }
    }

    #[test]
    fn keys_are_spread_and_keys_of_one_tag_are_not() {
        for (hash, _) in HASHES {
            for distribution in ["ketama", "modula"] {
                let ring = Ring::new(&ring(hash, distribution)).unwrap();
                let servers: std::collections::HashSet<usize> =
                    (0..200).map(|i| ring.server(format!("key {i} of many {i}").as_bytes())).collect();
                // Some functions give small numbers, which all lie before the first point of a ring.
                assert!(servers.len() == 3 || distribution == "ketama", "{hash} {distribution}");
                assert_eq!(ring.server(b"a{tag}1"), ring.server(b"{tag}"));
            }
        }
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        for (hash, distribution, word) in [("hsieh", "ketama", "hsieh"), ("md5", "random", "random")] {
            assert!(Ring::new(&ring(hash, distribution)).unwrap_err().message.contains(word));
        }
    }
}
