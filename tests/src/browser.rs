//! A real browser, headless, driven by the W3C protocol as a person with a keyboard drives it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::http::request;
use crate::port::free_port;

/// No page has so many places to stop at.
const MOST_STOPS: usize = 120;
/// The key.
pub const TAB: &str = "\u{e004}";
/// The key.
pub const ENTER: &str = "\u{e007}";
/// The key.
pub const ESCAPE: &str = "\u{e00c}";
const DELETE: &str = "\u{e017}";
const CONTROL: &str = "\u{e009}";

/// The focused element as a person or a screen reader knows it.
const NAME: &str = "const at = document.activeElement; \
    const label = at.labels?.[0]?.firstChild?.textContent || (at.type === 'radio' || at.type === 'checkbox' ? at.labels?.[0]?.innerText : ''); \
    return [at.getAttribute('aria-label') || label || at.innerText || '', at.tagName].map((text) => text.trim());";
/// What could be focused and pressed now.
const PRESENT: &str = "return [...document.querySelectorAll('button, a, input, select, textarea, summary')].some((at) => at.checkVisibility() && !at.disabled \
    && (!document.querySelector('dialog[open]') || at.closest('dialog[open]')) \
    && [at.getAttribute('aria-label'), at.labels?.[0]?.firstChild?.textContent, at.labels?.[0]?.innerText, at.innerText].some((text) => text?.trim() === arguments[0]));";

/// A window of Chromium, ended with its owner.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a window of this size.
    pub fn open(width: u32, height: u32) -> Result<Self> {
        let (port, profile) = (free_port(), tempfile::tempdir()?);
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().context("chromedriver: run `make setup`")?;
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        let deadline = Instant::now() + crate::PATIENCE;
        while request(port, "GET", "/status", "").is_err() {
            ensure!(Instant::now() < deadline, "chromedriver does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Root has no sandbox of its own; nothing is asked of anybody else.
        let options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ]});
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let made = browser.ask("POST", "/session", &wanted)?;
        browser.session = made["sessionId"].as_str().context("no session")?.to_owned();
        Ok(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let text = if method == "POST" { body.to_string() } else { String::new() };
        let (status, answer) = request(self.port, method, path, &text)?;
        let mut answer: Value =
            serde_json::from_str(&answer).with_context(|| answer.chars().take(200).collect::<String>())?;
        ensure!(status == 200, "{path}: {}", answer["value"]["message"]);
        Ok(answer["value"].take())
    }

    fn call(&self, method: &str, what: &str, body: &Value) -> Result<Value> {
        self.ask(method, &format!("/session/{}/{what}", self.session), body)
    }

    /// Opens a page.
    pub fn go(&self, url: &str) -> Result<()> {
        self.call("POST", "url", &json!({ "url": url })).map(drop)
    }

    /// Runs a script in the page.
    pub fn run(&self, script: &str, arguments: Value) -> Result<Value> {
        self.call("POST", "execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// Waits until the script says true.
    pub fn until(&self, what: &str, script: &str, arguments: &Value) -> Result<()> {
        let deadline = Instant::now() + crate::PATIENCE;
        while self.run(script, arguments.clone())? != true {
            if Instant::now() > deadline {
                bail!("{what} took too long; the page says: {}", self.text()?);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Waits until the page says so.
    pub fn sees(&self, text: &str) -> Result<()> {
        self.until(text, "return document.body.innerText.includes(arguments[0])", &json!([text]))
    }

    /// All that the page says.
    pub fn text(&self) -> Result<String> {
        Ok(self.run("return document.body.innerText", json!([]))?.as_str().unwrap_or_default().to_owned())
    }

    /// Presses and releases each key.
    pub fn press(&self, keys: &str) -> Result<()> {
        let strokes = keys
            .chars()
            .flat_map(|key| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]);
        self.strokes(strokes.collect())
    }

    fn strokes(&self, strokes: Vec<Value>) -> Result<()> {
        self.call("POST", "actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}))
            .map(drop)
    }

    /// The name and the kind of what has the focus.
    pub fn focused(&self) -> Result<(String, String)> {
        let found = self.run(NAME, json!([]))?;
        let text = |at: usize| found[at].as_str().unwrap_or_default().to_owned();
        Ok((text(0), text(1)))
    }

    /// Goes from stop to stop until the one of this name has the focus.
    pub fn tab_to(&self, name: &str) -> Result<()> {
        self.until(name, PRESENT, &json!([name]))?;
        let mut seen = Vec::new();
        for _ in 0..MOST_STOPS {
            self.press(TAB)?;
            let (found, _) = self.focused()?;
            if found == name {
                return Ok(());
            }
            seen.push(found);
        }
        bail!("no way with the keyboard to {name:?}; there were {seen:?}")
    }

    /// Presses a button or follows a link.
    pub fn choose(&self, name: &str) -> Result<()> {
        self.tab_to(name)?;
        self.press(ENTER)
    }

    /// Writes into a field, instead of what is there.
    pub fn fill(&self, name: &str, value: &str) -> Result<()> {
        self.tab_to(name)?;
        if self.focused()?.1 == "INPUT" {
            let held = |kind: &str, key: &str| json!({"type": kind, "value": key});
            self.strokes(vec![
                held("keyDown", CONTROL),
                held("keyDown", "a"),
                held("keyUp", "a"),
                held("keyUp", CONTROL),
            ])?;
            self.press(DELETE)?;
        }
        self.press(value)
    }

    /// Writes what the window shows, for people to look at.
    pub fn picture(&self, path: &Path) -> Result<()> {
        let shown = self.call("GET", "screenshot", &Value::Null)?;
        let coded = path.with_extension("base64");
        std::fs::write(&coded, shown.as_str().context("no picture")?)?;
        let decoded = Command::new("base64").arg("-d").arg(&coded).output()?.stdout;
        std::fs::remove_file(&coded)?;
        Ok(std::fs::write(path, decoded)?)
    }

    /// Shows pages as a phone of this size and taste does.
    pub fn phone(&self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let tell = |command: &str, what: Value| {
            self.call("POST", "goog/cdp/execute", &json!({"cmd": command, "params": what})).map(drop)
        };
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": true});
        tell("Emulation.setDeviceMetricsOverride", size)?;
        tell("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}))
    }

    /// What the console of the browser complained of.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.call("POST", "se/log", &json!({"type": "browser"}))?;
        let said = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        Ok(entries.as_array().into_iter().flatten().map(said).collect())
    }

    /// Every address that was asked for.
    pub fn requests(&self) -> Result<Vec<String>> {
        let entries = self.call("POST", "se/log", &json!({"type": "performance"}))?;
        let mut found = Vec::new();
        for entry in entries.as_array().into_iter().flatten() {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
            if message["message"]["method"] == "Network.requestWillBeSent" {
                found.extend(message["message"]["params"]["request"]["url"].as_str().map(str::to_owned));
            }
        }
        Ok(found)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The window first: the driver would leave it.
        let _ = self.ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
