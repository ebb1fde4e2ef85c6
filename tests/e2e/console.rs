//! The web console in a real browser, by the keyboard alone.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::browser::{Browser, ENTER, ESCAPE};
use dts_tests::oracle::assert_equal;
use dts_tests::server::{Server, root};
use serde_json::json;

use crate::life::{Desk, spec};
use crate::until;
use crate::walkthrough::{Walk, page};

/// Pictures for people to look at.
fn picture(browser: &Browser, name: &str) -> Result<()> {
    let dir: PathBuf = root().join("target/console");
    std::fs::create_dir_all(&dir)?;
    browser.picture(&dir.join(format!("{name}.png")))
}

/// Nothing was wrong, and nobody else was asked for anything.
fn clean(browser: &Browser, address: &str) -> Result<()> {
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");
    asked_only(browser, address)
}

/// Nobody else was asked for anything.
fn asked_only(browser: &Browser, address: &str) -> Result<()> {
    let requests = browser.requests()?;
    let own = format!("http://{address}/");
    ensure!(requests.iter().any(|url| url.starts_with(&own)), "{requests:?}");
    // The page that a new window shows is the browser's own, and data: is asked of nobody.
    let foreign = |url: &&String| !["chrome://", "data:", &own].iter().any(|known| url.starts_with(*known));
    let others: Vec<_> = requests.iter().filter(foreign).collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}

/// One thing that the page tells to do.
#[derive(Debug)]
enum Step {
    Press(String),
    Fill(String, String),
}

/// What the page tells, in its order: **bold** is pressed, *Field* `value` is filled in.
fn steps(page: &str) -> Result<Vec<Step>> {
    let numbered = page.split("## With the console").nth(1).context("the console's part")?;
    let mut rest = numbered.split_once("\n1. ").context("its first step")?.1;
    let mut steps = Vec::new();
    while let Some(at) = rest.find('*') {
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("**") {
            let (name, after) = after.split_once("**").context("the end of what is bold")?;
            steps.push(Step::Press(name.to_owned()));
            rest = after;
        } else {
            let (name, after) = rest[1..].split_once('*').context("the end of a field")?;
            let (value, after) =
                after.trim_start().strip_prefix('`').and_then(|after| after.split_once('`')).context("a value")?;
            steps.push(Step::Fill(name.to_owned(), value.to_owned()));
            rest = after;
        }
    }
    Ok(steps)
}

#[test]
fn the_walkthrough_is_walked_with_the_keyboard_alone() -> Result<()> {
    let walk = Walk::begin()?;
    walk.walk("console")?;
    let browser = Browser::open(1280, 900)?;
    browser.go(&format!("http://{}/", walk.coordinator))?;
    browser.sees("No task yet")?;
    let steps = steps(&page()?)?;
    ensure!(steps.len() == 21, "{steps:?}");
    for step in &steps {
        match step {
            Step::Press(name) => {
                match name.as_str() {
                    "Acknowledge" => picture(&browser, "check")?,
                    "Complete…" => {
                        browser.sees("in step, ready to complete")?;
                        // A change that comes while somebody looks.
                        let set = Command::new("redis-cli")
                            .args(["-p", &walk.source, "SET", "written", "meanwhile"])
                            .output()?;
                        ensure!(set.status.success());
                        browser.until(
                            "a plot with a line in it",
                            "return document.querySelectorAll('.plot path[d*=L]').length >= 4",
                            &json!([]),
                        )?;
                        browser.sees("1,001")?;
                        picture(&browser, "progress")?;
                    }
                    "Verification" => browser.sees("completed")?,
                    _ => {}
                }
                browser.choose(name)?;
            }
            Step::Fill(name, value) => {
                let value = value.replace("$SOURCE_PORT", &walk.source).replace("$TARGET_PORT", &walk.target);
                browser.fill(name, &value)?;
            }
        }
    }
    browser.sees("verification 1 found both sides equal")?;
    browser.sees("run 1 (full)")?;
    picture(&browser, "verification")?;
    walk.nothing_of_ours_is_left()?;
    let size = Command::new("redis-cli").args(["-p", &walk.target, "DBSIZE"]).output()?;
    ensure!(String::from_utf8_lossy(&size.stdout).contains("1001"));
    for (tab, says) in [("Events", "completing"), ("Check", "dst.eviction"), ("Settings", "region home")] {
        browser.choose(tab)?;
        browser.sees(says)?;
    }
    clean(&browser, &walk.coordinator)
}

