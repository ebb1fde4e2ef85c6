//! What has to be done with a command of a replication stream. Everything that is not named here passes as it came.

/// How a command is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// As it came.
    Pass,
    /// Not data: keep-alives and questions to replicas.
    Ignore,
    /// Selects the database of what follows.
    Select,
    /// A group begins.
    Multi,
    /// A group ends.
    Exec,
    /// `EXPIRE`, `PEXPIRE`, `EXPIREAT`, `PEXPIREAT` and their twins for hash fields.
    Expire(Unit, Fields),
    /// `SET`: may carry an expiry.
    Set,
    /// `SETEX`, `PSETEX`: key, expiry, value.
    SetEx(Unit),
    /// `GETEX`: only its effect on the expiry counts.
    GetEx,
    /// `RESTORE`, `RESTORE-ASKING`.
    Restore,
    /// `HSETEX`.
    HSetEx,
    /// `MSETEX`.
    MSetEx,
    /// `BRPOPLPUSH`: blocking, in the streams of 2.8 to 3.2.
    BRPopLPush,
    /// `UNLINK`: `DEL` before 4.0.
    Unlink,
    /// `FLUSHALL`, `FLUSHDB`.
    Flush,
    /// `SWAPDB`.
    SwapDb,
    /// `EVAL`.
    Eval,
    /// `EVALSHA`.
    EvalSha,
    /// `SCRIPT`.
    Script,
    /// `SPUBLISH`: sharded pub/sub, from 7.0.
    SPublish,
    /// Gives a key that exists another name: `RENAME`, `RENAMENX`, `COPY`.
    Rename,
    /// `MOVE` to another database.
    Move,
    /// `HSET`: one field a command before 4.0.
    HSet,
    /// `LPOP`, `RPOP`: one element a command before 6.2.
    Pop,
    /// `LMOVE`, `RPOPLPUSH`'s general form, from 6.2.
    LMove,
    /// `XGROUP`, `XSETID`: fewer options before 7.0.
    XMeta,
    /// Belongs to a topology that this pipeline does not carry.
    Refuse,
}

/// How an expiry is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Millis,
    /// Seconds since 1970.
    AtSeconds,
    /// Milliseconds since 1970.
    AtMillis,
}

impl Unit {
    /// The unit that an option of SET, GETEX, HSETEX names.
    pub fn of_option(option: &[u8]) -> Option<Self> {
        Some(match () {
            () if option.eq_ignore_ascii_case(b"EX") => Self::Seconds,
            () if option.eq_ignore_ascii_case(b"PX") => Self::Millis,
            () if option.eq_ignore_ascii_case(b"EXAT") => Self::AtSeconds,
            () if option.eq_ignore_ascii_case(b"PXAT") => Self::AtMillis,
            () => return None,
        })
    }

    /// The absolute time in ms that `value` means when it is said at `now_ms`.
    pub fn absolute_ms(self, value: i64, now_ms: i64) -> i64 {
        match self {
            Self::Seconds => now_ms.saturating_add(value.saturating_mul(1000)),
            Self::Millis => now_ms.saturating_add(value),
            Self::AtSeconds => value.saturating_mul(1000),
            Self::AtMillis => value,
        }
    }
}

/// Whose expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// The key's.
    Key,
    /// Hash fields'.
    Hash,
}

/// The longest name in the table.
const LONGEST: usize = 16;

/// How to treat the command of this name, in any case: sources from 6.2 on send some in lower case.
pub fn handling(name: &[u8]) -> Handling {
    use Handling::*;
    let mut upper = [0; LONGEST];
    let Some(upper) = upper.get_mut(..name.len()) else { return Pass };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    match &*upper {
        b"PING" | b"REPLCONF" => Ignore,
        b"SELECT" => Select,
        b"MULTI" => Multi,
        b"EXEC" => Exec,
        b"EXPIRE" => Expire(Unit::Seconds, Fields::Key),
        b"PEXPIRE" => Expire(Unit::Millis, Fields::Key),
        b"EXPIREAT" => Expire(Unit::AtSeconds, Fields::Key),
        b"PEXPIREAT" => Expire(Unit::AtMillis, Fields::Key),
        b"HEXPIRE" => Expire(Unit::Seconds, Fields::Hash),
        b"HPEXPIRE" => Expire(Unit::Millis, Fields::Hash),
        b"HEXPIREAT" => Expire(Unit::AtSeconds, Fields::Hash),
        b"HPEXPIREAT" => Expire(Unit::AtMillis, Fields::Hash),
        b"SET" => Set,
        b"SETEX" => SetEx(Unit::Seconds),
        b"PSETEX" => SetEx(Unit::Millis),
        b"GETEX" => GetEx,
        b"RESTORE" | b"RESTORE-ASKING" => Restore,
        b"HSETEX" => HSetEx,
        b"MSETEX" => MSetEx,
        b"BRPOPLPUSH" => BRPopLPush,
        b"UNLINK" => Unlink,
        b"FLUSHALL" | b"FLUSHDB" => Flush,
        b"SWAPDB" => SwapDb,
        b"EVAL" => Eval,
        b"EVALSHA" => EvalSha,
        b"SCRIPT" => Script,
        b"SPUBLISH" => SPublish,
        b"RENAME" | b"RENAMENX" | b"COPY" => Rename,
        b"MOVE" => Move,
        b"HSET" => HSet,
        b"LPOP" | b"RPOP" => Pop,
        b"LMOVE" => LMove,
        b"XGROUP" | b"XSETID" => XMeta,
        b"TRIMSLOTS" | b"CLUSTER" | b"RREPLAY" | b"SLOTSRESTORE" | b"SLOTSDEL" => Refuse,
        _ => Pass,
    }
}

/// True for a command that a target which does not know it gets in other words, or that never stands in a stream.
pub fn is_rewritten(name: &[u8]) -> bool {
    const NEVER_SENT: [&[u8]; 12] = [
        b"getdel",
        b"zmpop",
        b"lmpop",
        b"blmpop",
        b"bzmpop",
        b"bzpopmin",
        b"bzpopmax",
        b"hgetdel",
        b"hgetex",
        b"delex",
        b"fcall",
        b"xautoclaim",
    ];
    let lower = name.to_ascii_lowercase();
    !matches!(handling(name), Handling::Pass | Handling::LMove | Handling::XMeta | Handling::Rename)
        || NEVER_SENT.contains(&lower.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_unknown_ones_pass() {
        assert_eq!(handling(b"pexpireat"), Handling::Expire(Unit::AtMillis, Fields::Key));
        assert_eq!(handling(b"Ping"), Handling::Ignore);
        assert_eq!(handling(b"zadd"), Handling::Pass);
        assert_eq!(handling(&[b'x'; 1000]), Handling::Pass);
    }

    #[test]
    fn every_unit_becomes_absolute() {
        assert_eq!(Unit::Seconds.absolute_ms(2, 1000), 3000);
        assert_eq!(Unit::Millis.absolute_ms(2, 1000), 1002);
        assert_eq!(Unit::AtSeconds.absolute_ms(2, 1000), 2000);
        assert_eq!(Unit::AtMillis.absolute_ms(i64::MAX, 1000), i64::MAX);
    }
}
