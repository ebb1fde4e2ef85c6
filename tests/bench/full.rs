//! A full copy: from the command to the last key.

use std::time::Instant;

use anyhow::{Result, ensure};
use dts_tests::server::Server;
use dts_tests::usage::{Watch, cpu_seconds};

use crate::Plan;
use crate::contender::keys;
use crate::report::Table;

pub(crate) fn run(plan: &Plan) -> Result<Table> {
    let source = Server::start(&plan.server, &["--repl-diskless-sync-delay", "0"])?;
    plan.dataset.fill(&source)?;
    let title = format!(
        "Full copy of {} {}, {}{}, {} rounds, medians",
        plan.dataset.keys,
        plan.dataset.name(),
        plan.server,
        plan.distance(),
        plan.rounds
    );
    let columns = ["wall s", "tool CPU s", "source CPU s", "target CPU s", "tool peak MiB"];
    let mut table = Table::new(title, &columns);
    for round in 0..plan.rounds {
        // In turn, so that a disturbance of the machine hits everybody.
        for contender in &plan.contenders {
            let target = Server::start(&plan.server, &["--repl-diskless-sync-delay", "0"])?;
            let cpu = |server: &Server| cpu_seconds(server.pid()).unwrap_or(0.0);
            let before = (cpu(&source), cpu(&target));
            let begun = Instant::now();
            let mut started = contender.start(&source, &target, true, plan.apart)?;
            let watch = started.pid().map(Watch::start);
            contender.wait_for_copy(&mut started, &source, &target, true)?;
            let wall = begun.elapsed().as_secs_f64();
            let (tool_cpu, tool_peak) = watch.map(Watch::stop).unwrap_or_default();
            let after = (cpu(&source), cpu(&target));
            ensure!(keys(&target)? >= keys(&source)?, "{} lost keys", contender.name());
            drop(started);
            table.add(&contender.name(), &[wall, tool_cpu, after.0 - before.0, after.1 - before.1, tool_peak]);
            eprintln!("full copy, round {}: {} {wall:.2} s", round + 1, contender.name());
        }
    }
    Ok(table)
}
