//! The generated data: the same for everybody, from a fixed seed.

use anyhow::{Context as _, Result, bail};
use dts_tests::server::Server;

/// Commands a pipeline while filling.
const BATCH: u64 = 2000;

#[derive(Clone, Copy)]
enum Kind {
    /// Half strings of 100 B (a fifth of them with expiry), the rest hashes, lists, sets, zsets of five elements.
    Mixed,
    /// Strings of 1 KB.
    Values1k,
}

/// What is put into the source.
pub(crate) struct Dataset {
    kind: Kind,
    pub(crate) keys: u64,
}

impl Dataset {
    pub(crate) fn new(kind: &str, keys: u64) -> Result<Self> {
        let kind = match kind {
            "mixed" => Kind::Mixed,
            "values-1k" => Kind::Values1k,
            _ => bail!("--dataset is mixed or values-1k, not {kind}"),
        };
        Ok(Self { kind, keys })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Mixed => "mixed small keys",
            Kind::Values1k => "strings of 1 KB",
        }
    }

    pub(crate) fn fill(&self, server: &Server) -> Result<()> {
        self.fill_among(&[server], |_| 0)
    }

    /// Each key goes to the server that `of` says.
    pub(crate) fn fill_among(&self, servers: &[&Server], of: impl Fn(&str) -> usize) -> Result<()> {
        let mut connections = servers.iter().map(|server| server.connect()).collect::<Result<Vec<_>>>()?;
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let mut key = 0;
        while key < self.keys {
            let mut pipes: Vec<redis::Pipeline> = servers.iter().map(|_| redis::pipe()).collect();
            for _ in 0..BATCH.min(self.keys - key) {
                let name = format!("key:{key:012}");
                let pipe = pipes.get_mut(of(&name)).context("no such server")?;
                self.add(pipe, key, name, &mut state);
                key += 1;
            }
            for (pipe, connection) in pipes.iter().zip(&mut connections) {
                pipe.query::<()>(connection)?;
            }
        }
        Ok(())
    }

    fn add(&self, pipe: &mut redis::Pipeline, key: u64, name: String, state: &mut u64) {
        if let Kind::Values1k = self.kind {
            pipe.cmd("SET").arg(name).arg(text(1000, state)).ignore();
            return;
        }
        match key % 10 {
            0 => pipe.cmd("SET").arg(name).arg(text(100, state)).arg("EX").arg(86_400 + key % 86_400).ignore(),
            1..=4 => pipe.cmd("SET").arg(name).arg(text(100, state)).ignore(),
            5 | 6 => {
                pipe.cmd("HMSET").arg(name);
                for field in 0..5 {
                    pipe.arg(format!("field{field}")).arg(text(12, state));
                }
                pipe.ignore()
            }
            7 => {
                pipe.cmd("RPUSH").arg(name);
                for _ in 0..5 {
                    pipe.arg(text(12, state));
                }
                pipe.ignore()
            }
            8 => {
                pipe.cmd("SADD").arg(name);
                for _ in 0..5 {
                    pipe.arg(text(12, state));
                }
                pipe.ignore()
            }
            _ => {
                pipe.cmd("ZADD").arg(name);
                for score in 0..5 {
                    pipe.arg(score).arg(text(12, state));
                }
                pipe.ignore()
            }
        };
    }
}

/// Letters that do not compress well.
fn text(length: usize, state: &mut u64) -> Vec<u8> {
    (0..length)
        .map(|_| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            b'a' + u8::try_from(*state % 26).unwrap_or(0)
        })
        .collect()
}
