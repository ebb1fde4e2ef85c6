//! What the documents claim to be tested is a test.

use anyhow::{Result, ensure};
use dts_tests::server::root;

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The source of a module of these tests.
fn source_of(module: &str) -> Result<String> {
    let dir = root().join("tests/e2e");
    let one = dir.join(format!("{module}.rs"));
    if one.is_file() {
        return Ok(std::fs::read_to_string(one)?);
    }
    let mut all = String::new();
    for file in std::fs::read_dir(dir.join(module))? {
        all += &std::fs::read_to_string(file?.path())?;
    }
    Ok(all)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[test]
fn every_test_and_every_fault_that_the_page_on_reliability_names_exists() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/reliability.md"))?;
    let faults = std::fs::read_to_string(root().join("tests/chaos/fault.rs"))?;
    let (mut tests, mut struck) = (0, 0);
    for row in page.lines().filter(|line| line.starts_with("| ") && line.contains("::")) {
        for word in quoted(row) {
            if let Some((module, test)) =
                word.split_once("::").filter(|(module, test)| is_word(module) && is_word(test))
            {
                let found = source_of(module)?.contains(&format!("#[test]\nfn {test}("));
                ensure!(found, "docs/reliability.md names {word}, which is no test");
                tests += 1;
            } else if word.contains('-') && !word.contains(' ') && !word.contains("repl") {
                ensure!(
                    faults.contains(&format!("\"{word}\"")),
                    "docs/reliability.md names {word}, which is no fault of chaos"
                );
                struck += 1;
            }
        }
    }
    ensure!(tests >= 20 && struck >= 10, "{tests} tests and {struck} faults were found: is the table still one?");
    Ok(())
}
