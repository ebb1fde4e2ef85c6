//! One look at a shard: reach and login first, then everything else side by side.

use std::sync::Mutex;
use std::time::Duration;

use dts_common::error::{Code, Error, Result, Scope};
use dts_proto::v1::{CheckResult, Figures, Severity};
use futures_util::StreamExt as _;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::found::Found;
use super::item::{CHECK, Item, TEST};
use super::rates::{Ways, Writes};
use super::{backlog, data, network, reload, rights, room, server, target, traffic};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::target::Destination;
use crate::topology::Kind;
use crate::verify;

/// Items that are looked at at a time: each has connections of its own, and the source serves others.
const AT_ONCE: usize = 6;

/// What the looks of one shard share.
pub(super) struct Shard<'a> {
    pub(super) job: &'a Job,
    /// Where the source's data is now.
    pub(super) source: Endpoint,
    pub(super) destination: Destination,
    /// How long to measure rates.
    pub(super) sample: Duration,
    pub(super) figures: Mutex<Figures>,
    /// Measured by the first item that asks.
    pub(super) writes: OnceCell<Writes>,
    pub(super) ways: OnceCell<Ways>,
}

impl Shard<'_> {
    pub(super) async fn from(&self) -> Result<Client> {
        Client::connect(&self.source, Side::Source).await
    }

    /// The target, or any master of it.
    pub(super) async fn to(&self) -> Result<Client> {
        verify::client(&self.destination).await
    }

    /// Every server that holds keys of the target.
    pub(super) async fn to_each(&self) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for server in self.destination.servers().await? {
            clients.push(Client::connect(&server, Side::Target).await?);
        }
        Ok(clients)
    }

    /// Notes what was measured.
    pub(super) fn figure(&self, note: impl FnOnce(&mut Figures)) {
        note(&mut self.figures.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

/// All items, or those of the connectivity test.
pub(super) async fn look(job: &Job, test: bool, sample: Duration) -> (Vec<CheckResult>, Figures) {
    let figures = Figures { shard_index: job.shard.index, ..Figures::default() };
    let (destination, target) = reach_target(job).await;
    let (source, mut results) = reach_source(job, destination.as_ref()).await;
    results.extend(target);
    let (Some(source), Some(destination)) = (source, destination) else {
        let rest = if test { &[][..] } else { CHECK };
        let unseen =
            |item: &Item| Found::unknown("not looked at: a server was not reached").result(item, Duration::ZERO);
        // That a server was not reached blocks already.
        results.extend(rest.iter().map(unseen));
        return (results, figures);
    };
    if test {
        return (results, figures);
    }
    let (figures, writes, ways) = (Mutex::new(figures), OnceCell::new(), OnceCell::new());
    let shard = Shard { job, source, destination, sample, figures, writes, ways };
    let mut looks = Vec::new();
    for item in CHECK {
        looks.push(one(item, &shard));
    }
    results.extend(futures_util::stream::iter(looks).buffered(AT_ONCE).collect::<Vec<_>>().await);
    let figures = shard.figures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    (results, figures)
}

async fn one(item: &Item, shard: &Shard<'_>) -> CheckResult {
    let begun = Instant::now();
    let late = format!("no answer within {} s", item.limit.as_secs());
    let found = timeout(item.limit, Box::pin(at(item.id, shard))).await;
    found.unwrap_or_else(|_| Found::unknown(late)).result(item, begun.elapsed())
}

async fn at(id: &str, shard: &Shard<'_>) -> Found {
    let behind = !id.starts_with("src.") && !["dst.fence", "agent.disk"].contains(&id);
    if matches!(shard.destination, Destination::Routed(_)) && behind {
        // Whoever routes hides what is behind; what can be known is looked at in VERIFYING, before anything is written.
        return Found::unknown("the target routes by itself: it is looked at when the task starts")
            .weighing(Severity::Informs);
    }
    match id {
        "src.topology" => server::whole(shard, false).await,
        "src.slots" => server::whole(shard, true).await,
        "id.distinct" => Found::gate(server::are_two(shard).await),
        "src.running" => server::runs(shard).await,
        "src.rights" => Found::asked(rights::of_source(shard).await),
        "dst.role" => Found::gate(server::takes_writes(shard).await),
        "dst.empty" => Found::gate(server::is_ours_to_fill(shard).await),
        "dst.databases" => Found::gate(server::databases_fit(shard).await),
        "kind.version" => server::versions_fit(shard).await,
        "dst.rights" => Found::asked(rights::of_target(shard).await),
        "dst.eviction" => server::eviction(shard).await,
        "dst.accepts" => target::accepts(shard).await,
        "dst.reload" => reload::has_all(shard).await,
        "dst.slots" => target::rests(shard).await,
        "dst.writers" => target::others(shard).await,
        "dst.fence" => target::fence(shard).await,
        "dst.guard" => target::guard(shard).await,
        "dst.memory" => room::target(shard).await,
        "src.fork" => room::fork(shard).await,
        "agent.disk" => room::disk(shard).await,
        "src.failover" => traffic::failover(shard).await,
        "src.modules" => traffic::modules(shard).await,
        "src.cross_slot" => traffic::over_slots(shard).await,
        "src.reserved" => data::reserved(shard).await,
        "src.big_keys" => data::big_keys(shard).await,
        "src.backlog" => backlog::lasts(shard).await,
        "src.output_buffer" => backlog::output_buffer(shard).await,
        "src.timeout" => backlog::timeout(shard).await,
        "net.clocks" => network::clocks(shard).await,
        "net.quality" => network::quality(shard).await,
        "net.catch_up" => network::catches_up(shard).await,
        other => Found::unknown(format!("this agent does not know {other}")),
    }
}

/// A source that moves by a name, or is found by what it owns, is looked for.
async fn reach_source(job: &Job, destination: Option<&Destination>) -> (Option<Endpoint>, Vec<CheckResult>) {
    let begun = Instant::now();
    let reached = async {
        let at = match (&job.topology.kind, destination) {
            (Kind::Sentinel(..) | Kind::Cluster, Some(destination)) => match verify::whose(job, destination).await {
                Ok((at, ..)) => at,
                // Reached, and not as it should be: that is an item of its own.
                Err(error) if error.code.is_of_topology() || is_of_target(&error) => job.source.clone(),
                Err(error) => return Err(error),
            },
            _ => job.source.clone(),
        };
        Client::connect(&at, Side::Source).await.map(|_| at)
    };
    told(timeout(TEST[0].limit, Box::pin(reached)).await, [&TEST[0], &TEST[1]], begun)
}

async fn reach_target(job: &Job) -> (Option<Destination>, Vec<CheckResult>) {
    let begun = Instant::now();
    told(timeout(TEST[2].limit, Box::pin(verify::destination(job))).await, [&TEST[2], &TEST[3]], begun)
}

type Within<T> = std::result::Result<Result<T>, tokio::time::error::Elapsed>;

/// Two items from one attempt: who takes a wrong login was reached.
fn told<T>(ended: Within<T>, [reach, auth]: [&Item; 2], begun: Instant) -> (Option<T>, Vec<CheckResult>) {
    let took = begun.elapsed();
    let (reached, [first, second]) = match ended {
        Ok(Ok(reached)) => (Some(reached), [Found::fine(), Found::fine()]),
        Ok(Err(error)) if is_of_login(error.code) => (None, [Found::fine(), Found::Failed(error.into())]),
        Ok(Err(error)) => (None, [Found::Failed(error.into()), Found::unknown("it was not reached")]),
        Err(_) => {
            let code = if reach.id.starts_with("src") { Code::SourceUnreachable } else { Code::TargetUnreachable };
            let late = Error::new(code, format!("no answer within {} s", reach.limit.as_secs()));
            (None, [Found::Failed(late.into()), Found::unknown("it was not reached")])
        }
    };
    (reached, vec![first.result(reach, took), second.result(auth, took)])
}

/// Whose slots are whose the target knows too.
pub(super) fn is_of_target(error: &Error) -> bool {
    error.code.scope() == Scope::Target
}

fn is_of_login(code: Code) -> bool {
    matches!(code, Code::SourceAuth | Code::TargetAuth | Code::SourcePermission | Code::TargetPermission)
}
