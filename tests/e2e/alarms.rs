//! Alarms to real receivers: a web server, Prometheus's Alertmanager, an SMTP server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::http;
use dts_tests::port::free_port;
use dts_tests::server::{Server, root};
use serde_json::{Value, json};

use crate::fleet::{Role, grpcurl, program_in, role};
use crate::{locked, until};

const SECRET: &str = "whsec-4711";

/// What came to a server of a test, in order.
type Seen<T> = Arc<Mutex<Vec<T>>>;

/// A web server that answers with what `status` says.
struct Hook {
    port: u16,
    seen: Seen<(String, Value)>,
    refuse: Arc<Mutex<usize>>,
}

impl Hook {
    /// Refuses the first messages.
    fn start(refuse: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, seen, refuse) = (listener.local_addr()?.port(), Seen::default(), Arc::new(Mutex::new(refuse)));
        let (sees, refuses) = (Seen::clone(&seen), Arc::clone(&refuse));
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _heard_or_gone = Self::answer(stream, &sees, &refuses);
            }
        });
        Ok(Self { port, seen, refuse })
    }

    fn answer(stream: TcpStream, seen: &Seen<(String, Value)>, refuse: &Mutex<usize>) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut left = locked(refuse);
        let status = if *left > 0 { "503 Not Now" } else { "204 Taken" };
        if *left == 0 {
            verify(&head, &body)?;
            locked(seen).push((head, serde_json::from_slice(&body)?));
        }
        *left = left.saturating_sub(1);
        write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        Ok(())
    }

    fn messages(&self) -> Vec<Value> {
        locked(&self.seen).iter().map(|(_, body)| body.clone()).collect()
    }
}

/// As somebody else's program would check it.
fn verify(head: &str, body: &[u8]) -> Result<()> {
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).context(name.to_owned())
    };
    let signed = [field("dts-timestamp")?.as_bytes(), b".", body].concat();
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", SECRET])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    openssl.stdin.take().context("stdin")?.write_all(&signed)?;
    let output = String::from_utf8(openssl.wait_with_output()?.stdout)?;
    let expected = output.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(field("dts-signature")? == format!("v1={expected}"), "a wrong signature");
    Ok(())
}

/// An SMTP server that keeps what it gets.
fn smtp() -> Result<(u16, Seen<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, seen) = (listener.local_addr()?.port(), Seen::default());
    let sees = Seen::clone(&seen);
    // Ends with the process of the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sees = Seen::clone(&sees);
            std::thread::spawn(move || mail(&stream, &sees));
        }
    });
    Ok((port, seen))
}

/// RFC 5321, as much of it as there is to a mail.
fn mail(mut stream: &TcpStream, seen: &Seen<String>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut letter, mut in_data) = (String::new(), false);
    stream.write_all(b"220 test\r\n")?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if in_data {
            if line == ".\r\n" {
                in_data = false;
                locked(seen).push(std::mem::take(&mut letter));
                stream.write_all(b"250 taken\r\n")?;
            } else {
                letter += &line;
            }
            continue;
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "DATA" => b"354 go on\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        in_data = verb == "DATA";
        letter += if verb == "MAIL" || verb == "RCPT" { &line } else { "" };
        stream.write_all(answer)?;
    }
}

struct Alertmanager {
    _process: Role,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Alertmanager {
    fn start() -> Result<Self> {
        let (dir, port) = (tempfile::tempdir()?, free_port());
        let installed = root().join(".fleet/prometheus").canonicalize().context("run `make setup`")?;
        let config = dir.path().join("config.yml");
        std::fs::write(&config, "route: {receiver: none}\nreceivers: [{name: none}]\n")?;
        let process = program_in(
            &installed,
            &installed.join("bin/prometheus-alertmanager"),
            &[
                &format!("--config.file={}", config.display()),
                &format!("--storage.path={}", dir.path().join("data").display()),
                &format!("--web.listen-address=127.0.0.1:{port}"),
                "--cluster.listen-address=",
            ],
        )?;
        until("Alertmanager", || Ok(http::get(port, "/-/ready").is_ok_and(|text| text.contains("OK"))))?;
        Ok(Self { _process: process, _dir: dir, port })
    }

    /// Alerts that are active, by its own word.
    fn active(&self) -> Result<Vec<Value>> {
        let alerts: Value = serde_json::from_str(&http::get(self.port, "/api/v2/alerts?active=true")?)?;
        Ok(alerts.as_array().cloned().unwrap_or_default())
    }
}

/// A coordinator and an agent.
struct Fleet {
    dir: tempfile::TempDir,
    address: String,
    coordinator: Option<Role>,
}

impl Fleet {
    fn start() -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let mut fleet = Self { dir: tempfile::tempdir()?, address, coordinator: None };
        fleet.coordinate()?;
        Ok(fleet)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn coordinate(&mut self) -> Result<()> {
        self.coordinator = None;
        let state = self.path("c");
        self.coordinator =
            Some(role(&["coordinator", "--listen", &self.address, "--state-dir", &state, "--agent-ttl", "3s"])?);
        until("the coordinator", || Ok(grpcurl(&self.address, &["list"]).is_ok()))
    }

