//! What it means that the target refuses a command which succeeded on the source, and which command that is.

use dts_common::error::{Code, Error};
use dts_common::redis::rdb::module_type;
use dts_common::redis::resp::CommandParser;

/// A command by what is said of it.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) key: Vec<u8>,
    /// The module type of what it restores.
    module: Option<String>,
}

/// The n-th command that begins in these bytes.
pub(super) fn named(bytes: &[u8], index: Option<u64>) -> Named {
    let unknown = || Named { name: "a command".to_owned(), ..Named::default() };
    let Some(index) = index else { return unknown() };
    let mut parser = CommandParser::default();
    let mut at = 0;
    for _ in 0..index {
        match parser.parse(&bytes[at..]) {
            Ok(Some(length)) => at += length,
            _ => return unknown(),
        }
    }
    let Ok(Some(_)) = parser.parse(&bytes[at..]) else { return unknown() };
    let argument = |index: usize| {
        let range = parser.arguments().get(index);
        range.and_then(|(start, end)| bytes.get(at + start..at + end)).unwrap_or_default()
    };
    let name = String::from_utf8_lossy(argument(0)).to_uppercase();
    let module = (name == "RESTORE").then(|| module_type(argument(3))).flatten();
    Named { name, key: argument(1).to_vec(), module }
}

/// The error for the n-th command of these bytes, which the target answered with `text`.
pub(super) fn of(bytes: &[u8], index: Option<u64>, text: &str) -> Error {
    let named = named(bytes, index);
    diverged(&named.name, &named.key, named.module.as_deref(), text)
}

/// The error for a command that the target answered with `text`.
pub(super) fn diverged(name: &str, key: &[u8], module: Option<&str>, text: &str) -> Error {
    let word = text.split(' ').next().unwrap_or_default();
    let error = match module {
        Some(module) if text.contains("Bad data format") => {
            let message = format!("the target has no module that takes values of the type {module}, or an older one");
            Error::new(Code::TargetUnsupported, message)
        }
        _ => Error::new(Code::Diverged, format!("the target refused {name}, which succeeded on the source ({word})")),
    };
    error.about_key(key).quoting(text)
}

/// True for the error that a script ends with by itself: a source up to 4.0 sends a script that wrote something also when it
/// failed then, as it does here.
pub(super) fn is_the_scripts_own(text: &str, name: impl FnOnce() -> String) -> bool {
    const THE_TARGETS: [&str; 7] =
        ["NOSCRIPT", "OOM", "READONLY", "NOPERM", "MISCONF", "NOREPLICAS", "nknown Redis command"];
    !THE_TARGETS.iter().any(|word| text.contains(word)) && matches!(name().as_str(), "EVAL" | "EVALSHA")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_script_is_its_own_unless_the_target_made_it() {
        let of = |name: &'static str| move || name.to_owned();
        assert!(is_the_scripts_own("ERR Error running script: no", of("EVAL")));
        assert!(!is_the_scripts_own("ERR Error running script: -OOM command not allowed", of("EVAL")));
        assert!(!is_the_scripts_own("NOSCRIPT No matching script", of("EVALSHA")));
        assert!(!is_the_scripts_own("WRONGTYPE Operation", of("INCR")));
    }
}
