//! A batch in waves. In one wave no key has two commands, and a wave begins when the one before it is answered: so the order of a key's
//! commands is kept whatever the endpoint does with what is sent to it at once, and a connection that breaks leaves at most one command of
//! a key unknown.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::command_table::is_replay_safe;
use dts_common::redis::resp::CommandParser;

use super::plan::{Plan, plan};

/// A command of one key on its way.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) key: Vec<u8>,
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// May be applied again, in order.
    pub(super) is_safe: bool,
    /// Counted as one that may have been applied twice.
    pub(super) is_at_risk: bool,
}

/// What becomes of a batch.
#[derive(Debug, Default)]
pub(super) struct Waves {
    pub(super) waves: Vec<Vec<Step>>,
    /// Names of what was left out.
    pub(super) left_out: Vec<String>,
    at: HashMap<Vec<u8>, usize>,
}

impl Waves {
    /// Of whole commands; with `skip` what cannot be done exactly is left out.
    pub(super) fn of(batch: &[u8], skip: bool) -> Result<Self> {
        let broken = || Error::new(Code::Internal, "a batch does not hold whole commands");
        let (mut parser, mut at, mut waves) = (CommandParser::default(), 0, Self::default());
        while at < batch.len() {
            let length = parser.parse(&batch[at..]).ok().flatten().ok_or_else(broken)?;
            let words: Vec<&[u8]> =
                parser.arguments().iter().filter_map(|(from, to)| batch.get(at + from..at + to)).collect();
            at += length;
            waves.take(&words, skip)?;
        }
        Ok(waves)
    }

    fn take(&mut self, words: &[&[u8]], skip: bool) -> Result<()> {
        let name = words.first().map(|name| String::from_utf8_lossy(name).to_uppercase()).unwrap_or_default();
        // Whoever encodes selects db 0 again at the end.
        if name == "SELECT" {
            return match words.get(1) {
                Some(&b"0") => Ok(()),
                _ => {
                    Err(Error::new(Code::TargetUnsupported, "a database other than 0 through an endpoint that routes"))
                }
            };
        }
        match plan(words) {
            Plan::Nothing => {}
            Plan::LeftOut => self.left_out.push(name),
            Plan::Refused(_) if skip => self.left_out.push(name),
            Plan::Refused(why) => {
                let message = format!("{name} cannot be given to an endpoint that routes by itself: {why}");
                return Err(Error::new(Code::TargetUnsupported, message));
            }
            Plan::Singles(singles) => singles.into_iter().for_each(|(key, bytes)| self.put(key, bytes)),
        }
        Ok(())
    }

    fn put(&mut self, key: Vec<u8>, bytes: Vec<u8>) {
        let mut parser = CommandParser::default();
        let whole = parser.parse(&bytes).is_ok();
        let words: Vec<&[u8]> =
            parser.arguments().iter().filter(|_| whole).filter_map(|(from, to)| bytes.get(*from..*to)).collect();
        let name = words.first().map(|name| String::from_utf8_lossy(name).to_uppercase()).unwrap_or_default();
        let is_safe = is_replay_safe(words.as_slice());
        let wave = self.at.entry(key.clone()).or_insert(0);
        if self.waves.len() <= *wave {
            self.waves.push(Vec::new());
        }
        if let Some(wave) = self.waves.get_mut(*wave) {
            wave.push(Step { key, name, bytes, is_safe, is_at_risk: false });
        }
        *wave += 1;
    }
}

#[cfg(test)]
mod tests {
    use dts_common::redis::resp;

    use super::*;

    #[test]
    fn no_key_has_two_commands_in_a_wave_and_their_order_stays() {
        let mut batch = Vec::new();
        for text in ["SET a 1", "INCR b", "MSET a 2 c 3", "SELECT 0", "PUBLISH x y", "APPEND a z"] {
            resp::command(&mut batch, &text.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        let waves = Waves::of(&batch, false).unwrap();
        let shown: Vec<Vec<String>> = waves
            .waves
            .iter()
            .map(|wave| {
                wave.iter().map(|step| format!("{} {}", step.name, String::from_utf8_lossy(&step.key))).collect()
            })
            .collect();
        assert_eq!(shown, [vec!["SET a", "INCR b", "SET c"], vec!["SET a"], vec!["APPEND a"]]);
        let safe: Vec<bool> = waves.waves[0].iter().map(|step| step.is_safe).collect();
        assert_eq!((safe, waves.left_out), (vec![true, false, true], vec!["PUBLISH".to_owned()]));
        batch.clear();
        resp::command(&mut batch, &[b"RENAME", b"a", b"b"]);
        assert!(Waves::of(&batch, false).unwrap_err().message.contains("RENAME"));
        assert_eq!(Waves::of(&batch, true).unwrap().left_out, ["RENAME"]);
    }
}
