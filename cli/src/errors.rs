//! `dts errors`: the error table, as people and programs read it. docs/errors.md is its answer.

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use dts_common::error::{Code, Error};
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only this one: `TARGET_NOT_EMPTY`.
    code: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal.
    Table,
    /// As it stands in docs/errors.md.
    Markdown,
}

const HEAD: &str = "\
# Error codes

Every error of the API, the CLI, task states and alarms is a row of this table: the `reason` of its `google.rpc.ErrorInfo`, whose metadata has `scope`, `retry` and `fix`.
Codes are frozen: programs match on them. `dts errors --format markdown` prints this page, and a test compares the two.

- **gRPC**: the status of a call that is refused with it.
- **scope**: whose matter it is: user, source, target, agent or internal.
- **retry**: whether trying again may help with nobody doing anything.

| code | meaning | gRPC | scope | retry | what to do |
| --- | --- | --- | --- | --- | --- |
";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = |code: &&Code| arguments.code.as_ref().is_none_or(|given| given == code.as_str());
    let rows: Vec<Code> = Code::ALL.iter().filter(known).copied().collect();
    if rows.is_empty() {
        return Err(anyhow!("there is no such code; `dts errors` lists them"));
    }
    match arguments.format {
        _ if arguments.json => rows.iter().for_each(|code| println!("{}", as_json(*code))),
        Format::Markdown => print!("{}", markdown(&rows)),
        Format::Table => {
            let mut table = Table::new();
            table.set_header(["code", "meaning", "scope", "retry", "what to do"]);
            for code in rows {
                let retry = if code.retry() { "yes" } else { "no" };
                table.add_row([code.as_str(), code.meaning(), code.scope().as_str(), retry, code.fix()]);
            }
            println!("{table}");
        }
    }
    Ok(())
}

fn grpc(code: Code) -> String {
    format!("{:?}", dts_coordinator::api::status(Error::new(code, "")).code())
}

fn as_json(code: Code) -> serde_json::Value {
    json!({
        "event": "error", "code": code.as_str(), "meaning": code.meaning(), "grpc": grpc(code), "scope": code.scope().as_str(),
        "retry": code.retry(), "fix": code.fix(),
    })
}

fn markdown(rows: &[Code]) -> String {
    let row = |code: &Code| {
        let retry = if code.retry() { "yes" } else { "no" };
        let (meaning, fix) = (code.meaning().replace('|', "\\|"), code.fix().replace('|', "\\|"));
        format!("| `{}` | {meaning} | {} | {} | {retry} | {fix} |\n", code.as_str(), grpc(*code), code.scope().as_str())
    };
    HEAD.to_owned() + &rows.iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_error_codes_is_the_table() {
        let page = include_str!("../../docs/errors.md");
        assert_eq!(
            page,
            markdown(Code::ALL),
            "a code or its remedy has changed: `dts errors --format markdown > docs/errors.md`"
        );
    }
}
