//! The command line as shells and scripts use it.

use std::process::Command;

use anyhow::{Result, ensure};
use dts_tests::dts::binary;
use serde_json::Value;

#[test]
fn bash_completes_commands_options_and_values_by_the_script() -> Result<()> {
    let script = Command::new(binary()?).args(["completions", "bash"]).output()?;
    ensure!(script.status.success());
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("dts.bash"), &script.stdout)?;
    for (line, expected) in [
        ("dts ta", "task"),
        ("dts task sch", "schedule"),
        ("dts task create --sk", "--skip-cross-slot"),
        ("dts task create --mode m", "migrate"),
        ("dts completions f", "fish"),
    ] {
        // As bash calls it when somebody presses Tab.
        let ask = format!(
            "source dts.bash; words='{line}'; COMP_WORDS=($words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             COMP_LINE=$words; COMP_POINT=${{#words}}; _dts dts \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$((COMP_CWORD - 1))]}}\"; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &ask]).current_dir(dir.path()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            said.split_whitespace().any(|word| word == expected),
            "{line}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for shell in ["zsh", "fish"] {
        let script = Command::new(binary()?).args(["completions", shell]).output()?;
        ensure!(script.status.success() && String::from_utf8_lossy(&script.stdout).contains("cross-slot"), "{shell}");
    }
    Ok(())
}

#[test]
fn an_error_code_is_looked_up_by_people_and_by_programs() -> Result<()> {
    let ask = |arguments: &[&str]| {
        Command::new(binary()?).arg("errors").args(arguments).output().map_err(anyhow::Error::from)
    };
    let row: Value = serde_json::from_slice(&ask(&["TARGET_NOT_EMPTY", "--json"])?.stdout)?;
    ensure!(row["scope"] == "target" && row["retry"] == false && row["grpc"] == "Unavailable", "{row}");
    ensure!(row["fix"].as_str().is_some_and(|fix| fix.contains("empty target")), "{row}");
    ensure!(!ask(&["NO_SUCH_CODE"])?.status.success());
    let all = ask(&["--json"])?.stdout;
    let lines = String::from_utf8(all)?.lines().count();
    ensure!(lines > 40 && String::from_utf8(ask(&[])?.stdout)?.contains("INSTANCE_BUSY"), "{lines}");
    Ok(())
}
