//! Versions of servers, and which DUMP payloads they take.

use std::fmt;

use super::rdb::Family;

/// What a server says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    /// Redis or Valkey.
    pub family: Family,
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl ServerVersion {
    /// From the fields of `INFO server`. Valkey keeps saying `redis_version:7.2.4` beside its own.
    pub fn from_info<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let (family, text) = match field("valkey_version") {
            Some(text) => (Family::Valkey, text),
            None => (Family::Redis, field("redis_version")?),
        };
        let mut numbers = text.trim().split('.').map(|number| number.parse::<u32>().ok());
        let mut next = || numbers.next().unwrap_or(Some(0));
        let found = Self { family, major: next()?, minor: next()?, patch: next().unwrap_or(0) };
        // The release candidates of 4.0 called themselves 3.9.x.
        let candidate = family == Family::Redis && (found.major, found.minor) == (3, 9);
        Some(if candidate { Self { major: 4, minor: 0, patch: 0, ..found } } else { found })
    }

    /// True from this version on. Valkey 7.2 and 8 understand what Redis 7.2 does.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// True if this server knows all that a source of that version may send. Within a family the version decides. Between
    /// the families it is what both count from: Valkey 7.2 and 8 are Redis 7.2; Valkey 9 has the field expiries of 7.4 and
    /// HSETEX of 8.0, but nothing later.
    pub fn takes_all_of(&self, source: &Self) -> bool {
        if self.family == source.family {
            return (self.major, self.minor) >= (source.major, source.minor);
        }
        self.common_level() >= source.common_level()
    }

    /// The version of Redis that has what this server has.
    fn common_level(&self) -> (u32, u32) {
        match (self.family, self.major) {
            (Family::Redis, _) => (self.major, self.minor),
            (Family::Valkey, 0..=8) => (7, 2),
            (Family::Valkey, _) => (8, 0),
        }
    }

    /// True if hash fields can have expiries: Redis 7.4, Valkey 9.
    pub fn has_field_expiry(&self) -> bool {
        match self.family {
            Family::Redis => self.at_least(7, 4),
            Family::Valkey => self.at_least(9, 0),
        }
    }

    /// The version in the footer of this server's own DUMP payloads (`RDB_VERSION` in its `rdb.h`).
    pub fn rdb_version(&self) -> u16 {
        match (self.family, self.major, self.minor) {
            (Family::Valkey, 0..=8, _) => 11,
            (Family::Valkey, ..) => 80,
            (_, 0..=2, _) | (_, 3, 0..=1) => 6,
            (_, 3, _) => 7,
            (_, 4, _) => 8,
            (_, 5 | 6, _) => 9,
            (_, 7, 0..=1) => 10,
            (_, 7, 2..=3) => 11,
            (_, 7, _) | (_, 8, 0..=5) => 12,
            (_, 8, 6..=7) => 13,
            (_, 8, 8..=9) => 14,
            _ => 15,
        }
    }

    /// The footer version under which this server takes a payload of this type by RESTORE; `None`: it has to be decoded.
    pub fn accepts_dump(&self, family: Family, type_code: u8) -> Option<u16> {
        let since = match type_code {
            0..=4 | 9..=13 => 6,
            14 => 7,
            5 | 7 => 8,
            15 => 9,
            16..=19 => 10,
            20 | 21 => 11,
            // From here on the families number differently.
            _ if family != self.family => return None,
            22..=25 => 12,
            26 => 13,
            27 | 28 => 14,
            _ => return None,
        };
        // Modules number their own payloads; they pass between servers of one family only.
        if type_code == 7 && family != self.family {
            return None;
        }
        (self.rdb_version() >= since).then(|| self.rdb_version())
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::Valkey { "Valkey" } else { "Redis" };
        write!(f, "{family} {}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(text: &'static str) -> ServerVersion {
        ServerVersion::from_info(|field| (field == "redis_version").then_some(text)).unwrap()
    }

    #[test]
    fn a_release_candidate_of_4_0_counts_as_4_0() {
        assert!(redis("3.9.102").at_least(4, 0));
    }

    #[test]
    fn valkey_is_known_by_its_own_field() {
        let version = ServerVersion::from_info(|field| match field {
            "redis_version" => Some("7.2.4"),
            "valkey_version" => Some("9.1.2"),
            _ => None,
        });
        assert_eq!(version.unwrap().to_string(), "Valkey 9.1.2");
    }

    #[test]
    fn an_older_target_does_not_take_all() {
        let valkey = |major| ServerVersion { family: Family::Valkey, major, minor: 0, patch: 0 };
        assert!(redis("7.0.1").takes_all_of(&redis("7.0.15")), "patches do not matter");
        assert!(!redis("6.2.7").takes_all_of(&redis("7.0.0")));
        assert!(valkey(8).takes_all_of(&redis("7.2.4")) && !valkey(8).takes_all_of(&redis("7.4.1")));
        assert!(valkey(9).takes_all_of(&redis("8.0.2")) && !valkey(9).takes_all_of(&redis("8.2.0")));
        assert!(redis("7.2.4").takes_all_of(&valkey(8)) && !redis("7.4.1").takes_all_of(&valkey(9)));
        assert!(redis("8.0.2").takes_all_of(&valkey(9)));
    }

    #[test]
    fn a_type_newer_than_the_server_has_to_be_decoded() {
        assert_eq!(redis("7.0.15").accepts_dump(Family::Redis, 20), None);
        assert_eq!(redis("7.2.4").accepts_dump(Family::Redis, 20), Some(11));
        assert_eq!(redis("2.8.17").accepts_dump(Family::Redis, 14), None);
        assert_eq!(redis("7.4.1").accepts_dump(Family::Valkey, 22), None);
    }
}
