//! The sources of a task as arguments: one by one, or in a file.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use dts_proto::v1::{SourceKind, Topology};

/// Where the data comes from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// `redis://[user:password@]host:port`, `rediss://` for TLS; once for every node that is to be read.
    #[arg(long, value_name = "URL")]
    source: Vec<String>,
    /// A file with one such URL a line; it may hold passwords. What begins with # is a comment.
    #[arg(long, conflicts_with = "source")]
    sources_file: Option<PathBuf>,
    /// What the sources are to each other.
    #[arg(long, value_enum, default_value_t = Kind::Standalone)]
    source_kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Servers by themselves; several must have no key in common.
    Standalone,
    /// One node of every master of a Redis Cluster.
    Cluster,
}

impl Sources {
    /// Every source, at least one.
    pub(crate) fn urls(&self) -> Result<Vec<String>> {
        let urls = match &self.sources_file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("--sources-file {}", path.display()))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                lines.map(str::to_owned).collect()
            }
            None => self.source.clone(),
        };
        if urls.is_empty() {
            bail!("name the source by --source, or the sources by several of them or by --sources-file");
        }
        Ok(urls)
    }

    /// What they are to each other.
    pub(crate) fn topology(&self) -> Option<Topology> {
        let kind = match self.source_kind {
            Kind::Standalone => return None,
            Kind::Cluster => SourceKind::Cluster,
        };
        Some(Topology { kind: kind.into(), found_by: String::new() })
    }

    /// As they were given, for the command that goes on.
    pub(crate) fn again(&self) -> String {
        let mut words: Vec<String> = self.source.iter().map(|url| format!("--source {url}")).collect();
        words.extend(self.sources_file.iter().map(|path| format!("--sources-file {}", path.display())));
        if let Some(kind) = self.source_kind.to_possible_value().filter(|_| self.source_kind != Kind::Standalone) {
            words.push(format!("--source-kind {}", kind.get_name()));
        }
        words.join(" ")
    }
}
