//! Metrics of coordinator and agent, as a real Prometheus reads them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use dts_tests::http;
use dts_tests::load::Load;
use dts_tests::port::free_port;
use dts_tests::server::{Server, root};
use serde_json::{Value, json};

use crate::fleet::{Role, grpcurl, program, role};
use crate::until;

const PASSWORD: &str = "correct-horse-battery";
const KEY: &str = "customer:4711:iban";

/// A coordinator and an agent that show their metrics, and a task.
struct Shown {
    address: String,
    coordinator: u16,
    agent: u16,
    task: String,
    _dir: tempfile::TempDir,
    _roles: [Role; 2],
}

impl Shown {
    fn start(source: &Server, target: &Server) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (address, coordinator, agent) = (format!("127.0.0.1:{}", free_port()), free_port(), free_port());
        let at = |port: u16| format!("127.0.0.1:{port}");
        let coordinates = role(&[
            "coordinator",
            "--listen",
            &address,
            "--state-dir",
            &path("c"),
            "--metrics-listen",
            &at(coordinator),
        ])?;
        let works = role(&[
            "agent",
            "--name",
            "first",
            "--coordinator",
            &address,
            "--state-dir",
            &path("a"),
            "--metrics-listen",
            &at(agent),
        ])?;
        until("the coordinator", || Ok(grpcurl(&address, &["list"]).is_ok()))?;
        let spec = json!({"spec": {
            "name": "orders", "mode": "MODE_SYNC",
            "sources": [{"host": "127.0.0.1", "port": source.port, "credential": {"password": PASSWORD}}],
            "target": {"host": "127.0.0.1", "port": target.port},
        }});
        let created = grpcurl(&address, &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"])?;
        let task = json!({"id": serde_json::from_str::<Value>(&created)?["id"]}).to_string();
        let shown = Self { address, coordinator, agent, task, _dir: dir, _roles: [coordinates, works] };
        shown.call("StartTask")?;
        Ok(shown)
    }

    fn call(&self, method: &str) -> Result<Value> {
        let answer = grpcurl(&self.address, &["-d", &self.task, &format!("dts.v1.TaskService/{method}")])?;
        Ok(serde_json::from_str(&answer)?)
    }

    fn pages(&self) -> Result<[String; 2]> {
        Ok([http::get(self.coordinator, "/metrics")?, http::get(self.agent, "/metrics")?])
    }
}

/// The value of the first series whose line begins so.
fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let fits = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    page.lines().find(fits)?.rsplit(' ').next()?.parse().ok()
}

/// Names that a page has a type for.
fn names(page: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned());
    page.lines().filter_map(name).collect()
}