    fn agent(&self, name: &str) -> Result<Role> {
        role(&["agent", "--name", name, "--coordinator", &self.address, "--state-dir", &self.path(name)])
    }

    /// `dts …` with JSON lines on stdout.
    fn dts(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let output =
            Command::new(binary()?).args(arguments).args(["--coordinator", &self.address, "--json"]).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout)?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    fn call(&self, service: &str, request: &Value) -> Result<Value> {
        let answer = grpcurl(&self.address, &["-d", &request.to_string(), &format!("dts.v1.{service}")])?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// A task that follows the source.
    fn task(&self, source: &Server, target: &Server) -> Result<Value> {
        let created = self.call(
            "TaskService/CreateTask",
            &json!({"spec": {
                "name": "orders-eu", "mode": "MODE_SYNC", "limits": {"retryWindowSeconds": 600},
                "sources": [{"host": "127.0.0.1", "port": source.port}],
                "target": {"host": "127.0.0.1", "port": target.port},
            }}),
        )?;
        let id = json!({"id": created["id"]});
        self.call("TaskService/StartTask", &id)?;
        until("a shard that follows", || Ok(self.call("TaskService/GetTask", &id)?["readyToComplete"] == true))?;
        Ok(id)
    }
}

#[test]
fn an_interrupted_task_is_told_to_every_receiver_once_and_resolved_when_it_goes_on() -> Result<()> {
    let (mut source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    let (hook, alertmanager, (smtp, letters)) = (Hook::start(2)?, Alertmanager::start()?, smtp()?);
    let mut fleet = Fleet::start()?;
    let _agent = fleet.agent("first")?;
    std::fs::write(fleet.path("secret"), SECRET)?;
    let created = fleet.dts(&[
        "alarm",
        "policy",
        "create",
        "--name",
        "watch",
        "--task-name",
        "orders-*",
        "--when",
        "interrupted",
        "--when",
        "failed",
        "--when",
        "lag>1h",
        "--webhook",
        &format!("http://127.0.0.1:{}/hook", hook.port),
        "--webhook-secret-file",
        &fleet.path("secret"),
        "--alertmanager",
        &format!("http://127.0.0.1:{}", alertmanager.port),
        "--email-to",
        "Ops <ops@example.com>",
        "--email-from",
        "dts@example.com",
        "--smtp-server",
        &format!("127.0.0.1:{smtp}"),
        "--smtp-security",
        "none",
    ])?;
    let policy = created[0]["id"].as_str().context("an id")?.to_owned();
    let task = fleet.task(&source, &target)?;

    source.kill()?;
    until("the alarm", || Ok(!hook.messages().is_empty() && !locked(&letters).is_empty()))?;
    ensure!(*locked(&hook.refuse) == 0, "it was not refused first");
    let raised = hook.messages()[0].clone();
    for (field, expected) in [
        ("event", json!("raised")),
        ("kind", json!("INTERRUPTED")),
        ("need", json!("WILL_RETRY")),
        ("task", json!({"id": task["id"], "name": "orders-eu"})),
        ("resolved_at", Value::Null),
    ] {
        ensure!(raised[field] == expected, "{field}: {raised}");
    }
    ensure!(raised["reason"]["code"].as_str().is_some_and(|code| code.starts_with("SOURCE_")), "{raised}");
    until("Alertmanager", || Ok(alertmanager.active()?.len() == 1))?;
    let labels = alertmanager.active()?[0]["labels"].clone();
    ensure!(labels["alertname"] == "DtsInterrupted" && labels["severity"] == "warning", "{labels}");
    let letter = locked(&letters)[0].clone();
    for part in ["RCPT TO:<ops@example.com>", "will retry: orders-eu: the task is interrupted", "SOURCE_"] {
        ensure!(letter.contains(part), "no {part} in {letter}");
    }
    let on = fleet.dts(&["alarm", "list"])?;
    ensure!(on.len() == 1 && on[0]["id"] == raised["id"] && on[0]["resolved_at"].is_null(), "{on:?}");

    // A coordinator that is killed and comes back knows what it has told.
    fleet.coordinate()?;
    until("the agent to be back", || {
        Ok(fleet.call("FleetService/ListAgents", &json!({}))?.to_string().contains("\"alive\":true"))
    })?;
    ensure!(fleet.dts(&["alarm", "list"])?.len() == 1);

    source.restart()?;
    until("the end of the alarm", || Ok(hook.messages().iter().any(|message| message["event"] == "resolved")))?;
    until("Alertmanager to hear of it", || Ok(alertmanager.active()?.is_empty()))?;
    until("two letters", || Ok(locked(&letters).len() == 2))?;
    until("a history", || Ok(fleet.dts(&["alarm", "list"])?.is_empty()))?;
    let history = fleet.dts(&["alarm", "history"])?;
    ensure!(
        history.len() == 1 && history[0]["deliveries"].as_array().is_some_and(|told| told.len() == 3),
        "{history:?}"
    );
    let events: Vec<Value> = hook.messages().iter().map(|message| message["event"].clone()).collect();
    ensure!(events == ["raised", "resolved"], "{events:?}");
    ensure!(locked(&letters)[1].contains("over: orders-eu"));

    // What was given as a secret is neither in an answer nor in the store.
    let shown = fleet.call("AlarmService/GetAlarmPolicy", &json!({"id": policy}))?.to_string();
    ensure!(shown.contains("\"secretSet\":true") && !shown.contains(SECRET), "{shown}");
    let store = std::fs::read(std::path::Path::new(&fleet.path("c")).join("store.redb"))?;
    ensure!(!String::from_utf8_lossy(&store).contains(SECRET), "the secret stands in the store");

    let tested = fleet.dts(&["alarm", "test", &policy])?;
    ensure!(tested.len() == 3 && tested.iter().all(|told| !told["delivered_at"].is_null()), "{tested:?}");
    ensure!(hook.messages().last().is_some_and(|message| message["event"] == "test"));
    fleet.dts(&["alarm", "policy", "delete", &policy])?;
    until("no policy", || Ok(fleet.dts(&["alarm", "policy", "list"])?.is_empty()))?;
    Ok(())
}

#[test]
fn what_needs_somebody_says_so_and_a_lost_agent_is_told_once_for_all_its_tasks() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    let (hook, fleet) = (Hook::start(0)?, Fleet::start()?);
    let agent = fleet.agent("only")?;
    let receiver =
        json!({"name": "hook", "webhook": {"url": format!("http://127.0.0.1:{}/", hook.port), "secret": SECRET}});
    let kinds = ["ALARM_KIND_NEEDS_DECISION", "ALARM_KIND_AGENT_LOST"];
    let triggers: Vec<Value> = kinds.iter().map(|kind| json!({"kind": kind})).collect();
    let policy = json!({"policy": {"name": "p", "triggers": triggers, "receivers": [receiver], "repeatSeconds": 60},
        "requestId": "once"});
    let created = fleet.call("AlarmService/CreateAlarmPolicy", &policy)?;
    ensure!(fleet.call("AlarmService/CreateAlarmPolicy", &policy)?["id"] == created["id"], "two for one request");
    let task = fleet.task(&source, &target)?;

    // The target takes nothing more: only a person can help.
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut target.connect()?)?;
    redis::cmd("SET").arg("k").arg("v".repeat(1000)).exec(&mut source.connect()?)?;
    until(
        "the task to stop",
        || Ok(fleet.call("TaskService/GetTask", &task)?["state"] == "TASK_STATE_NEEDS_DECISION"),
    )?;
    until("the alarm", || Ok(!hook.messages().is_empty()))?;
    let failed = hook.messages()[0].clone();
    ensure!(failed["kind"] == "NEEDS_DECISION" && failed["need"] == "NEEDS_YOU", "{failed}");
    ensure!(failed["title"].as_str().is_some_and(|title| title.starts_with("needs you: orders-eu")), "{failed}");
    ensure!(failed["reason"]["code"] == "TARGET_FULL", "{failed}");

