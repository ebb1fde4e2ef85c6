//! Passwords in arguments show in the process list: the program starts itself again without them, and hands them over
//! through a pipe. They are visible until then, a few milliseconds; the environment or a file avoids that.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use zeroize::Zeroize as _;

use crate::address::without_password;

/// Names the pipe to the program that was started again.
const PIPE: &str = "DTS_PASSWORD_PIPE";

/// The arguments without passwords, and the passwords by [`name_of`].
#[derive(Default)]
pub(crate) struct Secrets {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) passwords: HashMap<String, String>,
}

/// Gives back what was handed over, or hands over.
pub(crate) fn hide_passwords() -> Result<Secrets> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(descriptor) = std::env::var_os(PIPE) {
        return Ok(Secrets { arguments, passwords: take_over(&descriptor)? });
    }
    let (clean, passwords) = split(&arguments);
    if passwords.is_empty() {
        return Ok(Secrets { arguments, passwords: HashMap::new() });
    }
    start_again(&clean, &passwords)
}

/// Finds `--option redis://…password…` and `--option=redis://…`.
fn split(arguments: &[OsString]) -> (Vec<OsString>, HashMap<String, String>) {
    let mut passwords = HashMap::new();
    let mut clean = Vec::new();
    let mut option = String::new();
    for argument in arguments {
        let text = argument.to_string_lossy();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (Some(name.to_owned()), value),
            _ => (None, text.as_ref()),
        };
        match without_password(value) {
            Some((url, password)) => {
                let of = name.as_deref().unwrap_or(&option).trim_start_matches('-').to_owned();
                // `dts discover URL` has no option before it.
                passwords.insert(name_of(&of, &url), password);
                clean.push(name.map_or(url.clone(), |name| format!("{name}={url}")).into());
            }
            None => clean.push(argument.clone()),
        }
        option = text.into_owned();
    }
    (clean, passwords)
}

/// What a password is found by: an option may be given several times.
pub(crate) fn name_of(option: &str, url: &str) -> String {
    format!("{option} {url}")
}

fn start_again(arguments: &[OsString], passwords: &HashMap<String, String>) -> Result<Secrets> {
    let (read, write) = rustix::pipe::pipe().context("pipe")?;
    let mut text = serde_json::to_string(passwords)?;
    // A pipe holds 64 KiB without a reader; passwords are shorter.
    std::fs::File::from(write).write_all(text.as_bytes()).context("pipe")?;
    text.zeroize();
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = std::process::Command::new(program);
    command.args(&arguments[1..]).env(PIPE, read.as_raw_fd().to_string());
    Err(command.exec()).context("starting again without the password in the arguments")
}

fn take_over(descriptor: &OsString) -> Result<HashMap<String, String>> {
    let path = format!("/proc/self/fd/{}", descriptor.to_string_lossy());
    let file: OwnedFd = std::fs::File::open(path).context("the pipe with the passwords")?.into();
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).context("the pipe with the passwords")?;
    let passwords = serde_json::from_str(&text).context("the pipe with the passwords")?;
    text.zeroize();
    Ok(passwords)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_leave_the_arguments_in_both_spellings() {
        let arguments = [
            "dts",
            "migrate",
            "--source",
            "redis://u:one@h:1",
            "--source",
            "redis://u:three@h:3",
            "--target=redis://:two@h:2",
            "--json",
        ];
        let (clean, passwords) = split(&arguments.map(OsString::from));
        let expected = [
            "dts",
            "migrate",
            "--source",
            "redis://u@h:1",
            "--source",
            "redis://u@h:3",
            "--target=redis://h:2",
            "--json",
        ];
        assert_eq!(clean, expected.map(OsString::from));
        let of = |option: &str, url: &str| passwords[&name_of(option, url)].as_str();
        assert_eq!(
            (of("source", "redis://u@h:1"), of("source", "redis://u@h:3"), of("target", "redis://h:2")),
            ("one", "three", "two")
        );
    }
}