fn promtool(page: &str) -> Result<()> {
    let mut tool = Command::new(root().join(".fleet/prometheus/bin/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run `make setup`")?;
    tool.stdin.take().context("stdin")?.write_all(page.as_bytes())?;
    let output = tool.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

struct Prometheus {
    _process: Role,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Prometheus {
    fn start(scraped: &[(&str, u16)]) -> Result<Self> {
        let (dir, port) = (tempfile::tempdir()?, free_port());
        let jobs: String = scraped
            .iter()
            .map(|(job, at)| format!("  - job_name: {job}\n    static_configs: [{{targets: ['127.0.0.1:{at}']}}]\n"))
            .collect();
        let config = dir.path().join("prometheus.yml");
        std::fs::write(
            &config,
            format!("global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}\nscrape_configs:\n{jobs}"),
        )?;
        let process = program(
            &root().join(".fleet/prometheus/bin/prometheus"),
            &[
                &format!("--config.file={}", config.display()),
                &format!("--storage.tsdb.path={}", dir.path().join("data").display()),
                &format!("--web.listen-address=127.0.0.1:{port}"),
            ],
        )?;
        Ok(Self { _process: process, _dir: dir, port })
    }

    /// The values that a query gives now.
    fn query(&self, query: &str) -> Result<Vec<f64>> {
        let path = format!("/api/v1/query?query={}", http::escaped(query));
        let Ok(answer) = http::get(self.port, &path) else { return Ok(Vec::new()) };
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let value = |found: &Value| found["value"][1].as_str()?.parse().ok();
        Ok(answer["data"]["result"].as_array().map(|all| all.iter().filter_map(value).collect()).unwrap_or_default())
    }
}

#[test]
fn a_real_prometheus_reads_every_documented_metric_and_loses_the_series_of_an_ended_task() -> Result<()> {
    let options = ["--requirepass", PASSWORD, "--repl-diskless-sync-delay", "0", "--repl-backlog-size", "1mb"];
    let (source, target) = (Server::start("redis-7.0", &options)?, Server::start("redis-7.0", &[])?);
    redis::cmd("SET").arg(KEY).arg("DE00").exec(&mut source.connect()?)?;
    let load = Load::start(&source)?;
    let shown = Shown::start(&source, &target)?;
    let prometheus = Prometheus::start(&[("coordinator", shown.coordinator), ("agent", shown.agent)])?;
    until("a shard that follows", || Ok(shown.call("GetTask")?["readyToComplete"] == true))?;

    // What the documentation lists is there, and nothing else of ours.
    let documented: Vec<(String, bool)> = std::fs::read_to_string(root().join("docs/metrics.md"))?
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| `")?.split('`').next()?.to_owned(), line.contains("no series"))))
        .collect();
    until("every metric", || {
        let found = shown.pages()?.map(|page| names(&page)).concat();
        Ok(documented.iter().all(|(name, rare)| *rare || found.contains(name)))
    })
    .with_context(|| {
        let found = shown.pages().map(|pages| pages.map(|page| names(&page)).concat()).unwrap_or_default();
        let missing: Vec<_> = documented.iter().filter(|(name, _)| !found.contains(name)).collect();
        format!("not on the pages: {missing:?}")
    })?;
    for page in shown.pages()? {
        for name in names(&page).iter().filter(|name| name.starts_with("dts_")) {
            ensure!(documented.iter().any(|(known, _)| known == name), "{name} is not documented");
        }
        promtool(&page)?;
        for secret in [PASSWORD, KEY, "iban"] {
            ensure!(!page.contains(secret), "{secret} is on the page");
        }
    }

    // A target that does not answer: the lag grows in bytes and in seconds, and the backlog is forecast.
    target.freeze(true)?;
    until("a lag", || {
        let hop = ["hop=\"received_to_applied\""];
        let behind = |page: &String| {
            value(page, "dts_shard_lag_bytes", &hop) > Some(0.0)
                && value(page, "dts_shard_lag_seconds", &hop) > Some(1.0)
                && value(page, "dts_shard_backlog_left_seconds", &[]).is_some()
        };
        Ok(shown.pages()?.iter().all(behind))
    })?;
    until("Prometheus to see the lag", || {
        let lag = prometheus.query("dts_shard_lag_seconds{hop=\"received_to_applied\"}")?;
        Ok(lag.len() == 2 && lag.iter().all(|lag| *lag > 0.0))
    })?;
    target.freeze(false)?;
    load.stop()?;
    ensure!(prometheus.query("dts_coordinator_leads")? == [1.0]);
    ensure!(prometheus.query("dts_task_state{state=\"INCR_SYNC\"} or dts_task_state{state=\"INTERRUPTED\"}")? == [1.0]);

    until("completion", || {
        // Not allowed while the task is interrupted, and when it is completing already.
        let _asked_or_refused = shown.call("CompleteTask");
        Ok(shown.call("GetTask")?["state"] == "TASK_STATE_COMPLETED")
    })?;
    until("the series to end", || {
        let pages = shown.pages()?;
        Ok(pages.iter().all(|page| !page.contains("\ndts_shard_")) && prometheus.query("dts_shard_phase")?.is_empty())
    })?;
    ensure!(prometheus.query("dts_tasks{state=\"COMPLETED\"}")? == [1.0]);
    ensure!(prometheus.query("count(up == 1)")? == [2.0]);
    Ok(())
}
