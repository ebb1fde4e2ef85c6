//! The API as JSON over HTTP, asked by curl.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::port::free_port;
use dts_tests::server::Server;
use dts_tests::tls::{Authority, Identity};
use serde_json::{Value, json};

use crate::control::{Control, servers};
use crate::fleet::role;
use crate::life::{Desk, spec};
use crate::until;

/// Status, head and body.
fn curl(arguments: &[&str]) -> Result<(u16, String, String)> {
    let output = Command::new("curl").args(["-s", "-i", "-m", "20"]).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer: {output:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((status, head.to_lowercase(), body.to_owned()))
}

fn post(address: &str, call: &str, body: &Value, more: &[&str]) -> Result<(u16, Value)> {
    let (url, body) = (format!("http://{address}/dts.v1.{call}"), body.to_string());
    let (status, _, said) =
        curl(&[&["-H", "Content-Type: application/json", "-d", &body], more, &[url.as_str()]].concat())?;
    Ok((status, serde_json::from_str(&said).with_context(|| said)?))
}

fn reason(answer: &Value) -> &Value {
    &answer["details"][0]["debug"]["reason"]
}

#[test]
fn calls_and_errors_are_those_of_grpc() -> Result<()> {
    let desk = Desk::without_agents()?;
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    for more in [&["--http1.1"][..], &["--http2-prior-knowledge"]] {
        let spec = json!({"spec": spec(&source, &target), "requestId": "once"});
        let (status, task) = post(&desk.address, "TaskService/CreateTask", &spec, more)?;
        ensure!(status == 200 && task["state"] == "TASK_STATE_CREATED", "{task}");
        let same = desk.ask("GetTask", json!({"id": task["id"]}))?;
        ensure!(task == same, "{task}\n{same}");
        // The same table, with the way out.
        let (status, refused) = post(&desk.address, "TaskService/PauseTask", &json!({"id": task["id"]}), more)?;
        ensure!(status == 400 && refused["code"] == "failed_precondition", "{refused}");
        ensure!(reason(&refused) == "ACTION_NOT_ALLOWED", "{refused}");
        ensure!(refused["details"][0]["debug"]["metadata"]["fix"].as_str().is_some_and(|fix| !fix.is_empty()));
        ensure!(refused["details"][0]["type"] == "google.rpc.ErrorInfo" && refused["details"][0]["value"].is_string());
        let (status, refused) = post(&desk.address, "TaskService/GetTask", &json!({"id": "nobody"}), more)?;
        ensure!(status == 404 && reason(&refused) == "TASK_NOT_FOUND", "{refused}");
        let (status, refused) = post(&desk.address, "TaskService/GetTask", &json!({"nonsense": 1}), more)?;
        ensure!(status == 400 && reason(&refused) == "INVALID_REQUEST", "{refused}");
        ensure!(refused["message"].as_str().is_some_and(|said| said.contains("nonsense")), "{refused}");
        let (status, refused) = post(&desk.address, "TaskService/Nothing", &json!({}), more)?;
        ensure!(status == 404 && refused["code"] == "unimplemented", "{refused}");
        let (status, refused) = post(&desk.address, "AgentService/Session", &json!({}), more)?;
        ensure!(status == 501 && refused["code"] == "unimplemented", "{refused}");
    }
    for (header, status) in [
        ("Connect-Timeout-Ms: 5000", 200),
        ("Connect-Timeout-Ms: soon", 400),
        ("Content-Encoding: gzip", 501),
        ("Content-Encoding: identity", 200),
    ] {
        let found = post(&desk.address, "TaskService/ListTasks", &json!({}), &["-H", header])?;
        ensure!(found.0 == status, "{header}: {found:?}");
    }
    // Who did it, noted as ever.
    let (_, trail) = post(&desk.address, "FleetService/ListAudit", &json!({}), &[])?;
    let noted = trail["entries"].as_array().context("a trail")?;
    let entry = |what: &str, outcome: &str| noted.iter().any(|one| one["what"] == what && one["outcome"] == outcome);
    ensure!(entry("TaskService/CreateTask", "OK") && entry("TaskService/PauseTask", "ACTION_NOT_ALLOWED"), "{trail}");
    ensure!(noted[0]["address"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{trail}");
    Ok(())
}

#[test]
fn a_page_of_somebody_else_and_a_name_of_somebody_else_are_turned_away() -> Result<()> {
    let desk = Desk::without_agents()?;
    let port = desk.address.rsplit(':').next().context("a port")?;
    let own = format!("Origin: http://{}", desk.address);
    let rebound = format!("Host: evil.example:{port}");
    let json = "Content-Type: application/json";
    let grpc = "Content-Type: application/grpc";
    let url = format!("http://{}/dts.v1.TaskService/ListTasks", desk.address);
    for (headers, status) in [
        (&[json][..], 200),
        (&[json, &own], 200),
        (&[json, "Origin: http://evil.example"], 403),
        (&[json, "Origin: null"], 403),
        (&[json, &rebound], 403),
        (&[json, &rebound, "Sec-Fetch-Site: same-origin"], 403),
        (&[json, "Sec-Fetch-Site: cross-site"], 403),
        // What a page may send without being asked for leave first.
        (&["Content-Type: text/plain"], 415),
        (&["Content-Type: application/x-www-form-urlencoded"], 415),
        (&["Content-Type: multipart/form-data"], 415),
        (&[grpc], 505),
        (&[grpc, &rebound], 403),
        (&["Content-Type: application/grpc-web"], 415),
    ] {
        let headers: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        let (found, head, body) = curl(&[&headers[..], &["--http1.1", "-d", "{}", &url]].concat())?;
        ensure!(found == status, "{headers:?}: {found} {body}");
        ensure!(!head.contains("access-control-allow"), "{head}");
    }
    // The question that a browser asks before it sends JSON to another origin is not answered with yes.
    let (status, head, _) = curl(&["-X", "OPTIONS", "-H", "Origin: http://evil.example", &url])?;
    ensure!(status == 403 && !head.contains("access-control-allow"), "{head}");
    let (status, _, _) = curl(&[&url])?;
    ensure!(status == 405);
    let page = format!("http://{}/", desk.address);
    let (status, head, body) = curl(&[&page])?;
    ensure!(status == 200 && body.contains("<title>DTS"), "{head}");
    for header in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "x-frame-options: deny"]
    {
        ensure!(head.contains(header), "{header}: {head}");
    }
    ensure!(curl(&["-H", &rebound, &page])?.0 == 403 && curl(&[&format!("{page}nothing")])?.0 == 404);
    Ok(())
}

#[test]
fn a_follower_hands_json_on_to_the_leader_and_a_stream_comes_in_envelopes() -> Result<()> {
    let (source, target) = servers()?;
    let control = Control::start(1, 2)?;
    let leader = control.leader()?;
    let follower = control.addresses[1 - leader].clone();
    let mut task = Value::Null;
    until("a task", || {
        let (status, answer) =
            post(&follower, "TaskService/CreateTask", &json!({"spec": spec(&source, &target)}), &[])?;
        ensure!(status == 200 || answer["code"] == "unavailable", "{answer}");
        task = answer;
        Ok(status == 200)
    })?;
    let id = json!({"id": task["id"]});
    ensure!(post(&control.addresses[leader], "TaskService/GetTask", &id, &[])?.1["id"] == task["id"]);
    // A client cannot pass for a coordinator that hands on.
    let (status, _) = post(
        &follower,
        "TaskService/GetTask",
        &id,
        &["-H", "dts-forwarded: 1", "-H", "dts-caller-address: 1.2.3.4:5"],
    )?;
    ensure!(status == 200);
    let message = id.to_string();
    let mut envelope = vec![0, 0, 0, 0, u8::try_from(message.len())?];
    envelope.extend_from_slice(message.as_bytes());
    let dir = tempfile::tempdir()?;
    let (sent, got) = (dir.path().join("sent"), dir.path().join("got"));
    std::fs::write(&sent, envelope)?;
    let watch = Command::new("curl")
        .args(["-s", "-N", "-m", "60", "-H", "Content-Type: application/connect+json", "--data-binary"])
        .arg(format!("@{}", sent.display()))
        .arg("-o")
        .arg(&got)
        .arg(format!("http://{follower}/dts.v1.TaskService/WatchTask"))
        .spawn()?;
    let mut watch = Guard(watch);
    let seen = || std::fs::read(&got).unwrap_or_default();
    until("a first state", || Ok(String::from_utf8_lossy(&seen()).contains("TASK_STATE_CREATED")))?;
    post(&follower, "TaskService/DeleteTask", &id, &[])?;
    watch.0.wait()?;
    let got = seen();
    ensure!(got[0] == 0, "the first envelope is a message");
    ensure!(got.ends_with(b"\x02\x00\x00\x00\x02{}"), "{}", String::from_utf8_lossy(&got));
    Ok(())
}

#[test]
fn over_tls_a_browser_is_who_its_certificate_says() -> Result<()> {
    let authority = Authority::new("fleet")?;
    let shown = authority.server(&["127.0.0.1"])?;
    let (boss, looker) = (authority.client("boss")?, authority.client("looker")?);
    let dir = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port());
    let text = |path: &std::path::Path| path.display().to_string();
    let _coordinator = role(&[
        "coordinator",
        "--listen",
        &address,
        "--state-dir",
        &text(&dir.path().join("c")),
        "--client-ca",
        &text(&authority.file),
        "--tls-cert",
        &text(&shown.certificate),
        "--tls-key",
        &text(&shown.key),
        "--operator",
        "boss",
        "--viewer",
        "looker",
    ])?;
    let ask = |who: Option<&Identity>, call: &str, body: &str, more: &[&str]| {
        let (ca, url) = (text(&authority.file), format!("https://{address}/{call}"));
        let mut arguments = vec!["--cacert".to_owned(), ca];
        if let Some(who) = who {
            arguments.extend(["--cert".into(), text(&who.certificate), "--key".into(), text(&who.key)]);
        }
        if !body.is_empty() {
            arguments.extend(["-H", "Content-Type: application/json", "-d", body].map(str::to_owned));
        }
        arguments.extend(more.iter().map(|one| (*one).to_owned()).chain([url]));
        curl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (list, create) = ("dts.v1.TaskService/ListTasks", "dts.v1.TaskService/CreateTask");
    until("the coordinator", || Ok(ask(Some(&boss), list, "{}", &[]).is_ok()))?;
    let task = r#"{"spec": {"name": "n"}}"#;
    for more in [&["--http1.1"][..], &["--http2"]] {
        ensure!(ask(Some(&looker), list, "{}", more)?.0 == 200);
        let (status, _, refused) = ask(Some(&looker), create, task, more)?;
        ensure!(
            status == 403 && refused.contains("PERMISSION_DENIED") && refused.contains("looker is a viewer"),
            "{refused}"
        );
        ensure!(ask(Some(&boss), create, task, more)?.0 == 200);
        ensure!(ask(Some(&looker), "", "", more)?.2.contains("<title>DTS"), "the console");
        ensure!(ask(None, list, "{}", more).is_err(), "somebody without a certificate got an answer");
        let own = format!("Origin: https://{address}");
        ensure!(ask(Some(&boss), list, "{}", &[more, &["-H", &own]].concat())?.0 == 200);
        let other = ["-H", "Origin: https://evil.example"];
        ensure!(
            ask(Some(&boss), create, task, &[more, &other].concat())?.0 == 403,
            "the certificate was used by a page of others"
        );
    }
    Ok(())
}

/// A process that ends with its owner.
struct Guard(std::process::Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
