//! Traces and structured logs: one trace from a command of the operator to the phases of a shard, at a receiver of the real protocol.

use std::collections::HashSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::etcd::Etcd;
use dts_tests::port::free_port;
use dts_tests::server::Server;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::fleet::{grpcurl, role};
use crate::{locked, until};

/// What came, each span with the service that it is of.
type Spans = Arc<Mutex<Vec<(String, Span)>>>;

struct Collector(Spans);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let named = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match named.and_then(|attribute| attribute.value?.value) {
                Some(Any::StringValue(service)) => service,
                _ => String::new(),
            };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            locked(&self.0).extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector; ends with the process of the tests.
fn collector() -> Result<(u16, Spans)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let (port, spans) = (listener.local_addr()?.port(), Spans::default());
    let service = TraceServiceServer::new(Collector(Spans::clone(&spans)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await?;
            anyhow::Ok(())
        })
    });
    Ok((port, spans))
}

#[test]
fn a_command_given_to_a_follower_is_one_trace_down_to_the_phases_of_the_shard() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    let (port, spans) = collector()?;
    let otlp = format!("http://127.0.0.1:{port}");
    let (dir, etcd) = (tempfile::tempdir()?, Etcd::start(1)?);
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("seal"), [7; 32])?;
    let addresses: Vec<String> = (0..2).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let coordinator = |address: &String| {
        let etcd = etcd.endpoints().join(",");
        let arguments = ["coordinator", "--listen", address, "--etcd", &etcd, "--seal-key-file", &path("seal")];
        role(&[&arguments[..], &["--otlp-endpoint", &otlp]].concat())
    };
    let _coordinators = [coordinator(&addresses[0])?, coordinator(&addresses[1])?];
    let agents = |address: &String| grpcurl(address, &["dts.v1.FleetService/ListAgents"]);
    until("both to know who leads", || Ok(addresses.iter().all(|address| agents(address).is_ok())))?;
    let leader = etcd.ctl(&["get", "/dts/leader", "--print-value-only"])?;
    let follower = addresses.iter().find(|address| !leader.trim().ends_with(*address)).context("a follower")?;

    let log = std::fs::File::create(path("log"))?;
    let mut agent = Command::new(binary()?)
        .args(["agent", "--name", "only", "--coordinator", follower, "--state-dir", &path("a"), "--log-format", "json"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &otlp)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let dts = |arguments: &[&str]| -> Result<Value> {
        let mut command = Command::new(binary()?);
        command.args(["task"]).args(arguments).args(["--coordinator", follower, "--json", "--otlp-endpoint", &otlp]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let task = dts(&["create", "--name", "traced", "--source", &source.url(), "--target", &target.url()])?;
    let id = task["id"].as_str().context("an id")?.to_owned();
    dts(&["start", &id])?;
    until("a shard that follows", || Ok(dts(&["get", &id])?["ready_to_complete"] == true))?;
    dts(&["complete", &id])?;
    until("completion", || Ok(dts(&["get", &id])?["phase"] == "COMPLETED"))?;

    let expected = [
        ("dts-cli", "dts task"),
        ("dts-coordinator", "dts.v1.TaskService/StartTask"),
        ("dts-coordinator", "forward"),
        ("dts-coordinator", "assign"),
        ("dts-agent", "shard"),
        ("dts-agent", "VERIFYING"),
        ("dts-agent", "COPYING"),
        ("dts-agent", "STREAMING"),
    ];
    let mut missing = Vec::new();
    let traced = until("the trace", || {
        let spans = locked(&spans);
        let Some((_, shard)) = spans.iter().find(|(_, span)| span.name == "shard") else { return Ok(false) };
        let trace: Vec<_> = spans.iter().filter(|(_, span)| span.trace_id == shard.trace_id).collect();
        missing = expected
            .into_iter()
            .filter(|(service, name)| !trace.iter().any(|(of, span)| of == service && span.name == *name))
            .collect();
        // Nobody is without its parent, but the command itself.
        let known: HashSet<&[u8]> = trace.iter().map(|(_, span)| span.span_id.as_slice()).collect();
        let roots = trace.iter().filter(|(_, span)| !known.contains(span.parent_span_id.as_slice())).count();
        let calls = trace.iter().filter(|(_, span)| span.name == "dts.v1.TaskService/StartTask").count();
        Ok(missing.is_empty() && roots == 1 && calls == 2)
    });
    let seen: Vec<_> = locked(&spans).iter().map(|(of, span)| format!("{of} {}", span.name)).collect();
    traced.with_context(|| format!("missing {missing:?} of {seen:?}"))?;

    // Every line of the agent's log is JSON, and what it says of the shard names task, shard and epoch.
    agent.kill()?;
    agent.wait()?;
    let log = std::fs::read_to_string(path("log"))?;
    let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>().context(log.clone())?;
    let of_shard = |line: &&Value| line["span"]["task"] == id.as_str() && line["span"]["epoch"].as_u64() > Some(0);
    ensure!(lines.iter().any(|line| of_shard(&line) && line["span"]["shard"] == 0), "{log}");
    Ok(())
}

#[test]
fn a_collector_that_never_answers_keeps_nobody() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    redis::cmd("SET").arg("k").arg("v").exec(&mut source.connect()?)?;
    // It takes connections, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let otlp = format!("http://{}", silent.local_addr()?);
    let dir = tempfile::tempdir()?;
    let begun = Instant::now();
    let mut child = Command::new(binary()?)
        .args(["migrate", "--source", &source.url(), "--target", &target.url(), "--complete-when", "caught-up"])
        .args(["--otlp-endpoint", &otlp, "--json", "--state-dir"])
        .arg(dir.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    until("the migration to end", || Ok(child.try_wait()?.is_some()))?;
    ensure!(child.wait()?.success(), "it failed");
    ensure!(begun.elapsed() < Duration::from_secs(60));
    let moved: String = redis::cmd("GET").arg("k").query(&mut target.connect()?)?;
    ensure!(moved == "v");
    Ok(())
}