    drop(agent);
    until("the lost agent", || Ok(hook.messages().iter().any(|message| message["kind"] == "AGENT_LOST")))?;
    let _back = fleet.agent("only")?;
    let over = |message: &Value| message["kind"] == "AGENT_LOST" && message["event"] == "resolved";
    until("the agent to be back", || Ok(hook.messages().iter().any(over)))?;
    let raised = hook.messages().iter().filter(|message| message["event"] == "raised").count();
    ensure!(raised == 2, "{:?}", hook.messages());

    let id = json!({"id": created["id"], "policy": {"disabled": true}, "updateMask": {"paths": ["disabled"]}});
    ensure!(fleet.call("AlarmService/UpdateAlarmPolicy", &id)?["disabled"] == true);
    until("everything to be over", || {
        let on = fleet.call("AlarmService/ListAlarms", &json!({"on": true}))?;
        Ok(on["alarms"].as_array().is_none_or(Vec::is_empty))
    })?;
    // Pages, newest first.
    let first = fleet.call("AlarmService/ListAlarms", &json!({"pageSize": 1}))?;
    let second = fleet.call("AlarmService/ListAlarms", &json!({"pageSize": 1, "pageToken": first["nextPageToken"]}))?;
    ensure!(first["alarms"][0]["kind"] == "ALARM_KIND_AGENT_LOST", "{first}");
    ensure!(
        second["alarms"][0]["kind"] == "ALARM_KIND_NEEDS_DECISION" && second["nextPageToken"].is_null(),
        "{second}"
    );
    Ok(())
}
