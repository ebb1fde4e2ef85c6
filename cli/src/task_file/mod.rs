//! Tasks as files: docs/task-file.md. What is wrong in one is told by its place, everything at once.

pub(crate) mod command;
mod difference;
mod reader;
mod server;
mod spec;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use dts_proto::v1::TaskSpec;

/// A task that is to be created.
pub(crate) fn read(path: &Path) -> Result<TaskSpec> {
    checked(path, &text(path)?, false)
}

fn text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(path).with_context(|| format!("task file {}", path.display()))
}

/// What stands in the text, or every problem with its place.
fn checked(path: &Path, text: &str, may_keep_passwords: bool) -> Result<TaskSpec> {
    match parse(text, may_keep_passwords) {
        Ok(spec) => Ok(spec),
        Err(problems) => {
            let lines: Vec<_> = problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect();
            bail!("{}", lines.join("\n"))
        }
    }
}

fn parse(text: &str, may_keep_passwords: bool) -> Result<TaskSpec, Vec<reader::Problem>> {
    let root = tree::parse(text).map_err(|problem| vec![problem])?;
    let mut reader = reader::Reader { may_keep_passwords, ..reader::Reader::default() };
    let spec = reader.task(&root);
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| problem.at);
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}