#[test]
fn tasks_agents_and_alarms_are_led_and_a_wrong_form_says_why() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let mut desk = Desk::start()?;
    // A name that would be markup if it were not text.
    let mut asked = spec(&source, &target);
    asked["name"] = json!("<img src=x onerror=alert(1)> & sons");
    desk.create(&asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    let browser = Browser::open(1280, 900)?;
    browser.go(&format!("http://{}/", desk.address))?;
    browser.sees("in step, ready to complete")?;
    picture(&browser, "tasks")?;
    browser.choose("<img src=x onerror=alert(1)> & sons")?;
    browser.choose("Pause")?;
    browser.sees("paused")?;
    ensure!(desk.get()?["state"] == "TASK_STATE_PAUSED");
    browser.choose("Resume")?;
    browser.sees("in step, ready to complete")?;
    // A question that is answered with Escape does nothing, and the focus goes back.
    browser.choose("Cancel…")?;
    browser.sees("No, go back")?;
    browser.press(ESCAPE)?;
    browser.until("the dialog to close", "return !document.querySelector('dialog')", &json!([]))?;
    ensure!(browser.focused()?.0 == "Cancel…", "{:?}", browser.focused()?);
    ensure!(desk.get()?["state"] == "TASK_STATE_INCR_SYNC");
    // Agents.
    browser.choose("Agents")?;
    browser.choose("Cordon only")?;
    browser.sees("cordoned")?;
    browser.choose("Drain only")?;
    // Nobody else is there to take the shard.
    browser.sees("shard 0 stays")?;
    picture(&browser, "agents")?;
    browser.choose("Uncordon only")?;
    browser.sees("in service")?;
    // Alarms: a policy whose receiver does not listen, tested.
    browser.choose("Alarms")?;
    browser.choose("New policy")?;
    browser.fill("Name", "night watch")?;
    browser.fill("Address", "http://127.0.0.1:9/hook")?;
    picture(&browser, "policy")?;
    browser.choose("Create")?;
    browser.choose("Send a test message of night watch")?;
    browser.sees("Test of night watch")?;
    browser.sees("first:")?;
    browser.press(ENTER)?;
    browser.choose("Delete night watch")?;
    browser.choose("Delete")?;
    browser.sees("Nobody is told of anything yet.")?;
    // What the coordinator refuses is told in the form, with the way out.
    browser.choose("New task")?;
    browser.fill("Name", "wrong")?;
    browser.choose("Create the task")?;
    browser.fill("Address", "127.0.0.1")?;
    browser.fill("Port", "70000")?;
    browser.choose("Add a node")?;
    browser.fill("Port", "1")?;
    browser.choose("Remove this node")?;
    browser.fill("Address", "127.0.0.1")?;
    browser.fill("Port", "1")?;
    browser.choose("Save and test the connection")?;
    browser.sees("has to be 1 to 65535")?;
    browser.sees("What to do: correct the request")?;
    let refusal = "Failed to load resource: the server responded with a status of 400";
    let complaints = browser.complaints()?;
    ensure!(complaints.iter().all(|one| one.contains(refusal)), "{complaints:?}");
    asked_only(&browser, &desk.address)?;
    // A coordinator that is gone is said, and found again when it is back.
    browser.choose("Tasks")?;
    browser.sees("wrong")?;
    desk.restart()?;
    browser.sees("in step, ready to complete")?;
    desk.call("CompleteTask", json!({}))?;
    browser.sees("completed")?;
    assert_equal(&source, &target)
}

#[test]
fn on_a_phone_nothing_is_wider_than_the_window_in_light_and_in_dark() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut desk = Desk::start()?;
    let mut asked = spec(&source, &target);
    asked["name"] = json!("a-name-without-any-space-that-is-longer-than-a-phone-is-wide-and-goes-on");
    desk.create(&asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    let set_up =
        desk.ask("CreateTask", json!({"spec": {"name": "being set up"}}))?["id"].as_str().context("an id")?.to_owned();
    let browser = Browser::open(1280, 900)?;
    for scheme in ["light", "dark"] {
        browser.phone(375, 812, scheme)?;
        let task = format!("#/tasks/{}", desk.task);
        for (name, page, says) in [
            ("tasks", "#/tasks".to_owned(), "a-name-without"),
            ("progress", task.clone(), "Shards"),
            ("check", format!("{task}/check"), "src.reach"),
            ("events", format!("{task}/events"), "being applied"),
            ("verification", format!("{task}/verification"), "Verify now"),
            ("settings", format!("{task}/settings"), "Mode"),
            ("setup", format!("#/tasks/{set_up}/setup"), "Save and test"),
            ("new", "#/new".to_owned(), "Create the task"),
            ("agents", "#/agents".to_owned(), "in service"),
            ("alarms", "#/alarms".to_owned(), "New policy"),
        ] {
            browser.go(&format!("http://{}/{page}", desk.address))?;
            browser.sees(says)?;
            let wide = browser.run("return document.documentElement.scrollWidth", json!([]))?;
            picture(&browser, &format!("phone-{scheme}-{name}"))?;
            ensure!(wide.as_u64().is_some_and(|wide| wide <= 375), "{name} is {wide} wide");
        }
    }
    clean(&browser, &desk.address)
}
